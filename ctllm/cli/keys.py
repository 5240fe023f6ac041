"""The command `ctllm keys`: the API keys of a desktop."""

from __future__ import annotations

import argparse
import re
import time
from argparse import SUPPRESS, Namespace
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctllm.cli.output import print_error, print_json, print_text
from ctllm.cli.parser import Parser
from ctllm.config import Config
from ctllm.errors import BadRequest, CtllmError

if TYPE_CHECKING:
    from ctllm.auth.api_keys import KeyUse
    from ctllm.desktop.credential_file import ApiKey, CredentialFile

_COLUMNS = ("NAME", "SCOPE", "MODELS", "LIMIT", "CREATED", "EXPIRES", "LAST USED", "FROM")
_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}
_MAX_LIFETIME = 100 * _UNITS["y"]
_MAX_REQUESTS = 1_000_000


def add_commands(parser: Parser) -> None:
    """Add keys with its commands."""
    keys = parser.add_command(
        "keys",
        list_keys,
        "Manage API keys (add, rm, ls)",
        "Manage the API keys of this desktop. A key works while the desktop runs. Without a "
        "command, list them.",
        heading="on a desktop",
        examples=(
            "ctllm keys add laptop",
            "ctllm keys add bot --models 'llama*' --expires 30d --requests-per-minute 60",
            "ctllm keys rm laptop",
        ),
    )
    keys.enable_commands()
    _add_add_command(keys)
    remove = keys.add_command(
        "rm",
        remove_key,
        "Revoke a key",
        "Revoke an API key. It stops working within seconds, and its responses in progress end.",
        examples=("ctllm keys rm laptop",),
    )
    remove.add_argument("name", metavar="NAME", help="the name of the key")
    listing = keys.add_command(
        "ls",
        list_keys,
        "List the keys",
        "List the API keys of this desktop: names, what each may do, when it was last used and "
        "from where. The keys themselves are stored nowhere. The last use may be a minute old.",
        examples=("ctllm keys ls", "ctllm keys ls --json"),
    )
    for each in (keys, listing):
        each.add_argument("--json", action="store_true", default=SUPPRESS, help="print JSON")


def _add_add_command(keys: Parser) -> None:
    add = keys.add_command(
        "add",
        add_key,
        "Create a key",
        "Create an API key and print it, once: it is not stored. It works while this desktop runs. "
        "Without options it may use all models and does not expire.",
        examples=(
            "ctllm keys add laptop",
            "ctllm keys add admin --scope manage --expires 12h",
            "ctllm keys add bot --models 'llama*,qwen3:4b' --requests-per-minute 60",
        ),
    )
    add.add_argument("name", metavar="NAME", help="a name for the key")
    add.add_argument(
        "--scope", choices=("use", "manage"), default="use",
        help="use models (the default), or also pull, create, copy, push and delete them",
    )  # fmt: skip
    add.add_argument(
        "--expires", metavar="WHEN", default="",
        help="30d, 12h (also m, w, y), or the last day: 2027-01-31",
    )  # fmt: skip
    add.add_argument(
        "--models", metavar="PATTERNS", action="append", default=[],
        help="only these models: names, or patterns with * and ?, separated by commas",
    )  # fmt: skip
    add.add_argument(
        "--requests-per-minute", metavar="N", default="", help="at most N requests a minute"
    )
    add.add_argument("--manage", nargs=0, action=_RenamedManage, help=SUPPRESS)


