"""Writes and removes the files that start desktop and tray with the user's session."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ctllm.autostart.files import AutostartFile, Environment, autostart_files
from ctllm.errors import BadConfiguration
from ctllm.system.launch_commands import desktop_command, tray_command


def local_autostart_files(
    options: Sequence[str],
    *,
    platform: str = sys.platform,
    environ: Mapping[str, str] = os.environ,
) -> Sequence[AutostartFile]:
    """Return the files for this installation, whose programs start with `options`."""
    environment = Environment(
        platform=platform,
        environ=environ,
        has_systemd=shutil.which("systemctl") is not None,
        desktop=(*desktop_command(), *options),
        tray=(*tray_command(), *options, "--wait=120"),
    )
    return autostart_files(environment)


def install(file: AutostartFile) -> None:
    """Write a file; raises BadConfiguration."""
    try:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        file.path.write_bytes(file.content)
        if file.link is not None:
            file.link.parent.mkdir(parents=True, exist_ok=True)
            file.link.unlink(missing_ok=True)
            file.link.symlink_to(file.path)
    except OSError as error:
        raise BadConfiguration(f"{file.path}: cannot be written: {error.strerror}") from error


def remove(file: AutostartFile) -> None:
    """Remove a file, or replace it if it is on by default; raises BadConfiguration."""
    if any(path.exists() for path in file.defaults):
        install(replace(file, content=file.disabled))
        return
    try:
        for path in (file.path, *filter(None, [file.link])):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise BadConfiguration(f"{file.path}: cannot be removed: {error.strerror}") from error


def is_installed(files: Sequence[AutostartFile]) -> bool:
    """Return whether all of the programs start."""
    return all(map(_is_on, files))


def _is_on(file: AutostartFile) -> bool:
    try:
        return file.path.read_bytes() != file.disabled
    except OSError:
        return any(path.exists() for path in file.defaults)


def has_tray() -> bool:
    """Return whether the tray icon is installed; in a bundle it is a program beside this one."""
    if getattr(sys, "frozen", False):
        return Path(tray_command()[0]).exists()
    return importlib.util.find_spec("ctllm_tray") is not None
