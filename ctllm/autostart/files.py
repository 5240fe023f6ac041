"""The files that start programs with a session: systemd, freedesktop.org, launchd, Windows."""

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
    """The platform, and the command lines to start on it."""

    platform: str
    environ: Mapping[str, str]
    has_systemd: bool
    desktop: Sequence[str]
    tray: Sequence[str]

    @property
    def home(self) -> Path:
        """The user's home directory."""
        return Path(self.environ.get("HOME") or os.path.expanduser("~"))


@dataclass(frozen=True)
class AutostartFile:
    """A file that starts a program with a session.

    `link` is a symbolic link to it, if the system needs one. The commands notify the service
    manager; they may fail. `defaults` are where a package may have a file for all users that
    does the same; `disabled` at `path` turns that off.
    """

    path: Path
    content: bytes
    description: str
    link: Path | None = None
    after_install: Sequence[Sequence[str]] = ()
    before_removal: Sequence[Sequence[str]] = ()
    defaults: Sequence[Path] = ()
    disabled: bytes = b""


def autostart_files(environment: Environment) -> Sequence[AutostartFile]:
    """Return the files for this platform."""
    if environment.platform == "darwin":
        return (
            _launchd_agent(environment, "desktop", environment.desktop),
            _launchd_agent(environment, "tray", (*environment.tray, "--no-start")),
        )
    if environment.platform == "win32":
        return (_startup_script(environment),)
    if environment.has_systemd:
        return _systemd_unit(environment), _desktop_entry(
            environment, (*environment.tray, "--no-start")
        )
    return (_desktop_entry(environment, environment.tray),)  # the tray starts the desktop


# -- freedesktop.org and systemd


def _config_home(environment: Environment) -> Path:
    return Path(environment.environ.get("XDG_CONFIG_HOME") or environment.home / ".config")


def _systemd_unit(environment: Environment) -> AutostartFile:
    folder = _config_home(environment) / "systemd" / "user"
    start = f"ExecStart={' '.join(map(_quote_for_systemd, environment.desktop))}"
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
    """Return the unit of etc/ without its comment on how to install it by hand."""
    text = resources.files("ctllm.autostart").joinpath(_SERVICE).read_text()
    return text[text.index("[Unit]") :]


def _quote_for_systemd(word: str) -> str:
    """Quote a word of a command line (systemd.service(5), "Command lines")."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{word}"'


def _desktop_entry(environment: Environment, tray: Sequence[str]) -> AutostartFile:
    content = f"""\
[Desktop Entry]
Type=Application
Name=CloudToLocalLLM
Comment=Shows whether this machine's models can be reached
Exec={" ".join(map(_quote_for_desktop_entry, tray))}
Terminal=false
X-GNOME-Autostart-enabled=true
"""
    path = _config_home(environment) / "autostart" / "ctllm-tray.desktop"
    folders = environment.environ.get("XDG_CONFIG_DIRS") or "/etc/xdg"
    return AutostartFile(
        path,
        content.encode(),
        "the tray starts with your session",
        defaults=[Path(each) / "autostart" / path.name for each in folders.split(":") if each],
        # Desktop Application Autostart Specification, "Hidden".
        disabled=b"[Desktop Entry]\nType=Application\nName=CloudToLocalLLM\nHidden=true\n",
    )


def _quote_for_desktop_entry(word: str) -> str:
    """Quote a word of Exec, then escape it (Desktop Entry Specification, "The Exec key")."""
    for each in ("\\", '"', "`", "$"):
        word = word.replace(each, f"\\{each}")
    return f'"{word}"'.replace("\\", "\\\\").replace("%", "%%")


# -- macOS


def _launchd_agent(environment: Environment, name: str, words: Sequence[str]) -> AutostartFile:
    label = f"org.ctllm.{name}"
    properties = {
        "Label": label,
        "ProgramArguments": list(words),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ProcessType": "Interactive",
    }
    path = environment.home / "Library" / "LaunchAgents" / f"{label}.plist"
    domain = f"gui/{os.getuid()}" if hasattr(os, "getuid") else "gui/0"
    return AutostartFile(
        path,
        plistlib.dumps(properties),
        f"the {name} starts when you log in",
        None,
        (("launchctl", "bootstrap", domain, str(path)),),
        (("launchctl", "bootout", f"{domain}/{label}"),),
    )


# -- Windows


def _startup_script(environment: Environment) -> AutostartFile:
    roaming = environment.environ.get("APPDATA")
    folder = Path(roaming) if roaming else environment.home / "AppData" / "Roaming"
    line = subprocess.list2cmdline(list(environment.tray)).replace("%", "%%")
    content = f'@echo off\r\nstart "" {line}\r\n'
    path = folder / "Microsoft/Windows/Start Menu/Programs/Startup" / "ctllm-tray.cmd"
    return AutostartFile(
        path, content.encode(), "the tray starts when you log in, and starts the desktop"
    )
