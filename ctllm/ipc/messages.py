"""The data of the IPC's responses. JSON keys that differ from a field's name are given with it."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

#: The reason for the state `signed_out` where nobody has logged in.
NOT_LOGGED_IN = "This desktop is not logged in. Run `ctllm login`."

PolicyName = Literal["auto", "local", "cloud", "never"]


class ConnectionState(StrEnum):
    """The state of a desktop's connection to the cloud, by its name on the IPC."""

    LOGGED_OUT = "signed_out"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    DEGRADED = "degraded"  # connected, and Ollama does not respond
    ERROR = "error"  # the last attempt failed; another follows by itself

    @property
    def is_connected(self) -> bool:
        """Whether the cloud can reach this desktop."""
        return self in (ConnectionState.CONNECTED, ConnectionState.DEGRADED)

    @property
    def label(self) -> str:
        """The state in words, for people."""
        return _LABELS[self]


_LABELS = {
    ConnectionState.LOGGED_OUT: "Not logged in",
    ConnectionState.CONNECTING: "Connecting",
    ConnectionState.CONNECTED: "Connected",
    ConnectionState.DEGRADED: "Connected, but Ollama is not responding",
    ConnectionState.ERROR: "Not connected",
}


class OllamaStatus(msgspec.Struct, frozen=True):
    """This desktop's Ollama. `state` is up, demo (the demo model responds) or down."""

    url: str
    state: str
    version: str
    models: tuple[str, ...]
    loaded: tuple[str, ...]


class DesktopStatus(msgspec.Struct, frozen=True):
    """A connected desktop of the user; `is_this` marks the one that responds."""

    id: str
    name: str
    ollama: str
    models: tuple[str, ...]
    is_this: bool = msgspec.field(name="this")


class Traffic(msgspec.Struct, frozen=True):
    """Counts since the daemon started.

    Responses to local apps by route, and lists merged of both; requests that failed over; active
    requests; what passes through the bridge; and generations that run for the page.
    """

    local: int
    cloud: int
    merged: int = msgspec.field(name="both")
    failovers: int = msgspec.field(name="moved")
    active_requests: int = msgspec.field(name="under_way")
    bridge_active_requests: int = msgspec.field(name="bridge_under_way")
    bridge_bytes_sent: int
    bridge_bytes_received: int
    running_generations: int = msgspec.field(default=0, name="generations")


class Status(msgspec.Struct, frozen=True):
    """The status of the desktop.

    `state` is signed_out, connecting, connected, degraded or error. `route` is the one of a request
    that came now. `proxy` is running while the tunnel is connected. `started` is in epoch seconds.
    `token_location` says where the tokens of the login are, such as "in the system's keyring".
    """

    authentication_state: Literal["authenticated", "unauthenticated"]
    connection_status: Literal["connected", "disconnected", "error"]
    state: ConnectionState
    reason: str
    user: str
    cloud_url: str
    desktop_id: str
    desktop_name: str
    ollama: OllamaStatus
    desktops: tuple[DesktopStatus, ...]
    desktops_error: str
    policy: PolicyName = msgspec.field(name="preference")
    route: Literal["local", "cloud"] = msgspec.field(name="side")
    proxy: Literal["running", "unknown"]
    endpoint: str
    last_error: str
    traffic: Traffic
    version: str
    pid: int
    started: float
    token_location: str = msgspec.field(default="", name="tokens")


class OpenResult(msgspec.Struct, frozen=True):
    """Whether the page was opened, in ctllm's `window` or in the browser.

    If not, `address` is a URL that the user can open once. `local` tells that it is the page of
    this machine, and not that of the cloud.
    """

    opened: bool
    address: str = ""
    window: bool = False
    local: bool = False


class ProviderChoice(msgspec.Struct, frozen=True):
    """An OpenID provider of a cloud: its name, and a title for people."""

    name: str
    title: str


class LoginBegun(msgspec.Struct, frozen=True):
    """What the user has to do to log in.

    `choose`: call again with one of `providers`. `code`: enter `code` at `link`, in any browser.
    `browser`: log in at `link`, in a browser of this machine. `opened` tells whether the link is
    open in a browser.
    """

    state: Literal["choose", "code", "browser"]
    providers: tuple[ProviderChoice, ...] = ()
    code: str = ""
    link: str = ""
    opened: bool = False
    expires_in: float = 0.0


class LoginEnded(msgspec.Struct, frozen=True):
    """The data of the event `login`: the login, or the error that ended it."""

    cloud_url: str
    user: str = ""
    error: str = ""


class AboutInfo(msgspec.Struct, frozen=True):
    """The versions of the daemon and its platform."""

    name: str
    version: str
    protocol: int
    homepage: str
    license: str
    python: str
    twisted: str
    platform: str
    state_folder: str
