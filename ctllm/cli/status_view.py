"""Formats the status of a desktop for a terminal."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TextIO

from ctllm.cli.output import is_terminal
from ctllm.common.sanitize import sanitize_line
from ctllm.ipc.messages import ConnectionState, DesktopStatus, OllamaStatus, Status
from ctllm.ollama.endpoints import is_remote_name

#: Mark and colour (SGR code) of each state. The marks differ without colours, too.
_MARKS = {
    ConnectionState.CONNECTED: ("●", "32"),
    ConnectionState.DEGRADED: ("◐", "33"),
    ConnectionState.CONNECTING: ("◌", "33"),
    ConnectionState.LOGGED_OUT: ("○", "2"),
    ConnectionState.ERROR: ("✕", "31"),
}
_ROUTES = {"local": "this machine", "cloud": "your other desktops"}
_POLICIES = {
    "auto": "auto: this machine first",
    "local": "local: this machine, others only while it is down",
    "cloud": "cloud: other desktops first",
    "never": "never cloud: this machine only",
}
_MAX_NAMED_MODELS = 6
_COLUMN = 12


class Style:
    """Colours and marks, as far as the output supports them (https://no-color.org)."""

    def __init__(self, out: TextIO | None, environ: Mapping[str, str] = os.environ) -> None:
        quiet = environ.get("NO_COLOR") or environ.get("TERM") == "dumb"
        self.has_colour = is_terminal(out) and not quiet
        encoding = (getattr(out, "encoding", None) or "ascii").lower()
        self.has_marks = encoding.replace("-", "").startswith("utf")

    def __call__(self, code: str, text: str) -> str:
        """Return `text` in the colour of an SGR code, if the output has colours."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.has_colour else text


def format_status(status: Status, style: Style) -> str:
    """Return the status as lines."""
    mark, colour = _MARKS[status.state]
    head = f"{mark} {status.state.label}" if style.has_marks else status.state.label
    lines = [style(colour, head) + (f": {sanitize_line(status.reason)}" if status.reason else "")]
    lines += _format_rows(
        ("Logged in", f"{status.user} at {status.cloud_url}" if status.cloud_url else "no"),
        ("Tokens", status.token_location),
        ("Ollama", _format_ollama(status.ollama)),
        ("Models", _format_models(status.ollama.models)),
        ("In memory", _format_models(status.ollama.loaded)),
        ("Apps use", status.endpoint or "nothing: desktop.listen is off"),
        ("Route", f"{_ROUTES[status.route]} ({_POLICIES[status.policy]})"),
        (
            "Desktops",
            "\n".join(map(_format_desktop, status.desktops)) or status.desktops_error or "none",
        ),
        ("Requests", _format_traffic(status)),
        ("Generations", _format_generations(status.traffic.running_generations)),
        ("Last error", status.last_error),
    )
    return "\n".join(lines)


def _format_rows(*rows: tuple[str, str]) -> Iterable[str]:
    for name, value in rows:
        if value:
            first, *more = value.splitlines()
            yield f"  {name:<{_COLUMN}}{sanitize_line(first)}"
            yield from (" " * (_COLUMN + 2) + sanitize_line(line) for line in more)


def _format_ollama(ollama: OllamaStatus) -> str:
    if ollama.state == "down":
        return f"not responding at {ollama.url}"
    kind = " (demo model)" if ollama.state == "demo" else f" (version {ollama.version})"
    return ollama.url + kind


def _format_models(models: tuple[str, ...]) -> str:
    more = len(models) - _MAX_NAMED_MODELS
    marked = (
        f"{name} (ollama.com)" if is_remote_name(name) else name
        for name in models[:_MAX_NAMED_MODELS]
    )
    return ", ".join(marked) + (f" and {more} more" if more > 0 else "")


def _format_desktop(desktop: DesktopStatus) -> str:
    this = " (this one)" if desktop.is_this else ""
    state = {"up": "", "demo": ": demo model", "down": ": Ollama is down"}.get(desktop.ollama, "")
    return f"{desktop.name}{this}{state}"


def _format_traffic(status: Status) -> str:
    traffic = status.traffic
    total = f"{traffic.local} here, {traffic.cloud} by other desktops, {traffic.merged} by both"
    active = traffic.active_requests + traffic.bridge_active_requests
    return total + (f"; {active} active" if active else "")


def _format_generations(running: int) -> str:
    """Return an empty string if none run."""
    return f"{running} in progress for the chat page" if running else ""
