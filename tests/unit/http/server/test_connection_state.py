"""`ctllm.http.server.connection_state`: the table of states, and its drawing in docs."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ctllm.http.server.connection_state import OPEN_STATES, TABLE, Event, State
from tests.unit.drawings import dot_arrows, drawn_transitions, svg_arrows

END_EVENTS = {Event.ABORT, Event.CONNECTION_LOST}
FINAL_STATES = {State.UPGRADED, State.CLOSED}


class ConnectionStateTests(SynchronousTestCase):
    def test_every_state_has_a_row(self) -> None:
        self.assertEqual(set(TABLE), set(State))

    def test_every_event_leads_from_some_state(self) -> None:
        self.assertEqual({event for row in TABLE.values() for event in row}, set(Event))

    def test_every_state_is_reached_from_the_first(self) -> None:
        reached, todo = {State.ACCEPTED}, [State.ACCEPTED]
        while todo:
            found = set(TABLE[todo.pop()].values()) - reached
            reached |= found
            todo += found
        self.assertEqual(reached, set(State))

    def test_abort_and_loss_close_every_connection_that_is_http(self) -> None:
        for state in set(State) - FINAL_STATES:
            for event in END_EVENTS:
                self.assertIs(TABLE[state][event], State.CLOSED, (state, event))
        self.assertEqual([TABLE[state] for state in FINAL_STATES], [{}, {}])

    def test_a_connection_that_closes_never_opens_again(self) -> None:
        for state in set(State) - OPEN_STATES:
            self.assertEqual(set(TABLE[state].values()) & OPEN_STATES, set(), state)

    def test_drawing_has_the_transitions_of_the_table(self) -> None:
        expected = {
            (state.value, end.value, event.value)
            for state, row in TABLE.items()
            for event, end in row.items()
        }
        drawn = drawn_transitions("http-connection")
        self.assertEqual(drawn - expected, set())
        self.assertEqual(
            {event for _, _, event in expected - drawn}, {event.value for event in END_EVENTS}
        )

    def test_svg_has_the_arrows_of_the_dot_file(self) -> None:
        self.assertEqual(svg_arrows("http-connection"), dot_arrows("http-connection"))
