"""What the tray shows for each status of the daemon; nothing here draws or asks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ctllm.common.sanitize import sanitize_line
from ctllm.ipc.messages import Status

#: Models that the menu names, and the longest name and reason that it shows.
MOST_MODELS = 10
LONGEST = 60


class Icon(StrEnum):
    """The icons, by the names of their files."""

    CONNECTED = "connected"
    CONNECTING = "connecting"
    DISCONNECTED = "disconnected"
    DEGRADED = "degraded"
    ERROR = "error"


_ICONS = {
    "connected": Icon.CONNECTED,
    "connecting": Icon.CONNECTING,
    "signed_out": Icon.DISCONNECTED,
    "degraded": Icon.DEGRADED,
    "error": Icon.ERROR,
}
_WORDS = {
    "connected": "connected",
    "connecting": "connecting …",
    "signed_out": "signed out",
    "degraded": "connected, but Ollama is down",
    "error": "not connected",
}
PREFERENCES = {
    "auto": "Automatic",
    "local": "This machine first",
    "cloud": "Other desktops first",
    "never": "Never the cloud",
}


@dataclass(frozen=True)
class View:
    """One picture of everything: the icon, its title, and what the menu says and allows."""

    icon: Icon
    line: str
    running: bool = False
    signed_in: bool = False
    preference: str = ""
    models: tuple[str, ...] = ()
    more_models: int = 0
    quitting: bool = False

    @property
    def title(self) -> str:
        """The icon's tooltip."""
        return f"CloudToLocalLLM: {self.line}"


NOT_RUNNING = View(Icon.DISCONNECTED, "daemon not running")
STARTING = View(Icon.CONNECTING, "starting the daemon …")


def view_of(status: Status) -> View:
    """The view of a daemon that told its status."""
    line = _WORDS[status.state]
    if status.state == "error" and status.reason:
        line = f"{line}: {shortened(status.reason)}"
    loaded = status.ollama.loaded
    return View(
        icon=_ICONS[status.state],
        line=line,
        running=True,
        signed_in=status.authentication_state == "authenticated",
        preference=status.policy,
        models=tuple(map(shortened, loaded[:MOST_MODELS])),
        more_models=max(0, len(loaded) - MOST_MODELS),
    )


def shortened(text: str) -> str:
    """A text that fits into a menu, with its end shown as missing."""
    text = sanitize_line(text)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
