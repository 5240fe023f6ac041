"""Whether there is a screen to show something on."""

from __future__ import annotations

from collections.abc import Mapping


def has_graphical_session(platform: str, environ: Mapping[str, str]) -> bool:
    """Windows and macOS have one; elsewhere the environment names it."""
    if platform in ("win32", "darwin"):
        return True
    return bool(environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"))
