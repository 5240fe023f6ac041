"""What makes programs start with a session, for each system: files, and what they say."""

from __future__ import annotations

import os
import plistlib
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

_SERVICE = "ctllm-desktop.service"
_EXEC_START = re.compile(r"^ExecStart=.*$", re.MULTILINE)


@dataclass(frozen=True)
class Environment:
    """Where it is, and what is to be started there."""

    platform: str
    environ: Mapping[str, str]
    has_systemd: bool
    desktop: Sequence[str]
    tray: Sequence[str]

    @property
    def home(self) -> Path:
        """The user's folder."""
        return Path(self.environ.get("HOME") or os.path.expanduser("~"))


@dataclass(frozen=True)
class AutostartFile:
    """One file. `link` is where it must also be found; commands tell whoever reads it."""

    path: Path
    content: bytes
    what: str
    link: Path | None = None
    after_install: Sequence[Sequence[str]] = ()
    before_removal: Sequence[Sequence[str]] = ()


def autostart_files(machine: Environment) -> Sequence[AutostartFile]:
    """The entries of this system."""
    if machine.platform == "darwin":
        return (
            _agent(machine, "desktop", machine.desktop),
            _agent(machine, "tray", (*machine.tray, "--no-start")),
        )
    if machine.platform == "win32":
        return (_startup(machine),)
    if machine.has_systemd:
        return _unit(machine), _autostart(machine, (*machine.tray, "--no-start"))
    return (_autostart(machine, machine.tray),)  # the tray starts the desktop


# -- freedesktop.org and systemd


def _config_home(machine: Environment) -> Path:
    return Path(machine.environ.get("XDG_CONFIG_HOME") or machine.home / ".config")


def _unit(machine: Environment) -> AutostartFile:
    folder = _config_home(machine) / "systemd" / "user"
    start = f"ExecStart={' '.join(map(_for_systemd, machine.desktop))}"
    content = _EXEC_START.sub(lambda _: start, _unit_template())
    return AutostartFile(
        folder / _SERVICE,
        content.encode(),
        "the desktop starts with your session",
        folder / "default.target.wants" / _SERVICE,
        (("systemctl", "--user", "daemon-reload"), ("systemctl", "--user", "start", _SERVICE)),
        (("systemctl", "--user", "stop", _SERVICE),),
    )


def _unit_template() -> str:
    """The one unit that there is, which etc/ shows too, without how to install it by hand."""
    text = resources.files("ctllm.cli").joinpath(_SERVICE).read_text()
    return text[text.index("[Unit]") :]


def _for_systemd(word: str) -> str:
    """A word of a command line (systemd.service(5), "Command lines")."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{word}"'


def _autostart(machine: Environment, tray: Sequence[str]) -> AutostartFile:
    content = f"""\
[Desktop Entry]
Type=Application
Name=CloudToLocalLLM
Comment=Shows how this machine's models can be reached
Exec={" ".join(map(_for_desktop_entry, tray))}
Terminal=false
X-GNOME-Autostart-enabled=true
"""
    path = _config_home(machine) / "autostart" / "ctllm-tray.desktop"
    return AutostartFile(path, content.encode(), "the tray starts with your session")


def _for_desktop_entry(word: str) -> str:
    """A word of Exec (Desktop Entry Specification, "The Exec key"): quoted, then escaped."""
    for each in ("\\", '"', "`", "$"):
        word = word.replace(each, f"\\{each}")
    return f'"{word}"'.replace("\\", "\\\\").replace("%", "%%")


# -- macOS


def _agent(machine: Environment, name: str, words: Sequence[str]) -> AutostartFile:
    label = f"org.ctllm.{name}"
    told = {
        "Label": label,
        "ProgramArguments": list(words),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ProcessType": "Interactive",
    }
    path = machine.home / "Library" / "LaunchAgents" / f"{label}.plist"
    domain = f"gui/{os.getuid()}" if hasattr(os, "getuid") else "gui/0"
    return AutostartFile(
        path,
        plistlib.dumps(told),
        f"the {name} starts when you sign in",
        None,
        (("launchctl", "bootstrap", domain, str(path)),),
        (("launchctl", "bootout", f"{domain}/{label}"),),
    )


# -- Windows


def _startup(machine: Environment) -> AutostartFile:
    roaming = machine.environ.get("APPDATA")
    folder = Path(roaming) if roaming else machine.home / "AppData" / "Roaming"
    line = subprocess.list2cmdline(list(machine.tray)).replace("%", "%%")
    content = f'@echo off\r\nstart "" {line}\r\n'
    path = folder / "Microsoft/Windows/Start Menu/Programs/Startup" / "ctllm-tray.cmd"
    return AutostartFile(
        path, content.encode(), "the tray, and with it the desktop, starts when you sign in"
    )
