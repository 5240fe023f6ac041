"""The command `ctllm server`: set a server up, check it, back it up and restore it."""

from __future__ import annotations

import os
import sys
import time
from argparse import ArgumentTypeError, Namespace
from pathlib import Path
from typing import BinaryIO

from ctllm.cli.output import is_terminal, print_error, print_text
from ctllm.cli.parser import Parser
from ctllm.cli.users import open_cloud_state
from ctllm.config import Config, find_file
from ctllm.errors import BadRequest

_HEADING = "on the server"
_EXIT_CODES = "It exits with 0, with 2 if a check found a fault, and with 1 if it could not run"


def add_commands(parser: Parser) -> None:
    """Add server with its commands."""
    server = parser.add_command(
        "server",
        lambda *_: server.error("no command given"),
        "Set up, check, back up and restore a server (init, check, backup, restore)",
        "Set up a server in containers, check a server, back it up and restore it.",
        heading=_HEADING,
        examples=(
            "ctllm server init --folder /srv/ctllm --domain example.org --email me@example.org",
            "ctllm server check https://app.example.org",
            "sudo ctllm --state-dir /var/lib/ctllm server backup /var/backups/ctllm.tar",
            "sudo ctllm --state-dir /var/lib/ctllm server restore /var/backups/ctllm.tar",
        ),
    )
    server.enable_commands()
    _add_init(server)
    _add_check(server)
    _add_backup(server)
    _add_restore(server)


def _add_init(server: Parser) -> None:
    """Add init to the commands of server."""
    init = server.add_command(
        "init",
        run_init,
        "Write or upgrade the folder of a server",
        "Write what a server needs into a folder: compose.yaml, .env and ctllm.toml. Then check "
        "what can be checked before it starts: Docker, the images, DNS, ports, memory and disk. "
        "In a folder that it has written before, it upgrades: files that you have not changed are "
        "replaced; of those that you have, the new one is written beside, with the suffix .new; "
        "in .env your values are kept and new keys are added as comments. "
        f"{_EXIT_CODES} and nothing was written.",
        examples=(
            "ctllm server init --folder /srv/ctllm --domain example.org --email me@example.org",
            "ctllm server init --folder /srv/ctllm --dry-run",
            "ctllm server init --folder /srv/ctllm",
        ),
    )
    _add_folder(init)
    init.add_argument(
        "--domain", metavar="DOMAIN",
        help="the domain of the server; the chat page and the API are at app.DOMAIN",
    )  # fmt: skip
    init.add_argument(
        "--email", metavar="ADDRESS",
        help="where the authority of the certificate writes if a renewal fails",
    )  # fmt: skip
    init.add_argument(
        "--dry-run", action="store_true", help="show what would be written, and check"
    )
    init.add_argument(
        "--adopt", action="store_true",
        help="upgrade a folder that this command did not write: files that differ are kept",
    )  # fmt: skip
    _add_timeout(init)


def _add_check(server: Parser) -> None:
    """Add check to the commands of server."""
    check = server.add_command(
        "check",
        run_check,
        "Check a running server, from outside and inside",
        "Check a server. With a URL, from outside, as any machine can: DNS, certificate, TLS, "
        "health, clock, headers, and whether responses stream. Without one, the server whose "
        "folder this is: Docker, each container, the isolation of streaming proxies, files, "
        "memory, disk and clock, then the same from outside. Each line has the state (ok, "
        "warning, fault, or unknown for what could not be checked), what was checked and found, "
        "and what to do. "
        f"{_EXIT_CODES}. Warnings are no faults, unless with --strict.",
        examples=(
            "ctllm server check https://app.example.org",
            "sudo ctllm server check --folder /srv/ctllm",
            "ctllm server check --json https://app.example.org",
        ),
    )
    check.add_argument("url", metavar="URL", nargs="?", help="the server to check from outside")
    _add_folder(check)
    check.add_argument("--json", action="store_true", help="print one JSON object")
    check.add_argument("--strict", action="store_true", help="warnings count as faults")
    _add_timeout(check)


def _add_folder(parser: Parser) -> None:
    parser.add_argument(
        "--folder", metavar="FOLDER", type=Path, default=Path(),
        help="the folder of the compose file (default: the current one)",
    )  # fmt: skip


def _add_timeout(parser: Parser) -> None:
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=_parse_seconds, default=10.0,
        help="how long to wait in each step (default: 10)",
    )  # fmt: skip


def _parse_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 600:
        raise ArgumentTypeError(f"{text!r} is not a number of seconds from 0.1 to 600")
    return seconds


