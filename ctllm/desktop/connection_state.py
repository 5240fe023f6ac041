"""How this desktop stands: one state for people, out of the bridge's and Ollama's news.

The table below is the whole of it; `docs/states.svg` is its picture.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

from automat import TypeMachineBuilder


class State(StrEnum):
    """What is shown."""

    SIGNED_OUT = "signed_out"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    DEGRADED = "degraded"  # connected, and Ollama is down
    ERROR = "error"  # with a reason; it is tried again all the time


class News(Protocol):
    """What may happen."""

    def signed_out(self, reason: str) -> None:
        """There is no sign-in, or it is over."""

    def dialling(self, reason: str) -> None:
        """The bridge begins to make a connection."""

    def greeted(self, reason: str) -> None:
        """The cloud took the connection."""

    def lost(self, reason: str) -> None:
        """The connection ended, or could not be made."""

    def ollama_up(self, reason: str) -> None:
        """Ollama answers."""

    def ollama_down(self, reason: str) -> None:
        """Ollama does not answer."""


#: By state: what each piece of news leads to. What is not named changes nothing. A lost connection
#: is first of all made again; only when that fails, too, something is wrong.
TABLE: dict[State, dict[str, State]] = {
    State.SIGNED_OUT: {
        "dialling": State.CONNECTING,
        "lost": State.ERROR,
        "signed_out": State.SIGNED_OUT,
    },
    State.CONNECTING: {
        "greeted": State.CONNECTED,
        "lost": State.ERROR,
        "signed_out": State.SIGNED_OUT,
    },
    State.CONNECTED: {
        "ollama_down": State.DEGRADED,
        "lost": State.CONNECTING,
        "signed_out": State.SIGNED_OUT,
    },
    State.DEGRADED: {
        "ollama_up": State.CONNECTED,
        "lost": State.CONNECTING,
        "signed_out": State.SIGNED_OUT,
    },
    State.ERROR: {
        "greeted": State.CONNECTED,
        "lost": State.ERROR,
        "signed_out": State.SIGNED_OUT,
    },
}
_INPUTS = ("signed_out", "dialling", "greeted", "lost", "ollama_up", "ollama_down")


class Shown:
    """What the machine leaves behind: the state, and why."""

    def __init__(self) -> None:
        self.state = State.SIGNED_OUT
        self.reason = ""


def _entering(state: State) -> Callable[[News, Shown, str], None]:
    def enter(news: News, shown: Shown, reason: str) -> None:
        shown.state, shown.reason = state, reason

    return enter


def _machine() -> Callable[[Shown], News]:
    builder = TypeMachineBuilder(News, Shown)
    states = {state: builder.state(state.value) for state in State}
    for state, row in TABLE.items():
        for name in _INPUTS:
            given = getattr(News, name)
            if name in row:
                states[state].upon(given).to(states[row[name]])(_entering(row[name]))
            else:
                states[state].upon(given).loop().returns(None)
    return builder.build()


_new = _machine()


class ConnectionStateMachine:
    """The machine at work. `on_change` is called when state or reason are others than before."""

    def __init__(self) -> None:
        self._shown = Shown()
        self._news = _new(self._shown)
        self._ollama_up = False
        self.last_error = ""
        self.on_change: Callable[[], None] = lambda: None

    @property
    def state(self) -> State:
        """What to show."""
        return self._shown.state

    @property
    def reason(self) -> str:
        """Why, where that is known."""
        return self._shown.reason

    def link(self, name: str, reason: str) -> None:
        """The bridge's news: signed_out, dialling, greeted or lost."""

        def happens() -> None:
            getattr(self._news, name)(reason)
            if name == "lost":
                self.last_error = reason
            self._look_at_ollama()

        self._watching(happens)

    def ollama(self, up: bool) -> None:
        """Ollama's news."""
        self._ollama_up = up
        self._watching(self._look_at_ollama)

    def _look_at_ollama(self) -> None:
        if self._ollama_up:
            self._news.ollama_up("")
        else:
            self._news.ollama_down("Ollama does not answer")

    def _watching(self, happens: Callable[[], None]) -> None:
        before = self.state, self.reason
        happens()
        if (self.state, self.reason) != before:
            self.on_change()
