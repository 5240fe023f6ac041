"""The connection's state follows the bridge and Ollama; its drawing shows the same transitions."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.connection_state import TRANSITIONS, ConnectionStateMachine
from ctllm.ipc.messages import ConnectionState as State
from tests.unit.drawings import dot_arrows, drawn_transitions, svg_arrows

#: The bridge states that lead to each state, with Ollama up except for `degraded`.
PATHS: dict[State, list[State]] = {
    State.LOGGED_OUT: [],
    State.CONNECTING: [State.CONNECTING],
    State.CONNECTED: [State.CONNECTING, State.CONNECTED],
    State.DEGRADED: [State.CONNECTING, State.CONNECTED],
    State.ERROR: [State.CONNECTING, State.ERROR],
}
INPUTS = {
    State.LOGGED_OUT: "logged_out",
    State.CONNECTING: "connecting",
    State.CONNECTED: "connected",
    State.ERROR: "disconnected",
}


class ConnectionStateTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.machine = ConnectionStateMachine()
        self.seen: list[State] = []
        self.machine.add_observer(lambda: self.seen.append(self.machine.state))

    def apply(self, *states: State) -> State:
        """Report these states of the bridge; return the machine's."""
        for state in states:
            self.machine.set_bridge_state(state, f"because of {state.value}")
        return self.machine.state

    def test_starts_logged_out(self) -> None:
        self.assertEqual(self.machine.state, State.LOGGED_OUT)

    def test_notifies_observers_of_each_change(self) -> None:
        self.machine.set_ollama_up(True)
        self.apply(State.CONNECTING, State.CONNECTED)
        self.machine.set_ollama_up(False)
        self.machine.set_ollama_up(True)
        self.apply(State.ERROR, State.ERROR, State.CONNECTED, State.LOGGED_OUT)
        self.assertEqual(
            self.seen,
            [
                State.CONNECTING, State.CONNECTED, State.DEGRADED, State.CONNECTED,
                State.CONNECTING, State.ERROR, State.CONNECTED, State.LOGGED_OUT,
            ],
        )  # fmt: skip

    def test_does_not_notify_observers_without_a_change(self) -> None:
        self.apply(State.CONNECTING)
        self.seen.clear()
        self.apply(State.CONNECTING)
        self.machine.set_ollama_up(True)
        self.assertEqual(self.seen, [])

    def test_is_degraded_at_once_when_it_connects_without_ollama(self) -> None:
        self.apply(State.CONNECTING, State.CONNECTED)
        self.assertEqual(self.seen, [State.CONNECTING, State.DEGRADED])
        self.machine.set_ollama_up(True)
        self.assertEqual(self.machine.state, State.CONNECTED)

    def test_a_lost_connection_is_no_error_until_an_attempt_fails(self) -> None:
        self.machine.set_ollama_up(True)
        self.apply(State.CONNECTING, State.CONNECTED, State.ERROR, State.CONNECTING)
        self.assertEqual(self.machine.state, State.CONNECTING)
        self.assertNotIn(State.ERROR, self.seen)
        self.assertEqual(self.apply(State.ERROR), State.ERROR)

    def test_last_error_is_kept_after_connecting(self) -> None:
        self.machine.set_ollama_up(True)
        self.apply(State.CONNECTING, State.ERROR, State.CONNECTED)
        self.assertEqual(self.machine.reason, "because of connected")
        self.assertEqual(self.machine.last_error, "because of error")

    def test_ollama_alone_changes_no_state_but_connected_and_degraded(self) -> None:
        for state in (State.LOGGED_OUT, State.CONNECTING, State.ERROR):
            self.setUp()
            self.apply(*PATHS[state])
            for is_up in (True, False):
                self.machine.set_ollama_up(is_up)
                self.assertEqual(self.machine.state, state)

    def test_follows_the_table(self) -> None:
        for state, path in PATHS.items():
            for bridge_state, name in INPUTS.items():
                self.setUp()
                self.machine.set_ollama_up(state is not State.DEGRADED)
                self.assertEqual(self.apply(*path), state)
                expected = TRANSITIONS[state].get(name, state)
                if expected is State.CONNECTED and state is State.DEGRADED:
                    expected = State.DEGRADED
                self.assertEqual(self.apply(bridge_state), expected, (state, name))


class DrawingTests(SynchronousTestCase):
    """docs/states.svg is drawn from states.dot, which has the table's transitions."""

    def test_dot_has_the_transitions_of_the_table(self) -> None:
        self.assertEqual(
            drawn_transitions("states"),
            {
                (old.value, new.value, name)
                for old, row in TRANSITIONS.items()
                for name, new in row.items()
                if old is not new
            },
        )

    def test_svg_has_the_arrows_of_the_dot_file(self) -> None:
        self.assertEqual(svg_arrows("states"), dot_arrows("states"))
