"""The status of a desktop as people read it: a few lines, in colour on a terminal."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TextIO

from ctllm.common.sanitize import sanitize_line
from ctllm.ipc.messages import DesktopStatus, OllamaStatus, Status
from ctllm.ollama.api import is_remote_name

#: By state: the mark, which differs also without colour, its colour, and the words.
_STATES = {
    "connected": ("●", "32", "connected"),
    "degraded": ("◐", "33", "connected, but Ollama is down"),
    "connecting": ("◌", "33", "connecting"),
    "signed_out": ("○", "2", "signed out"),
    "error": ("✕", "31", "not connected"),
}
_SIDES = {"local": "this machine", "cloud": "your other desktops"}
_PREFERENCES = {
    "auto": "auto: this machine first",
    "local": "local: this machine, others only while it fails",
    "cloud": "cloud: other desktops first",
    "never": "never cloud: this machine only",
}
_MOST = 6  # models that are named
_COLUMN = 12


class Style:
    """Colours, where there is somebody to see them (NO_COLOR, https://no-color.org)."""

    def __init__(self, out: TextIO, environ: Mapping[str, str] = os.environ) -> None:
        quiet = environ.get("NO_COLOR") or environ.get("TERM") == "dumb"
        self.on = out.isatty() and not quiet
        encoding = (getattr(out, "encoding", None) or "ascii").lower()
        self.marks = encoding.replace("-", "").startswith("utf")

    def __call__(self, code: str, text: str) -> str:
        """`text` in the colour of an SGR code, or as it is."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.on else text


def format_status(status: Status, ink: Style) -> str:
    """The whole status."""
    mark, colour, words = _STATES[status.state]
    head = f"{mark} {words}" if ink.marks else words
    lines = [ink(colour, head) + (f": {sanitize_line(status.reason)}" if status.reason else "")]
    lines += _rows(
        ("Signed in", f"{status.user} at {status.cloud_url}" if status.cloud_url else "no"),
        ("Ollama", _ollama(status.ollama)),
        ("Models", _named(status.ollama.models)),
        ("In memory", _named(status.ollama.loaded)),
        ("Apps ask", status.endpoint or "nothing here: the endpoint is off"),
        ("They get", f"{_SIDES[status.route]} ({_PREFERENCES[status.policy]})"),
        ("Desktops", "\n".join(map(_desktop, status.desktops)) or status.desktops_error or "none"),
        ("Answered", _traffic(status)),
        ("Last error", status.last_error),
    )
    return "\n".join(lines)


def _rows(*rows: tuple[str, str]) -> Iterable[str]:
    for name, value in rows:
        if value:
            first, *more = value.splitlines()
            yield f"  {name:<{_COLUMN}}{sanitize_line(first)}"
            yield from (" " * (_COLUMN + 2) + sanitize_line(line) for line in more)


def _ollama(ollama: OllamaStatus) -> str:
    if ollama.state == "down":
        return f"none answers at {ollama.url}"
    kind = " (a demo, not a model)" if ollama.state == "demo" else f" (version {ollama.version})"
    return ollama.url + kind


def _named(models: tuple[str, ...]) -> str:
    more = len(models) - _MOST
    marked = (f"{name} (ollama.com)" if is_remote_name(name) else name for name in models[:_MOST])
    return ", ".join(marked) + (f" and {more} more" if more > 0 else "")


def _desktop(desktop: DesktopStatus) -> str:
    this = " (this one)" if desktop.is_this else ""
    state = {"up": "", "demo": ": a demo", "down": ": its Ollama is down"}.get(desktop.ollama, "")
    return f"{desktop.name}{this}{state}"


def _traffic(status: Status) -> str:
    traffic = status.traffic
    told = f"{traffic.local} here, {traffic.cloud} by other desktops, {traffic.merged} by both"
    now = traffic.active_requests + traffic.bridge_active_requests
    return told + (f"; {now} under way" if now else "")
