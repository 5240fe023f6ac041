"""The daemon quits once its requests are finished, or after the timeout."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.graceful_shutdown import GracefulShutdown


class FakeBroker:
    def __init__(self) -> None:
        self.aborted = 0

    def abort_requests(self, error: Any) -> None:
        self.aborted += 1


class GracefulShutdownTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.requests, self.stops = Clock(), 2, 0
        self.broker: Any = FakeBroker()
        self.shutdown = GracefulShutdown(
            self.clock, cast(Any, self.broker), lambda: self.requests, self.stop
        )

    def stop(self) -> None:
        self.stops += 1
        self.shutdown.stopService()

    def test_stops_once_the_requests_are_finished(self) -> None:
        self.assertEqual(self.shutdown.begin(10), 2)
        self.clock.pump([0.1] * 30)
        self.assertEqual(self.stops, 0)
        self.requests = 0
        self.clock.pump([0.1] * 30)
        self.assertEqual((self.stops, self.broker.aborted), (1, 1))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stops_after_the_timeout(self) -> None:
        self.shutdown.begin(10)
        self.clock.pump([0.1] * 99)
        self.assertEqual(self.stops, 0)
        self.clock.pump([0.1] * 5)
        self.assertEqual(self.stops, 1)

    def test_a_second_call_replaces_the_timeout(self) -> None:
        self.shutdown.begin(1000)
        self.shutdown.begin(1)
        self.clock.pump([0.1] * 12)
        self.assertEqual(self.stops, 1)

    def test_does_not_stop_before_the_response_is_sent(self) -> None:
        self.requests = 0
        self.shutdown.begin(0)
        self.assertEqual(self.stops, 0)
