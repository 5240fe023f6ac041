"""What the tray shows for each status of the daemon."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from ctllm.common.sanitize import sanitize_line
from ctllm.ipc.messages import NOT_LOGGED_IN, ConnectionState, Status

#: The most models in the menu, and the most characters of a model's name or a reason.
MAX_MODELS = 10
MAX_TEXT_LENGTH = 60


class Icon(StrEnum):
    """The icons, by the names of their files."""

    CONNECTED = "connected"
    CONNECTING = "connecting"
    DISCONNECTED = "disconnected"
    DEGRADED = "degraded"
    ERROR = "error"


_ICONS = {
    ConnectionState.LOGGED_OUT: Icon.DISCONNECTED,
    ConnectionState.CONNECTING: Icon.CONNECTING,
    ConnectionState.CONNECTED: Icon.CONNECTED,
    ConnectionState.DEGRADED: Icon.DEGRADED,
    ConnectionState.ERROR: Icon.ERROR,
}
#: Labels of the routing policies.
POLICY_LABELS = {
    "auto": "Automatic",
    "local": "This machine first",
    "cloud": "Other desktops first",
    "never": "Never the cloud",
}


@dataclass(frozen=True)
class View:
    """The icon, the status line, and what the menu shows and enables."""

    icon: Icon
    status_line: str
    is_running: bool = False
    is_logged_in: bool = False
    has_page: bool = False  # of the cloud or of this machine
    policy: str = ""
    loaded_models: tuple[str, ...] = ()
    more_models: int = 0
    is_quitting: bool = False
    #: Responses in progress for the page. The menu, which is updated for each other view, does not
    #: show them.
    running_generations: int = field(default=0, compare=False)

    @property
    def title(self) -> str:
        """The icon's tooltip."""
        title = f"CloudToLocalLLM: {self.status_line}"
        if not self.running_generations:
            return title
        noun = "response" if self.running_generations == 1 else "responses"
        return f"{title}, {self.running_generations} {noun} in progress"


NOT_RUNNING = View(Icon.DISCONNECTED, "Not running")
STARTING = View(Icon.CONNECTING, "Starting")


def view_from_status(status: Status) -> View:
    """Return the view of a status."""
    line = status.state.label
    has_reason = status.reason not in ("", NOT_LOGGED_IN)
    if status.state in (ConnectionState.ERROR, ConnectionState.LOGGED_OUT) and has_reason:
        line = f"{line}: {truncate(status.reason)}"
    loaded = status.ollama.loaded
    is_logged_in = status.authentication_state == "authenticated"
    return View(
        icon=_ICONS[status.state],
        status_line=line,
        is_running=True,
        is_logged_in=is_logged_in,
        has_page=is_logged_in or status.endpoint.startswith("http://"),
        policy=status.policy,
        loaded_models=tuple(map(truncate, loaded[:MAX_MODELS])),
        more_models=max(0, len(loaded) - MAX_MODELS),
        running_generations=status.traffic.running_generations,
    )


def truncate(text: str) -> str:
    """Return a text that fits into a menu, with an ellipsis where it was cut."""
    text = sanitize_line(text)
    return text if len(text) <= MAX_TEXT_LENGTH else text[: MAX_TEXT_LENGTH - 1] + "…"
