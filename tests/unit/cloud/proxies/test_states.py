"""`ctllm.cloud.proxies.states`: the table, its drawing (docs/proxy-states.dot) and the backoff."""

from __future__ import annotations

import math

from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.proxies.states import (
    ACTIVE_STATES,
    TRANSITIONS,
    Backoff,
    EventType,
    State,
)
from ctllm.cloud.proxies.supervisor import STATE_TASKS
from tests.unit.drawings import dot_arrows, drawn_transitions, svg_arrows


class StateTests(SynchronousTestCase):
    def test_every_state_is_reached_from_absent(self) -> None:
        reached, todo = {State.ABSENT}, [State.ABSENT]
        while todo:
            state = todo.pop()
            found = {new for (old, _), new in TRANSITIONS.items() if old is state} - reached
            reached |= found
            todo += found
        self.assertEqual(reached, set(State))

    def test_every_state_but_closed_can_be_left(self) -> None:
        self.assertEqual({state for state, _ in TRANSITIONS}, set(State) - {State.CLOSED})

    def test_every_event_leads_from_some_state(self) -> None:
        self.assertEqual({event for _, event in TRANSITIONS}, set(EventType))

    def test_every_state_has_a_task(self) -> None:
        self.assertEqual(set(STATE_TASKS), set(State))

    def test_an_active_proxy_is_removed_before_it_is_absent_or_failed(self) -> None:
        for (old, event), new in TRANSITIONS.items():
            if old in ACTIVE_STATES and new in (State.ABSENT, State.FAILED):
                self.assertIn(event, (EventType.REMOVED, EventType.QUEUE_TIMED_OUT))

    def test_drawing_has_the_transitions_of_the_table(self) -> None:
        expected = {
            (old.value, new.value, event.value)
            for (old, event), new in TRANSITIONS.items()
            if event is not EventType.CLOUD_STOPPED
        }
        self.assertEqual(drawn_transitions("proxy-states"), expected)

    def test_cloud_stopped_leads_from_every_other_state_to_closed(self) -> None:
        targets = {
            old: new
            for (old, event), new in TRANSITIONS.items()
            if event is EventType.CLOUD_STOPPED
        }
        self.assertEqual(targets, dict.fromkeys(set(State) - {State.CLOSED}, State.CLOSED))

    def test_svg_has_the_arrows_of_the_dot_file(self) -> None:
        self.assertEqual(svg_arrows("proxy-states"), dot_arrows("proxy-states"))


class BackoffTests(SynchronousTestCase):
    def test_delay_doubles_until_a_long_uptime(self) -> None:
        backoff, now, delays = Backoff(), 0.0, []
        for uptime in (1, 1, 1, 1, 40, 1):
            backoff.record_failure(now, uptime)
            delays.append(backoff.remaining(now))
            now += 100
        self.assertEqual(delays, [0, 1, 2, 4, 0, 1])

    def test_remaining_seconds_are_rounded_up(self) -> None:
        backoff = Backoff()
        backoff.record_failure(0.0, 0)
        backoff.record_failure(0.0, 0)
        self.assertEqual([backoff.remaining(0.3), backoff.remaining(1.0)], [math.ceil(0.7), 0])
