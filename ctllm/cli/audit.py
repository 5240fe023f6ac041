"""The command `ctllm audit`: the audit log of a cloud as a table, or as JSON."""

from __future__ import annotations

import re
import sys
import time
from argparse import Namespace
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ctllm.cli.output import is_stdout_closed, is_terminal, print_error, print_json, print_text
from ctllm.cli.parser import Parser
from ctllm.cli.users import open_cloud_state
from ctllm.common.sanitize import sanitize_line
from ctllm.config import Config
from ctllm.errors import BadRequest

if TYPE_CHECKING:
    from ctllm.cloud.audit import AuditEntry

_WIDTHS = (19, 23, 16, 18)
_COLUMNS = ("TIME", "EVENT", "USER", "ADDRESS", "DETAILS")
_AGE = re.compile(r"([0-9]{1,6})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
#: The beginning of a hash of a user. A user with such a name is found first.
_HASH = re.compile(r"[0-9a-f]{4,32}")
#: Characters of a hash that are shown.
_HASH_SHOWN = 12


def add_commands(parser: Parser) -> None:
    """Add audit."""
    audit = parser.add_command(
        "audit",
        show_audit,
        "Show who signed in, and what was refused",
        "Show the audit log of this server's cloud: sign-ins, refusals, uses of API keys, "
        "revocations, and the life of streaming proxies. Times are local. A user of whom nothing "
        "is stored any more is shown as a hash. Not on a terminal, tabs separate the columns.",
        heading="on the server",
        examples=(
            "ctllm audit --since 2h",
            "ctllm audit --event 'login.*' --since 2026-11-28 --until 2026-11-29",
            "ctllm audit --user alice --json",
            "ctllm audit --follow --since 1m",
        ),
    )
    audit.add_argument("--since", metavar="TIME", help="from then on: 30m, 2h, 7d, or a date")
    audit.add_argument("--until", metavar="TIME", help="before then")
    audit.add_argument("--event", metavar="PATTERN", default="*", help="such as 'session.*'")
    audit.add_argument("--user", metavar="USER", help="the name, the id, or the hash")
    audit.add_argument("--json", action="store_true", help="print JSON lines")
    audit.add_argument("--follow", action="store_true", help="go on with what is added")


def show_audit(config: Config, arguments: Namespace) -> None:
    """Print the entries that are wanted, the oldest first."""
    from ctllm.cloud.audit import AUDIT_FILE, AuditFile, AuditFilter, AuditReader

    now = time.time()
    wanted = AuditFilter(
        _parse_time(arguments.since, now) if arguments.since else None,
        _parse_time(arguments.until, now) if arguments.until else None,
        arguments.event,
        _find_user_hash(config, arguments.user) if arguments.user else "",
    )
    names = {} if arguments.json else _names_of_users(config)
    reader = AuditReader(AuditFile(Path(config.state_dir) / AUDIT_FILE))
    if not arguments.json:
        print_text(_format_line(_COLUMNS))
    with suppress(KeyboardInterrupt):
        for entry in reader.follow() if arguments.follow else reader.read():
            if wanted.matches(entry):
                _print_entry(entry, names, arguments.json)
            if is_stdout_closed():
                break
    if reader.damaged:
        print_error(f"{reader.damaged} damaged lines were left out.")


def _print_entry(entry: AuditEntry, names: Mapping[str, str], as_json: bool) -> None:
    import msgspec

    if as_json:
        print_json(msgspec.to_builtins(entry))
    else:
        print_text(format_entry(entry, names))


def format_entry(entry: AuditEntry, names: Mapping[str, str]) -> str:
    """Return a row of the table. `names` has the names of users by their hashes."""
    hashed = entry.user_hash
    user = names.get(hashed) or hashed[:_HASH_SHOWN]
    cells = (_format_time(entry), entry.event, user, entry.address, _format_details(entry))
    return _format_line(tuple(sanitize_line(cell) or "-" for cell in cells))


def _format_line(cells: tuple[str, ...]) -> str:
    if not is_terminal(sys.stdout):
        return "\t".join(cells)
    *columns, last = cells
    padded = (text.ljust(width) for text, width in zip(columns, _WIDTHS, strict=True))
    return "  ".join([*padded, last]).rstrip()


def _format_time(entry: AuditEntry) -> str:
    from ctllm.cloud.audit import epoch_seconds

    at = epoch_seconds(entry)
    return (
        entry.time if at is None else datetime.fromtimestamp(at).isoformat(" ", timespec="seconds")
    )


def _format_details(entry: AuditEntry) -> str:
    parts = [
        entry.method,
        entry.credential,
        entry.reason,
        entry.detail,
        "" if entry.milliseconds is None else f"{entry.milliseconds} ms",
        "" if entry.count is None else f"{entry.count} more",
    ]
    return ", ".join(part for part in parts if part)


def _parse_time(text: str, now: float) -> float:
    """Return epoch seconds: of an age such as 2h, or of a date and time, local unless it says."""
    if age := _AGE.fullmatch(text):
        return now - int(age[1]) * _SECONDS[age[2]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError) as error:
        raise BadRequest(
            f"{text} is no time. Write an age such as 30m, 2h or 7d, or a date such as 2026-11-28 "
            "or 2026-11-28T14:30."
        ) from error


def _find_user_hash(config: Config, text: str) -> str:
    """Return the hash of a user, or its beginning; raises NotFound or BadRequest."""
    from ctllm.cloud.identity import PROXY_PREFIX, load_signing_keys, user_hash
    from ctllm.cloud.user_accounts import UserAccounts
    from ctllm.errors import NotFound

    state = open_cloud_state(config)
    given = text.removeprefix(PROXY_PREFIX)
    try:
        user = UserAccounts(state).resolve(given)
    except NotFound:
        if _HASH.fullmatch(given):
            return given
        raise
    return user_hash(load_signing_keys(state).instance_secret, user.id)


def _names_of_users(config: Config) -> dict[str, str]:
    """Return the names of the users of whom something is stored, by their hashes."""
    from ctllm.cloud.identity import load_signing_keys, user_hash
    from ctllm.cloud.user_accounts import UserAccounts

    state = open_cloud_state(config)
    secret = load_signing_keys(state).instance_secret
    accounts = UserAccounts(state).list_all()
    return {user_hash(secret, each.user.id): each.user.name for each in accounts}
