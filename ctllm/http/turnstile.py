"""Beginnings take turns, so that a burst of new requests does not hold up what already streams."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ctllm.http.faces import Clock

#: How many begin in one turn of the reactor. One costs about as much as twenty lines of a stream.
MOST = 4


class Turnstile:
    """Calls what is given to it at once, or in a later turn when many came in this one."""

    def __init__(self, clock: Clock, most: int = MOST) -> None:
        self._clock = clock
        self._most = most
        self._passed = 0
        self._waiting: deque[Callable[[], None]] = deque()

    def enter(self, begin: Callable[[], None]) -> None:
        """Call `begin`, in the order of coming."""
        if not self._passed:
            self._clock.callLater(0, self._turn)
        if self._passed < self._most:
            self._passed += 1
            begin()
        else:
            self._waiting.append(begin)

    def _turn(self) -> None:
        """A new turn has begun."""
        self._passed = 0
        for _ in range(min(self._most, len(self._waiting))):
            self.enter(self._waiting.popleft())
