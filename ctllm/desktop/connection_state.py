"""The desktop's connection state: what the bridge and the Ollama monitor report, as one value.

`TRANSITIONS` is the state machine; docs/states.svg is its drawing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ctllm.desktop.state_machine import build_machine
from ctllm.ipc.messages import ConnectionState

OLLAMA_DOWN = "Ollama is not responding"


class ConnectionInputs(Protocol):
    """The inputs of the state machine; each has the reason for it, or an empty string."""

    def logged_out(self, reason: str) -> None:
        """There is no login, or the cloud rejected it."""

    def connecting(self, reason: str) -> None:
        """The bridge starts to connect."""

    def connected(self, reason: str) -> None:
        """The tunnel is up."""

    def disconnected(self, reason: str) -> None:
        """The connection was lost, or the attempt to connect failed."""

    def ollama_up(self, reason: str) -> None:
        """Ollama responds."""

    def ollama_down(self, reason: str) -> None:
        """Ollama does not respond."""


#: The bridge connects again by itself, so a lost connection is `connecting`; `error` is for a
#: failed attempt, and lasts until one succeeds.
TRANSITIONS: dict[ConnectionState, dict[str, ConnectionState]] = {
    ConnectionState.LOGGED_OUT: {
        "connecting": ConnectionState.CONNECTING,
        "disconnected": ConnectionState.ERROR,
        "logged_out": ConnectionState.LOGGED_OUT,
    },
    ConnectionState.CONNECTING: {
        "connected": ConnectionState.CONNECTED,
        "disconnected": ConnectionState.ERROR,
        "logged_out": ConnectionState.LOGGED_OUT,
    },
    ConnectionState.CONNECTED: {
        "ollama_down": ConnectionState.DEGRADED,
        "connecting": ConnectionState.CONNECTING,
        "disconnected": ConnectionState.CONNECTING,
        "logged_out": ConnectionState.LOGGED_OUT,
    },
    ConnectionState.DEGRADED: {
        "ollama_up": ConnectionState.CONNECTED,
        "connecting": ConnectionState.CONNECTING,
        "disconnected": ConnectionState.CONNECTING,
        "logged_out": ConnectionState.LOGGED_OUT,
    },
    ConnectionState.ERROR: {
        "connected": ConnectionState.CONNECTED,
        "disconnected": ConnectionState.ERROR,
        "logged_out": ConnectionState.LOGGED_OUT,
    },
}


class _Core:
    """The current state, and the reason for it."""

    def __init__(self) -> None:
        self.state = ConnectionState.LOGGED_OUT
        self.reason = ""


def _set_state(
    state: ConnectionState, name: str, new_state: ConnectionState
) -> Callable[[_Core, str], None]:
    def set_state(core: _Core, reason: str) -> None:
        core.state, core.reason = new_state, reason

    return set_state


_build = build_machine(
    ConnectionInputs,  # type: ignore[type-abstract]
    _Core,
    TRANSITIONS,
    _set_state,
)


class ConnectionStateMachine:
    """The connection's state. Observers are called when the state or its reason has changed."""

    def __init__(self) -> None:
        self.last_error = ""
        self._core = _Core()
        self._machine: ConnectionInputs = _build(self._core)
        self._is_ollama_up = False
        self._observers: list[Callable[[], None]] = []
        self._bridge_inputs = {
            ConnectionState.LOGGED_OUT: self._machine.logged_out,
            ConnectionState.CONNECTING: self._machine.connecting,
            ConnectionState.CONNECTED: self._machine.connected,
            ConnectionState.ERROR: self._machine.disconnected,
        }

    @property
    def state(self) -> ConnectionState:
        """The current state."""
        return self._core.state

    @property
    def reason(self) -> str:
        """The reason for the current state, or an empty string."""
        return self._core.reason

    def add_observer(self, observer: Callable[[], None]) -> None:
        """Call `observer` after each change."""
        self._observers.append(observer)

    def set_bridge_state(self, state: ConnectionState, reason: str) -> None:
        """Apply the bridge's state; `degraded` is not one that a bridge has."""
        before = self.state, self.reason
        self._bridge_inputs[state](reason)
        if state is ConnectionState.ERROR:
            self.last_error = reason
        self._apply_ollama()
        self._notify_if_changed(before)

    def set_ollama_up(self, is_up: bool) -> None:
        """Apply whether Ollama responds."""
        before = self.state, self.reason
        self._is_ollama_up = is_up
        self._apply_ollama()
        self._notify_if_changed(before)

    def _apply_ollama(self) -> None:
        if self._is_ollama_up:
            self._machine.ollama_up("")
        else:
            self._machine.ollama_down(OLLAMA_DOWN)

    def _notify_if_changed(self, before: tuple[ConnectionState, str]) -> None:
        if (self.state, self.reason) != before:
            for observer in self._observers:
                observer()
