"""A limit for how many proxies start at the same time.

Starts that run finish before others begin. On a slow machine, more starts at once would make each
of them slower, until none finishes before its timeout.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from twisted.internet.defer import DeferredSemaphore

from ctllm.reactor.interfaces import Clock

#: Weight of the latest duration in the moving average.
SMOOTHING_FACTOR = 0.25


class StartLimiter:
    """A semaphore with `limit` slots that measures for how long each slot is held."""

    def __init__(self, clock: Clock, limit: int) -> None:
        self._clock, self._limit = clock, limit
        self._semaphore = DeferredSemaphore(limit)
        self._average_duration = 0.0

    @property
    def expected_wait(self) -> int:
        """Seconds that one more caller of `acquire` would wait, estimated from past durations."""
        waiting = len(self._semaphore.waiting) + 1
        return math.ceil(waiting * self._average_duration / self._limit)

    async def acquire(self) -> Callable[[], None]:
        """Wait for a slot and return a function that releases it.

        The function may be called more than once.
        """
        await self._semaphore.acquire()
        acquired_at: list[float] = [self._clock.seconds()]

        def release() -> None:
            if acquired_at:
                duration = self._clock.seconds() - acquired_at.pop()
                self._average_duration += SMOOTHING_FACTOR * (duration - self._average_duration)
                self._semaphore.release()

        return release
