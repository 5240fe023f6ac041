"""The command `ctllm autostart`: desktop and tray start with the user's session, or do not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ctllm.cli.autostart_files import AutostartFile, Environment, autostart_files
from ctllm.cli.options import Command
from ctllm.cli.output import print_error, print_text
from ctllm.config import Config
from ctllm.errors import BadConfiguration, BadRequest
from ctllm.system.launch_commands import desktop_command, tray_command


def run(config: Config, told: Command) -> None:
    """Install or remove the entries; says which files."""
    if told.argument not in ("on", "off"):
        raise BadRequest(f"{told.argument}: must be on or off")
    options = [f"--state-dir={config.state_dir}"]
    if told["with-config"]:
        options.append(f"--config={Path(told['with-config']).absolute()}")
    machine = Environment(
        platform=sys.platform,
        environ=os.environ,
        has_systemd=shutil.which("systemctl") is not None,
        desktop=(*desktop_command(), *options),
        tray=(*tray_command(), *options, "--wait=120"),
    )
    for entry in autostart_files(machine):
        (_install if told.argument == "on" else _remove)(entry)


def _install(entry: AutostartFile) -> None:
    try:
        entry.path.parent.mkdir(parents=True, exist_ok=True)
        entry.path.write_bytes(entry.content)
        if entry.link is not None:
            entry.link.parent.mkdir(parents=True, exist_ok=True)
            entry.link.unlink(missing_ok=True)
            entry.link.symlink_to(entry.path)
    except OSError as error:
        raise BadConfiguration(f"{entry.path}: cannot be written: {error.strerror}") from error
    print_text(f"{entry.path}: {entry.what}")
    _try(entry.after_install)


def _remove(entry: AutostartFile) -> None:
    there = entry.path.exists()
    if there:
        _try(entry.before_removal)
    try:
        for path in (entry.path, *filter(None, [entry.link])):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise BadConfiguration(f"{entry.path}: cannot be removed: {error.strerror}") from error
    print_text(f"{entry.path}: {'removed' if there else 'was not there'}")


def _try(commands: Sequence[Sequence[str]]) -> None:
    """Tell the system's own manager now; it finds the files at the next sign-in anyway."""
    for command in commands:
        program = shutil.which(command[0])
        if program is None:
            continue
        done = subprocess.run(  # noqa: S603
            [program, *command[1:]], capture_output=True, text=True, check=False
        )
        if done.returncode:
            why = done.stderr.strip().splitlines()
            print_error(f"{' '.join(command)}: {why[-1] if why else done.returncode}")
