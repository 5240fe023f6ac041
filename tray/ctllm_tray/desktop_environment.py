"""What the desktop is like: is its panel dark, and does it have a place for icons at all?"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

#: Runs a program and gives what it printed, or nothing where it failed or is not there.
Run = Callable[[Sequence[str]], str]

NO_TRAY = """\
This desktop shows no tray icons: nothing here answers for StatusNotifier or the system tray.
On GNOME install the extension "AppIndicator and KStatusNotifierItem Support"; on other desktops
add the status (or notification) area to the panel. The daemon does not need the tray:
ctllm status says how it is, ctllm show opens the page."""
NO_SESSION = """\
There is no desktop session here: neither DISPLAY nor WAYLAND_DISPLAY is set. Start ctllm-tray from
a desktop. Without one, ctllm status says how the daemon is."""


def run(argv: Sequence[str]) -> str:
    """A `Run` that really does it."""
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


def panel_kind(platform: str, environ: Mapping[str, str], run: Run = run) -> str:
    """Whether the panel is "dark" or "light", as far as the desktop says; most are dark."""
    if platform == "darwin":
        return (
            "dark" if run(["defaults", "read", "-g", "AppleInterfaceStyle"]) == "Dark" else "light"
        )
    if platform == "win32":
        return "light" if _windows_is_light() else "dark"
    desktops = environ.get("XDG_CURRENT_DESKTOP", "").upper().split(":")
    if "GNOME" in desktops:
        return "dark"  # whatever the windows are like
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

    where = r"Software\Microsoft\Windows\CurrentVersion\Themes\Personalize"
    try:
        with winreg.OpenKey(winreg.HKEY_CURRENT_USER, where) as key:
            return bool(winreg.QueryValueEx(key, "SystemUsesLightTheme")[0])
    except OSError:
        return False


def has_tray(platform: str) -> bool:
    """Whether something shows icons: by StatusNotifier, or the older system tray of X."""
    if platform in ("darwin", "win32"):
        return True
    return _has_watcher() or _has_x_tray()


def _has_watcher() -> bool:
    try:
        from gi.repository import Gio, GLib

        bus = Gio.bus_get_sync(Gio.BusType.SESSION, None)
        name = GLib.Variant("(s)", ("org.kde.StatusNotifierWatcher",))
        place = "org.freedesktop.DBus"
        answer = bus.call_sync(
            place, "/org/freedesktop/DBus", place, "NameHasOwner", name, None, 0, 2000, None
        )
    except Exception:
        return False  # no gi, no bus: whatever it is, nobody watches there
    return bool(answer.unpack()[0])


def _has_x_tray() -> bool:
    try:
        from Xlib.display import Display

        display = Display()
    except Exception:
        return False  # no X, or none that lets us in
    try:
        owner = display.get_selection_owner(display.intern_atom("_NET_SYSTEM_TRAY_S0"))
        return bool(owner)
    finally:
        display.close()
