"""How a desktop stands: each state is reached and left, and the picture shows the same."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import ctllm
from ctllm.desktop.connection_state import TABLE, ConnectionStateMachine, State

ROOT = Path(ctllm.__file__).parent.parent


class StandingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.standing = ConnectionStateMachine()
        self.seen: list[str] = []
        self.standing.on_change = lambda: self.seen.append(self.standing.state.value)

    def happens(self, *news: str) -> State:
        """Each is a word of the bridge's, or Ollama's: up, down."""
        for each in news:
            if each in ("up", "down"):
                self.standing.ollama(each == "up")
            else:
                self.standing.link(each, f"because of {each}")
        return self.standing.state

    def test_a_life(self) -> None:
        """The usual way through all states."""
        self.assertEqual(self.standing.state, State.SIGNED_OUT)
        self.happens("up", "dialling", "greeted", "down", "up", "lost", "lost", "dialling")
        self.assertEqual(self.standing.state, State.ERROR)
        self.assertEqual(self.standing.reason, "because of lost")
        self.happens("greeted", "signed_out")
        self.assertEqual(
            self.seen,
            ["connecting", "connected", "degraded", "connected", "connecting", "error",
             "connected", "signed_out"],
        )  # fmt: skip

    def test_without_ollama(self) -> None:
        """Connected at last, it says at once what is missing; nobody sees it connected before."""
        self.happens("dialling", "greeted")
        self.assertEqual(self.seen, ["connecting", "degraded"])
        self.assertEqual(self.happens("up"), State.CONNECTED)

    def test_a_lost_connection_that_is_made_again(self) -> None:
        """It was never an error."""
        self.happens("up", "dialling", "greeted", "lost", "dialling", "greeted")
        self.assertNotIn("error", self.seen)

    def test_what_was_wrong_last(self) -> None:
        self.happens("up", "dialling", "lost", "greeted")
        self.assertEqual((self.standing.reason, self.standing.last_error),
                         ("because of greeted", "because of lost"))  # fmt: skip

    def test_every_state_is_left_for_every_other_way(self) -> None:
        """The table row by row: each piece of news in each state."""
        ways = {
            State.SIGNED_OUT: [],
            State.CONNECTING: ["dialling"],
            State.CONNECTED: ["up", "dialling", "greeted"],
            State.DEGRADED: ["dialling", "greeted"],
            State.ERROR: ["dialling", "lost"],
        }
        for state, way in ways.items():
            for news in ("signed_out", "dialling", "greeted", "lost"):
                self.setUp()
                self.assertEqual(self.happens(*way), state)
                wanted = TABLE[state].get(news, state)
                if wanted is State.CONNECTED and "up" not in way:
                    wanted = State.DEGRADED
                self.assertEqual(self.happens(news), wanted, (state, news))

    def test_ollama_alone_connects_nobody(self) -> None:
        self.assertEqual(self.happens("up", "down", "up"), State.SIGNED_OUT)
        self.assertEqual(self.happens("dialling", "down", "up"), State.CONNECTING)
        self.assertEqual(self.happens("lost", "down", "up"), State.ERROR)

    def test_the_picture(self) -> None:
        """docs/states.dot has the arrows of the table, and docs/states.svg those of states.dot."""
        arrows = {
            (state.value, to.value, news)
            for state, row in TABLE.items()
            for news, to in row.items()
            if to is not state
        }
        dot = (ROOT / "docs" / "states.dot").read_text()
        drawn = re.findall(r'(\w+) -> (\w+) \[label="([^"]*)"', dot)
        self.assertEqual(
            {(one, other, each) for one, other, label in drawn for each in label.split(r"\n")},
            arrows,
        )
        svg = (ROOT / "docs" / "states.svg").read_text()
        shown = re.findall(r"<title>(\w+)&#45;&gt;(\w+)</title>", svg)
        self.assertEqual(set(shown), {(one, other) for one, other, _ in drawn})
