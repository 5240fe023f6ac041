"""What a proxy does beside answering."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.proxy.service import Sweeping


class Rendezvous:
    """Counts how often it was swept."""

    swept = 0
    broken = False

    def sweep(self) -> None:
        self.swept += 1
        if self.broken:
            raise ValueError("why")


class SweepingTests(SynchronousTestCase):
    """By a clock of the test's own."""

    def setUp(self) -> None:
        self.clock, self.rendezvous = Clock(), Rendezvous()
        self.sweeping = Sweeping(cast(Any, self.rendezvous), self.clock)
        self.sweeping.startService()

    def test_each_second(self) -> None:
        """Once at the start and then each second, until it is stopped."""
        self.clock.pump([1.0, 1.0, 1.0])
        self.assertEqual(self.rendezvous.swept, 4)
        self.sweeping.stopService()
        self.clock.pump([1.0, 1.0])
        self.assertEqual((self.rendezvous.swept, self.clock.getDelayedCalls()), (4, []))

    def test_a_defect(self) -> None:
        """One is in the log, and does not keep the next sweep from coming."""
        self.rendezvous.broken = True
        self.clock.advance(1.0)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.rendezvous.broken = False
        self.clock.advance(1.0)
        self.assertEqual(self.rendezvous.swept, 3)
        self.sweeping.stopService()
