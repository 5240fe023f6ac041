"""Whether the process runs in a graphical session."""

from __future__ import annotations

from collections.abc import Mapping


def has_graphical_session(platform: str, environ: Mapping[str, str]) -> bool:
    """Whether windows can be shown: always on Windows and macOS, else with X11 or Wayland."""
    if platform in ("win32", "darwin"):
        return True
    return bool(environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"))
