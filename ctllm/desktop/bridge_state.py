"""The states of the bridge, as a table; docs/bridge-states.svg is its drawing.

They are finer than `ConnectionState`, which the bridge reports: a connection that is being greeted
or waits for its next attempt behaves differently and looks the same.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from ctllm.errors import CtllmError


class BridgeState(Enum):
    """What the bridge does."""

    STOPPED = "stopped"
    CONNECTING = "connecting"  # requests a token, then connects: TCP, TLS, WebSocket
    GREETING = "greeting"  # has a WebSocket, and waits for the proxy's HELLO
    CONNECTED = "connected"
    CLOSING = "closing"  # closes a connection, to make another
    WAITING = "waiting"  # until the next attempt is due
    LOGGED_OUT = "logged_out"  # until somebody logs in
    STOPPING = "stopping"  # closes the connection, to stop


class BridgeInputs(Protocol):
    """The inputs of the state machine."""

    def start(self) -> None:
        """The service starts."""

    def stop(self) -> None:
        """The service stops."""

    def opened(self) -> None:
        """The WebSocket handshake succeeded."""

    def greeted(self) -> None:
        """The proxy sent HELLO: the tunnel is up."""

    def failed(self, error: CtllmError) -> None:
        """The attempt failed, or the connection was closed."""

    def unauthorized(self, error: CtllmError) -> None:
        """There is no login, or the cloud rejected it or its user."""

    def login_changed(self) -> None:
        """Somebody logged in or out, or a rejected login is due for another try."""

    def retry(self) -> None:
        """The delay before the next attempt is over."""

    def reconnect(self) -> None:
        """The network has changed, or the machine has slept: the connection is of no use."""


#: For each state, the state that each input leads to. Any other input changes nothing.
TRANSITIONS: dict[BridgeState, dict[str, BridgeState]] = {
    BridgeState.STOPPED: {
        "start": BridgeState.CONNECTING,
        "stop": BridgeState.STOPPED,
    },
    BridgeState.CONNECTING: {
        "opened": BridgeState.GREETING,
        "failed": BridgeState.WAITING,
        "unauthorized": BridgeState.LOGGED_OUT,
        "login_changed": BridgeState.CONNECTING,
        "reconnect": BridgeState.CONNECTING,
        "stop": BridgeState.STOPPED,
    },
    BridgeState.GREETING: {
        "greeted": BridgeState.CONNECTED,
        "failed": BridgeState.WAITING,
        "login_changed": BridgeState.CLOSING,
        "reconnect": BridgeState.CLOSING,
        "stop": BridgeState.STOPPING,
    },
    BridgeState.CONNECTED: {
        "failed": BridgeState.WAITING,
        "login_changed": BridgeState.CLOSING,
        "reconnect": BridgeState.CLOSING,
        "stop": BridgeState.STOPPING,
    },
    BridgeState.CLOSING: {
        "failed": BridgeState.CONNECTING,
        "reconnect": BridgeState.CLOSING,
        "stop": BridgeState.STOPPING,
    },
    BridgeState.WAITING: {
        "retry": BridgeState.CONNECTING,
        "reconnect": BridgeState.CONNECTING,
        "stop": BridgeState.STOPPED,
    },
    BridgeState.LOGGED_OUT: {
        "login_changed": BridgeState.CONNECTING,
        "stop": BridgeState.STOPPED,
    },
    BridgeState.STOPPING: {
        "failed": BridgeState.STOPPED,
    },
}
