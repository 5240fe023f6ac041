"""Beginnings take turns, so that a burst of new requests does not hold up what already streams."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ctllm.reactor.interfaces import Clock

#: How many begin in one turn of the reactor. One costs about as much as twenty lines of a stream.
MAX_PER_TURN = 4
#: As many may wait before it is better that nobody else is let in, and as few that more are.
HIGH_WATER, LOW_WATER = 256, 64

StartRequest = Callable[[], bool]
"""Begins something; False if whoever wanted it has gone, and nothing was done."""


class RequestThrottle:
    """Calls what is given to it at once, or in a later turn when many came in this one.

    Observers are called with True when HIGH_WATER requests wait, and with False when no more than
    LOW_WATER do: a listener then stops accepting connections, and accepts them again.
    """

    def __init__(self, clock: Clock, max_per_turn: int = MAX_PER_TURN) -> None:
        self._observers: list[Callable[[bool], None]] = []
        self._clock = clock
        self._most = max_per_turn
        self._passed = 0  # in this turn
        self._turning = False  # whether there will be another one
        self._crowded = False
        self._waiting: deque[StartRequest] = deque()

    def add_observer(self, observer: Callable[[bool], None]) -> None:
        """Call `observer` with whether the throttle is overloaded, each time that it changes."""
        self._observers.append(observer)

    def submit(self, begin: StartRequest) -> None:
        """Call `begin`, in the order of coming."""
        if self._passed < self._most:
            self._let_in(begin)
            return
        self._waiting.append(begin)
        if len(self._waiting) >= HIGH_WATER and not self._crowded:
            self._tell(True)

    def _let_in(self, begin: StartRequest) -> None:
        if not self._turning:
            self._turning = True
            self._clock.callLater(0, self._turn)
        self._passed += 1
        if not begin():
            self._passed -= 1

    def _turn(self) -> None:
        """A new turn has begun."""
        self._passed, self._turning = 0, False
        while self._waiting and self._passed < self._most:
            self._let_in(self._waiting.popleft())
        if self._crowded and len(self._waiting) <= LOW_WATER:
            self._tell(False)

    def _tell(self, crowded: bool) -> None:
        self._crowded = crowded
        for observer in self._observers:
            observer(crowded)
