"""Command lines of this installation's programs: by Python, or the bundle's executables."""

from __future__ import annotations

import sys
from pathlib import Path


def _bundled(name: str) -> list[str]:
    suffix = ".exe" if sys.platform == "win32" else ""
    return [str(Path(sys.executable).with_name(name + suffix))]


def desktop_command() -> list[str]:
    """Return the command of a desktop, to which options may be added."""
    if getattr(sys, "frozen", False):
        return _bundled("ctllm-desktop")
    return [sys.executable, "-m", "ctllm", "desktop"]


def window_command() -> list[str] | None:
    """Return the command of the web UI's window, or None in a bundle, which has none."""
    return None if getattr(sys, "frozen", False) else [sys.executable, "-m", "ctllm.webview_main"]


def keyring_command() -> list[str]:
    """Return the command of the process that asks the system's keyring."""
    if getattr(sys, "frozen", False):
        return _bundled("ctllm-keyring")
    # -P: nothing is imported from the working directory.
    return [sys.executable, "-P", "-m", "ctllm.keyring_main"]


def tray_command() -> list[str]:
    """Return the command of the tray."""
    if getattr(sys, "frozen", False):
        return _bundled("ctllm-tray")
    python = sys.executable
    if sys.platform == "win32":  # opens no console
        python = str(Path(python).with_name("pythonw.exe"))
    return [python, "-m", "ctllm_tray"]
