"""The desktop environment: the theme of its panel, and whether it shows tray icons."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from enum import Enum

#: Runs a program and returns its output, or an empty string if it fails or is not installed.
RunCommand = Callable[[Sequence[str]], str]


class Tray(Enum):
    """The kinds of tray icons."""

    NATIVE = "native"  # of macOS and Windows
    STATUS_NOTIFIER = "StatusNotifier"
    SYSTEM_TRAY = "system tray"  # the older one of X


NO_TRAY = """\
This desktop shows no tray icons: it has neither a StatusNotifier host nor a system tray.
On GNOME, install the extension "AppIndicator and KStatusNotifierItem Support". On other desktops,
add the status (or notification) area to the panel. The daemon runs without the tray:
ctllm status shows its status, ctllm show opens the chat page."""
NO_SESSION = """\
No desktop session: neither DISPLAY nor WAYLAND_DISPLAY is set. Start ctllm-tray from a desktop, or
see the daemon's status with: ctllm status"""


def run_command(argv: Sequence[str]) -> str:
    """Run a program; a `RunCommand`."""
    program = shutil.which(argv[0])
    if program is None:
        return ""
    try:
        done = subprocess.run(  # noqa: S603
            [program, *argv[1:]], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def panel_theme(platform: str, environ: Mapping[str, str], run: RunCommand = run_command) -> str:
    """Return "dark" or "light"; "dark", as most panels are, where it is not known."""
    if platform == "darwin":
        return (
            "dark" if run(["defaults", "read", "-g", "AppleInterfaceStyle"]) == "Dark" else "light"
        )
    if platform == "win32":
        return "light" if _windows_is_light() else "dark"
    desktops = environ.get("XDG_CURRENT_DESKTOP", "").upper().split(":")
    if "GNOME" in desktops:
        return "dark"  # the panel is dark with light windows, too
    if "XFCE" in desktops:
        dark = run(["xfconf-query", "-c", "xfce4-panel", "-p", "/panels/dark-mode"])
        if dark:
            return "dark" if dark == "true" else "light"
    scheme = run(["gsettings", "get", "org.gnome.desktop.interface", "color-scheme"])
    return "light" if "light" in scheme else "dark"


def _windows_is_light() -> bool:
    if sys.platform != "win32":
        return False
    import winreg

    path = r"Software\Microsoft\Windows\CurrentVersion\Themes\Personalize"
    try:
        with winreg.OpenKey(winreg.HKEY_CURRENT_USER, path) as key:
            return bool(winreg.QueryValueEx(key, "SystemUsesLightTheme")[0])
    except OSError:
        return False


def find_tray(platform: str, environ: Mapping[str, str]) -> Tray | None:
    """Return which kind of tray icons are shown, or None."""
    if platform in ("darwin", "win32"):
        return Tray.NATIVE
    from ctllm_tray.status_notifier.session_bus import has_watcher  # needs the optional libraries

    if has_watcher(environ):
        return Tray.STATUS_NOTIFIER
    return Tray.SYSTEM_TRAY if _has_system_tray() else None


def _has_system_tray() -> bool:
    try:
        from Xlib.display import Display

        display = Display()
    except Exception:
        return False  # without X there is none
    try:
        owner = display.get_selection_owner(display.intern_atom("_NET_SYSTEM_TRAY_S0"))
        return bool(owner)
    finally:
        display.close()
