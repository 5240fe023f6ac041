"""What the daemon tells of itself over the IPC: the data of its answers."""

from __future__ import annotations

from typing import Literal

import msgspec

PolicyName = Literal["auto", "local", "cloud", "never"]


class OllamaStatus(msgspec.Struct, frozen=True):
    """This machine's Ollama: `state` is up, demo (a stand-in) or down."""

    url: str
    state: str
    version: str
    models: tuple[str, ...]
    loaded: tuple[str, ...]


class DesktopStatus(msgspec.Struct, frozen=True):
    """One of the user's desktops that are connected."""

    id: str
    name: str
    ollama: str
    models: tuple[str, ...]
    is_this: bool = msgspec.field(name="this")


class Traffic(msgspec.Struct, frozen=True):
    """What was done since the start.

    How often each side answered this machine's apps (`both`: lists), how often a side failed
    before it answered (`moved`), what is under way now, and what goes through the bridge.
    """

    local: int
    cloud: int
    merged: int = msgspec.field(name="both")
    failovers: int = msgspec.field(name="moved")
    active_requests: int = msgspec.field(name="under_way")
    bridge_active_requests: int = msgspec.field(name="bridge_under_way")
    bridge_bytes_sent: int
    bridge_bytes_received: int


class Status(msgspec.Struct, frozen=True):
    """How everything is. `state` is signed_out, connecting, connected, degraded or error.

    `side` is where a request would go now. `started` is when the daemon did, in epoch seconds.
    `proxy` is running when the tunnel reaches it.
    """

    authentication_state: Literal["authenticated", "unauthenticated"]
    connection_status: Literal["connected", "disconnected", "error"]
    state: str
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


class OpenResult(msgspec.Struct, frozen=True):
    """Whether something was opened, in a `window` of ctllm's or the browser.

    If not, `address` is what to open by hand, once.
    """

    opened: bool
    address: str = ""
    window: bool = False


class AboutInfo(msgspec.Struct, frozen=True):
    """What this is."""

    name: str
    version: str
    protocol: int
    homepage: str
    license: str
    python: str
    twisted: str
    platform: str
    state_folder: str
