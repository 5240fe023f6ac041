"""Coroutines that run at the same time."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from ctllm.reactor.deferred_tools import run_together


class RunTogetherTests(SynchronousTestCase):
    """`run_together` ends when both have ended."""

    def setUp(self) -> None:
        self.first: Deferred[int] = Deferred()
        self.second: Deferred[str] = Deferred()
        self.running = Deferred.fromCoroutine(
            run_together(self.wait(self.first), self.wait(self.second))
        )

    async def wait(self, deferred: Deferred[int] | Deferred[str]) -> int | str:
        return await deferred

    def test_returns_both_results_in_order(self) -> None:
        """It does not matter which one ends first."""
        self.second.callback("b")
        self.assertNoResult(self.running)
        self.first.callback(1)
        self.assertEqual(self.successResultOf(self.running), (1, "b"))

    def test_a_failure_waits_for_the_other(self) -> None:
        """So whoever cleans up afterwards finds all that was made."""
        self.first.errback(ValueError("first"))
        self.assertNoResult(self.running)
        self.second.callback("b")
        self.failureResultOf(self.running, ValueError)

    def test_the_first_of_two_failures_is_raised(self) -> None:
        """The other one is not logged as unhandled."""
        self.second.errback(KeyError("second"))
        self.first.errback(ValueError("first"))
        self.failureResultOf(self.running, ValueError)

    def test_cancelling_cancels_both(self) -> None:
        """One that does not end at once is still waited for."""
        self.running.cancel()
        self.failureResultOf(self.running, CancelledError)
        self.assertTrue(self.first.called and self.second.called)
