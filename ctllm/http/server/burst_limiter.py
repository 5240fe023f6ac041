"""Limits the requests that start in one turn of the reactor, so that a burst delays no streams."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ctllm.reactor.interfaces import Clock

#: How many requests start in one turn. One costs about as much as twenty lines of a stream.
MAX_PER_TURN = 4
#: How many waiting requests make the throttle overloaded, and how few end that.
HIGH_WATER, LOW_WATER = 256, 64

StartRequest = Callable[[], bool]
"""Starts a request; returns False if its client has disconnected, so that nothing started."""


class RequestThrottle:
    """Starts requests at once, or in a later turn when many came in this one.

    Observers are called with True when `high_water` requests wait, and with False when no more than
    `low_water` do: a listener then stops accepting connections, which cost nothing in its backlog,
    and accepts them again.
    """

    def __init__(
        self,
        clock: Clock,
        max_per_turn: int = MAX_PER_TURN,
        high_water: int = HIGH_WATER,
        low_water: int = LOW_WATER,
    ) -> None:
        self._clock = clock
        self._max_per_turn = max_per_turn
        self._high_water = high_water
        self._low_water = low_water
        self._observers: list[Callable[[bool], None]] = []
        self._started = 0  # in this turn
        self._has_next_turn = False
        self._is_overloaded = False
        self._waiting: deque[StartRequest] = deque()

    def add_observer(self, observer: Callable[[bool], None]) -> None:
        """Call `observer` with whether the throttle is overloaded, each time that it changes."""
        self._observers.append(observer)

    def submit(self, start: StartRequest) -> None:
        """Call `start` once, in the order of submission."""
        if self._started < self._max_per_turn:
            self._start(start)
            return
        self._waiting.append(start)
        if len(self._waiting) >= self._high_water and not self._is_overloaded:
            self._set_overloaded(True)

    def _start(self, start: StartRequest) -> None:
        if not self._has_next_turn:
            self._has_next_turn = True
            self._clock.callLater(0, self._begin_turn)
        self._started += 1
        if not start():
            self._started -= 1

    def _begin_turn(self) -> None:
        self._started, self._has_next_turn = 0, False
        while self._waiting and self._started < self._max_per_turn:
            self._start(self._waiting.popleft())
        if self._is_overloaded and len(self._waiting) <= self._low_water:
            self._set_overloaded(False)

    def _set_overloaded(self, is_overloaded: bool) -> None:
        self._is_overloaded = is_overloaded
        for observer in self._observers:
            observer(is_overloaded)
