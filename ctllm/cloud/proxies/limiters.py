"""Limits for how many proxies start, are replaced, and are removed at the same time.

What has begun finishes before other work begins. On a slow machine, more at once would make each of
them slower, until none finishes before its timeout.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import cast

from twisted.internet.defer import Deferred, DeferredSemaphore

from ctllm.reactor.interfaces import Clock

#: How many of the latest durations count. So a start that took very long does not, for long.
MEASURED_STARTS = 16
#: Seconds between two replacements of proxies. Each needs a start.
REPLACEMENT_INTERVAL = 2.0
#: How many proxies are removed at once. More take Docker as long for each, and fail at its client's
#: timeout.
CONCURRENT_REMOVALS = 4


class RemovalLimiter:
    """Limits how many proxies are removed at once. Those of revoked users wait for no others."""

    def __init__(self, limit: int = CONCURRENT_REMOVALS) -> None:
        self._slots, self._urgent_slots = DeferredSemaphore(limit), DeferredSemaphore(limit)

    def slot(self, is_urgent: bool) -> DeferredSemaphore:
        """Return the asynchronous context manager that waits for a slot and has it."""
        return self._urgent_slots if is_urgent else self._slots


class ReplacementLimiter:
    """Spaces replacements of proxies out, so that they do not delay the starts of others."""

    def __init__(self, clock: Clock, interval: float = REPLACEMENT_INTERVAL) -> None:
        self._clock, self._interval = clock, interval
        self._next = -math.inf

    def try_acquire(self) -> bool:
        """Return whether a proxy may be replaced now."""
        now = self._clock.seconds()
        if now < self._next:
            return False
        self._next = now + self._interval
        return True


class StartLimiter:
    """A semaphore with `limit` slots that measures for how long each slot is held."""

    def __init__(self, clock: Clock, limit: int) -> None:
        self._clock, self._limit = clock, limit
        self._semaphore = DeferredSemaphore(limit)
        self._durations: deque[float] = deque(maxlen=MEASURED_STARTS)

    @property
    def is_idle(self) -> bool:
        """Whether nobody has a slot or waits for one."""
        return self._semaphore.tokens == self._limit

    def expected_wait(self, acquiring: Deferred[Callable[[], None]]) -> int:
        """Seconds until a call of `acquire` has had its slot, estimated from past durations."""
        queue = cast("list[object]", self._semaphore.waiting)
        place = queue.index(acquiring) + 1 if acquiring in queue else 0
        average = sum(self._durations) / max(1, len(self._durations))
        return math.ceil((place / self._limit + 1) * average)

    def acquire(self) -> Deferred[Callable[[], None]]:
        """Wait for a slot; the result is a function that releases it.

        The function may be called more than once. Cancel the Deferred to leave the queue.
        """
        return self._semaphore.acquire().addCallback(lambda _: self._hold_slot())

    def _hold_slot(self) -> Callable[[], None]:
        acquired_at: list[float] = [self._clock.seconds()]

        def release() -> None:
            if acquired_at:
                self._durations.append(self._clock.seconds() - acquired_at.pop())
                self._semaphore.release()

        return release