def _add_backup(server: Parser) -> None:
    backup = server.add_command(
        "backup",
        run_backup,
        "Write a backup to a file",
        "Write the state directory and the configuration file to the new file FILE, a tar archive "
        "that only you can read. The cloud may run. The archive has the cloud's keys: whoever has "
        "it can sign in as any user, so keep it like a password. What a start makes anew, open "
        "invites and users' requests are not in it.",
        examples=("sudo ctllm --state-dir /var/lib/ctllm server backup /var/backups/ctllm.tar",),
    )
    backup.add_argument("file", metavar="FILE", help="the new file; - is standard output")
    backup.add_argument(
        "--folder", metavar="FOLDER", type=Path,
        help="also back up this folder: that of the compose file",
    )  # fmt: skip


def _add_restore(server: Parser) -> None:
    restore = server.add_command(
        "restore",
        run_restore,
        "Restore a backup",
        "Restore the backup FILE into the state directory, which must be empty or missing. The "
        "cloud must not run. The files get the owner of the state directory. The configuration "
        "file is written to its place; if another one is there already, beside it, with the suffix "
        ".restored. Whoever was signed in when the backup was made is signed in again.",
        examples=(
            "sudo install -d -m 700 -o ctllm -g ctllm /var/lib/ctllm",
            "sudo ctllm --state-dir /var/lib/ctllm server restore /var/backups/ctllm.tar",
        ),
    )
    restore.add_argument("file", metavar="FILE", help="the backup; - is standard input")
    restore.add_argument(
        "--folder", metavar="FOLDER", type=Path,
        help="restore the folder of the compose file here; it must be empty or missing",
    )  # fmt: skip
    restore.add_argument(
        "--config-file", metavar="PATH", type=Path,
        help="where to write the configuration file (default: the one that is in use, else "
        "/etc/ctllm/ctllm.toml for root and ~/.config/ctllm/ctllm.toml for others)",
    )  # fmt: skip


def run_init(config: Config, arguments: Namespace) -> None:
    """Write or upgrade the folder of a server."""
    from ctllm.cli.server_setup import set_up_server

    set_up_server(arguments)


def run_check(config: Config, arguments: Namespace) -> None:
    """Check a server."""
    from ctllm.cli.server_setup import check_server

    check_server(config, arguments)


def run_backup(config: Config, arguments: Namespace) -> None:
    """Write a backup."""
    from ctllm.server.backup import BackupSource, write_backup, write_backup_file

    open_cloud_state(config)  # or say that there is none
    source = BackupSource(
        Path(config.state_dir), _config_file_in_use(arguments), _existing(arguments.folder)
    )
    if arguments.file == "-":
        report = write_backup(source, _binary_stdout())
        target = "standard output"
    else:
        target = arguments.file
        report = write_backup_file(source, Path(target))
    print_error(
        f"Wrote {report.files} files ({report.size / 1e6:.1f} MB) to {target}. They include the "
        "keys of this cloud: keep them like a password."
    )


def run_restore(config: Config, arguments: Namespace) -> None:
    """Restore a backup."""
    from ctllm.server.restore import RestoreTarget, restore_backup

    state_dir = Path(config.state_dir)
    _require_stopped(state_dir)
    target = RestoreTarget(
        state_dir, arguments.config_file or _default_config_file(arguments), arguments.folder
    )
    if arguments.file == "-":
        report = restore_backup(sys.stdin.buffer, target)
    else:
        with _open(Path(arguments.file)) as file:
            report = restore_backup(file, target)
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime(report.header.created))
    print_text(f"Restored {report.files} files of {made} (ctllm {report.header.ctllm}):")
    print_text(f"  state directory     {state_dir}")
    if report.config_file is not None:
        print_text(f"  configuration file  {report.config_file}")
    if arguments.folder is not None:
        print_text(f"  folder              {arguments.folder}")
    if report.skipped_folder:
        print_text("The backup also has the folder of the compose file; see --folder.")


def _require_stopped(state_dir: Path) -> None:
    from ctllm.cloud.admin.api import admin_socket_path, is_listening

    try:
        is_running = is_listening(admin_socket_path(state_dir))
    except PermissionError:
        raise BadRequest(f"{state_dir}: only root and the cloud's user may restore it") from None
    if is_running:
        raise BadRequest(
            f"A cloud runs with the state directory {state_dir}. Stop it, and move that directory "
            "away: a backup is restored into an empty one."
        )


def _config_file_in_use(arguments: Namespace) -> Path | None:
    named = Path(arguments.config) if arguments.config else find_file(os.environ)
    return named if named is not None and named.is_file() else None


def _default_config_file(arguments: Namespace) -> Path:
    if in_use := _config_file_in_use(arguments):
        return in_use
    if os.geteuid() == 0:
        return Path("/etc/ctllm/ctllm.toml")
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(home) / "ctllm" / "ctllm.toml"


def _existing(folder: Path | None) -> Path | None:
    if folder is not None and not folder.is_dir():
        raise BadRequest(f"{folder} is not a directory")
    return folder


def _binary_stdout() -> BinaryIO:
    if is_terminal(sys.stdout):
        raise BadRequest("a backup is not for a terminal; name a file instead of -")
    return sys.stdout.buffer


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise BadRequest(f"{path}: {error.strerror}") from error
