"""`ctllm.cloud.proxies.start_limiter`: slots, and how long a caller would wait for one."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.proxies.start_limiter import StartLimiter


class StartLimiterTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.limiter = StartLimiter(self.clock, 2)

    def acquire(self) -> Deferred[Callable[[], None]]:
        return Deferred.fromCoroutine(self.limiter.acquire())

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
        self.assertEqual(self.limiter.expected_wait, 0)
        self.clock.advance(40)
        release()
        for _ in range(31):
            self.acquire()
        self.assertEqual(self.limiter.expected_wait, 31 * 10 // 2)
