"""The command `ctllm autostart`: start desktop and tray with the user's session."""

from __future__ import annotations

import shutil
import subprocess
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from ctllm.autostart.files import AutostartFile
from ctllm.autostart.installation import install, local_autostart_files, remove
from ctllm.cli.output import print_error, print_text
from ctllm.cli.parser import Parser
from ctllm.config import Config
from ctllm.errors import BadRequest


def add_commands(parser: Parser) -> None:
    """Add autostart."""
    autostart = parser.add_command(
        "autostart",
        run,
        "Start with your session (on, off)",
        "Start the desktop and its tray with your session, or no longer. Writes a systemd user "
        "unit and an autostart entry, launchd agents, or a file in the Startup folder.",
        heading="on a desktop",
        examples=("ctllm autostart on", "ctllm autostart off"),
    )
    autostart.add_argument("state", metavar="on|off", help="whether to start with your session")
    autostart.add_argument(
        "--with-config", metavar="FILE", help="the configuration file to start with"
    )


def run(config: Config, arguments: Namespace) -> None:
    """Install or remove the files and print their paths."""
    if arguments.state not in ("on", "off"):
        raise BadRequest(f"{arguments.state}: must be on or off")
    options = [f"--state-dir={config.state_dir}"]
    if arguments.with_config:
        options.append(f"--config={Path(arguments.with_config).absolute()}")
    for file in local_autostart_files(options):
        (_install if arguments.state == "on" else _remove)(file)


def _install(file: AutostartFile) -> None:
    install(file)
    print_text(f"{file.path}: {file.description}")
    _try_commands(file.after_install)


def _remove(file: AutostartFile) -> None:
    exists = file.path.exists()
    if exists:
        _try_commands(file.before_removal)
    remove(file)
    if file.path.exists():
        print_text(f"{file.path}: turns off what the package has for all users")
    else:
        print_text(f"{file.path}: {'removed' if exists else 'does not exist'}")


def _try_commands(commands: Sequence[Sequence[str]]) -> None:
    """Notify the service manager. If it fails, the files still take effect at the next login."""
    for command in commands:
        program = shutil.which(command[0])
        if program is None:
            continue
        done = subprocess.run(  # noqa: S603
            [program, *command[1:]], capture_output=True, text=True, check=False
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            print_error(f"{' '.join(command)}: {lines[-1] if lines else done.returncode}")
