"""Periodic calls go on after an exception."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.errors import BadGateway
from ctllm.reactor.periodic import PeriodicCall, PeriodicService


class Broken(Exception):
    """An unexpected exception."""


class Work:
    """Counts its calls; raises `error`, or returns `waiting`."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: Exception | None = None
        self.waiting: Deferred[None] | None = None

    def __call__(self, *_: Any) -> Any:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return self.waiting


class PeriodicTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.work = Clock(), Work()
        self.service = PeriodicService(1.0, self.work, self.clock, "the work")
        self.service.startService()

    def test_calls_at_the_start_and_at_each_interval_until_stopped(self) -> None:
        self.clock.pump([1.0, 1.0, 1.0])
        self.assertEqual(self.work.calls, 4)
        self.service.stopService()
        self.clock.pump([1.0, 1.0])
        self.assertEqual((self.work.calls, self.clock.getDelayedCalls()), (4, []))

    def test_logs_the_same_exception_once_and_goes_on(self) -> None:
        self.work.error = Broken("one")
        self.clock.pump([1.0] * 5)
        self.assertEqual(self.work.calls, 6)
        self.assertEqual(len(self.flushLoggedErrors(Broken)), 1)
        self.work.error = Broken("two")
        self.clock.pump([1.0] * 5)
        self.assertEqual(len(self.flushLoggedErrors(Broken)), 1)
        self.work.error = None
        self.clock.advance(1.0)
        self.work.error = Broken("two")
        self.clock.advance(1.0)
        self.assertEqual(len(self.flushLoggedErrors(Broken)), 1)
        self.service.stopService()

    def test_logs_an_error_of_ctllm_without_a_traceback(self) -> None:
        self.work.error = BadGateway("nobody is there")
        self.clock.pump([1.0] * 2)
        self.assertEqual(self.work.calls, 3)
        self.service.stopService()

    def test_waits_for_a_call_that_takes_longer_than_the_interval(self) -> None:
        waiting = self.work.waiting = Deferred()
        self.clock.pump([1.0] * 5)
        self.assertEqual(self.work.calls, 2)
        self.work.waiting = None
        waiting.errback(Broken())
        self.clock.pump([1.0] * 2)
        self.assertEqual(self.work.calls, 4)
        self.assertEqual(len(self.flushLoggedErrors(Broken)), 1)
        self.service.stopService()

    def test_stop_cancels_the_call_in_progress(self) -> None:
        cancelled: list[Any] = []
        self.work.waiting = Deferred(cancelled.append)
        self.clock.advance(1.0)
        self.service.stopService()
        self.assertEqual(len(cancelled), 1)

    def test_work_may_be_a_coroutine(self) -> None:
        async def work() -> None:
            self.work.calls += 10

        periodic = PeriodicCall(work, self.clock, "that")
        periodic.start(2.0, now=False)
        self.service.stopService()
        self.clock.pump([1.0] * 4)
        self.assertEqual(self.work.calls, 21)
        periodic.stop()
