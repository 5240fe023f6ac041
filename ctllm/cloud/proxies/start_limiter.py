"""How many proxies start at once: each start takes a turn, and gives it back when it is over.

What has begun is finished before more begins: on a machine that is slow, more starts at once would
only make each of them slower, until none is finished in its time.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from twisted.internet.defer import DeferredSemaphore

from ctllm.reactor.interfaces import Clock

#: How much of the average of the time that turns take is the last turn's.
SMOOTHING_FACTOR = 0.25


class StartLimiter:
    """`count` turns at once."""

    def __init__(self, clock: Clock, limit: int) -> None:
        self._clock, self._limit = clock, limit
        self._semaphore = DeferredSemaphore(limit)
        self._average_duration = 0.0

    @property
    def expected_wait(self) -> int:
        """In how many seconds whoever came last would have a turn, as things go now."""
        return math.ceil((len(self._semaphore.waiting) + 1) * self._average_duration / self._limit)

    async def acquire(self) -> Callable[[], None]:
        """Wait for a turn; gives what gives it back, as often as it is called. May be cancelled."""
        await self._semaphore.acquire()
        began: list[float] = [self._clock.seconds()]

        def release() -> None:
            if began:
                duration = self._clock.seconds() - began.pop()
                self._average_duration += SMOOTHING_FACTOR * (duration - self._average_duration)
                self._semaphore.release()

        return release