class _RenamedManage(argparse.Action):
    """Refuses `--manage`, as it is called now `--scope manage`."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.error("--manage is now --scope manage")


# -- commands


def add_key(config: Config, arguments: Namespace) -> None:
    """Create an API key and print it."""
    from ctllm.desktop.api_keys import KeyOptions, create_api_key

    now = time.time()
    options = KeyOptions(
        arguments.scope,
        parse_expiry(arguments.expires, now) if arguments.expires else None,
        parse_models(arguments.models),
        parse_rate(arguments.requests_per_minute) if arguments.requests_per_minute else 0,
    )
    print_text(create_api_key(open_credentials(config), arguments.name, now, options))
    wait_for_cloud(config)


def remove_key(config: Config, arguments: Namespace) -> None:
    """Revoke an API key."""
    from ctllm.desktop.api_keys import revoke_api_key

    revoke_api_key(open_credentials(config), arguments.name)
    wait_for_cloud(config)


def wait_for_cloud(config: Config) -> None:
    """Wait until the cloud knows the keys as they are now, if a desktop runs and is connected."""
    from ctllm.ipc import protocol
    from ctllm.ipc.client import IpcClient

    with suppress(CtllmError), IpcClient(Path(config.state_dir)) as daemon:
        if daemon.status().state.is_connected:
            daemon.call(protocol.LeaseKeys)


def list_keys(config: Config, arguments: Namespace) -> None:
    """Print the API keys and their use."""
    from ctllm.desktop.key_usage import KeyUsageFile

    keys = sorted(open_credentials(config).load().api_keys, key=lambda key: key.name)
    uses = KeyUsageFile(Path(config.state_dir)).load()
    if getattr(arguments, "json", False):
        print_json([_to_json(key, uses.get(key.id)) for key in keys])
    else:
        print_text(format_keys(keys, uses, time.time()))


def open_credentials(config: Config) -> CredentialFile:
    """Return the desktop's credential file, whose damage is printed."""
    from ctllm.desktop.credential_file import CredentialFile

    return CredentialFile(Path(config.state_dir), print_error)


# -- options


def parse_expiry(text: str, now: float) -> int:
    """Return the epoch seconds of `30d`, or of the end of the local day `2027-01-31`.

    `now` is in epoch seconds. Raises BadRequest.
    """
    found = re.fullmatch(r"([0-9]{1,9})([mhdwy])", text)
    if found is not None:
        seconds = int(found[1]) * _UNITS[found[2]]
        if not 0 < seconds <= _MAX_LIFETIME:
            raise BadRequest(f"--expires {text}: a key lasts from one minute to 100 years.")
        return int(now) + seconds
    try:
        end = _end_of_day(text) if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text) else None
    except (ValueError, OverflowError, OSError):
        end = None
    if end is None:
        raise BadRequest(
            f"--expires {text!r} is not a time. Write a duration (30d, 12h, 90m, 2w, 1y) or the "
            "last day on which the key works (2027-01-31)."
        )
    if end <= now:
        raise BadRequest(f"--expires {text} is in the past.")
    return end


def _end_of_day(text: str) -> int:
    day = date.fromisoformat(text) + timedelta(days=1)
    return int(datetime(day.year, day.month, day.day).astimezone().timestamp())


def parse_models(given: Iterable[str]) -> tuple[str, ...]:
    """Return the patterns of `--models`, which may be repeated; raises BadRequest."""
    from ctllm.auth.model_patterns import parse_patterns

    patterns = tuple(
        dict.fromkeys(each.strip().lower() for text in given for each in text.split(","))
    )
    parse_patterns(patterns)
    return patterns


def parse_rate(text: str) -> int:
    """Return a number of requests a minute; raises BadRequest."""
    if not re.fullmatch(r"[0-9]{1,7}", text) or not 1 <= int(text) <= _MAX_REQUESTS:
        raise BadRequest(
            f"--requests-per-minute {text!r} is not a whole number from 1 to {_MAX_REQUESTS:,}."
        )
    return int(text)


# -- the list


def format_keys(keys: Sequence[ApiKey], uses: Mapping[str, KeyUse], now: float) -> str:
    """Return a table of `keys`; `now` is in epoch seconds."""
    if not keys:
        return "There are no API keys. Create one with: ctllm keys add NAME"
    rows = [_COLUMNS, *(_format_row(key, uses.get(key.id), now) for key in keys)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _format_row(key: ApiKey, use: KeyUse | None, now: float) -> tuple[str, ...]:
    return (
        key.name,
        key.scope,
        ",".join(key.models) or "all",
        f"{key.requests_per_minute:.0f}/min" if key.requests_per_minute else "-",
        _format_time(key.created) if key.created else "-",
        "expired" if key.is_expired(now) else _format_time(key.expires) if key.expires else "never",
        _format_time(use.last_used) if use else "never",
        (use and use.address) or "-",
    )


def _format_time(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        return "?"


def _to_json(key: ApiKey, use: KeyUse | None) -> dict[str, Any]:
    return {
        "name": key.name,
        "id": key.id,
        "scope": key.scope,
        "models": list(key.models),
        "requests_per_minute": int(key.requests_per_minute) or None,
        "created": _iso(key.created or None),
        "expires": _iso(key.expires),
        "last_used": _iso(use.last_used if use else None),
        "last_address": (use and use.address) or None,
        "requests": use.requests if use else 0,
    }


def _iso(seconds: float | None) -> str | None:
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return None
