"""`ctllm.cloud.proxies.limiters`: slots, and how long a caller would wait for one."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.proxies.limiters import MEASURED_STARTS, StartLimiter


class StartLimiterTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.limiter = StartLimiter(self.clock, 2)

    def acquire(self) -> Deferred[Callable[[], None]]:
        return self.limiter.acquire()

    def test_a_released_slot_goes_to_the_next_caller(self) -> None:
        release = self.successResultOf(self.acquire())
        self.successResultOf(self.acquire())
        waiting = self.acquire()
        self.assertNoResult(waiting)
        release()
        self.successResultOf(waiting)

    def test_releasing_twice_releases_one_slot(self) -> None:
        release = self.successResultOf(self.acquire())
        self.successResultOf(self.acquire())
        waiting = [self.acquire(), self.acquire()]
        release()
        release()
        self.successResultOf(waiting[0])
        self.assertNoResult(waiting[1])

    def test_expected_wait_follows_from_past_durations_and_the_queue(self) -> None:
        release = self.successResultOf(self.acquire())
        self.successResultOf(self.acquire())
        first = self.acquire()
        self.assertEqual(self.limiter.expected_wait(first), 0)  # nothing is known yet
        self.clock.advance(40)
        release()
        self.assertEqual(self.limiter.expected_wait(first), 40)  # it has its slot
        waiting = [self.acquire() for _ in range(30)]
        self.assertEqual(
            [self.limiter.expected_wait(each) for each in (waiting[0], waiting[-1])],
            [40 // 2 + 40, 30 * 40 // 2 + 40],
        )

    def test_a_start_that_took_long_counts_for_as_many_as_are_measured(self) -> None:
        """One that timed out must not have all others come back late."""
        for seconds in (100, *[1] * MEASURED_STARTS):
            release = self.successResultOf(self.acquire())
            self.clock.advance(seconds)
            release()
        self.assertEqual(self.limiter.expected_wait(self.acquire()), 1)

    def test_who_cancels_leaves_the_queue(self) -> None:
        """The next one has its place."""
        release = self.successResultOf(self.acquire())
        self.successResultOf(self.acquire())
        first, second = self.acquire(), self.acquire()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        release()
        self.successResultOf(second)
