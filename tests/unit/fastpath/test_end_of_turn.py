"""Calls at the end of a turn, by the reactor or, with other clocks, by a timer."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.fastpath.end_of_turn import end_of_turn


class EndOfTurnTests(SynchronousTestCase):
    def test_uses_the_reactors_own_calls(self) -> None:
        class Reactor(Clock):
            at_end: list[Callable[[], object]] = []

            def call_at_end_of_turn(self, function: Callable[[], object]) -> None:
                self.at_end.append(function)

        reactor = Reactor()
        end_of_turn(reactor)(self.test_uses_the_reactors_own_calls)
        self.assertEqual(reactor.at_end, [self.test_uses_the_reactors_own_calls])
        self.assertEqual(reactor.getDelayedCalls(), [])

    def test_uses_the_next_turn_of_other_clocks(self) -> None:
        clock, called = Clock(), [0]
        end_of_turn(clock)(lambda: called.append(1))
        self.assertEqual(called, [0])
        clock.advance(0)
        self.assertEqual(called, [0, 1])
