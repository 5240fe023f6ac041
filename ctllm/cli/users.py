"""Commands for the users of a cloud: invite, revoke and users."""

from __future__ import annotations

import re
import shlex
import sys
import time
from argparse import SUPPRESS, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ctllm.cli.output import is_terminal, print_error, print_json, print_text
from ctllm.cli.parser import Parser
from ctllm.common.sanitize import sanitize_line
from ctllm.config import Config
from ctllm.errors import BadConfiguration, BadRequest

if TYPE_CHECKING:
    from ctllm.cloud.identity import PrivateDirectory, User
    from ctllm.cloud.user_accounts import Removed, UserAccount, UserAccounts

#: Seconds in which a running cloud has ended the access of a user: it polls twice a second.
_SETTLING_SECONDS = 1.5
_COLUMNS = ("NAME", "PROVIDER", "LAST SEEN", "SESSIONS", "STATE", "ID")
_URL = re.compile(rb"https?://[!-~]+")


def add_commands(parser: Parser) -> None:
    """Add invite, revoke and users."""
    invite_parser = parser.add_command(
        "invite",
        invite,
        "Create a login link for a user",
        "Print a link that logs in the user NAME once, in a browser or on a desktop with "
        "`ctllm login`. It is valid for 15 minutes (cloud.invite_ttl_minutes). A user who does "
        "not exist yet is created.",
        heading="on the server",
        examples=("ctllm invite alice", "ctllm --state-dir /var/lib/ctllm invite alice"),
    )
    invite_parser.add_argument("name", metavar="NAME", help="the user's name")
    revoke_parser = parser.add_command(
        "revoke",
        revoke,
        "End all sessions of a user",
        "End all sessions of a user with everything that depends on them: tokens, API keys, "
        "machines and open invites. A running cloud closes the user's connections within two "
        "seconds. The user may sign in again, with a new invite or at the provider; "
        "`ctllm users disable` prevents that.",
        heading="on the server",
        examples=("ctllm --state-dir /var/lib/ctllm revoke alice",),
    )
    _add_user(revoke_parser)
    _add_users_command(parser)


def _add_users_command(parser: Parser) -> None:
    users = parser.add_command(
        "users",
        list_users,
        "Manage users (ls, disable, enable, forget, export)",
        "List the users who have signed in, with their provider and their sessions. The time at "
        "which a user was last seen may be an hour old.",
        heading="on the server",
        examples=(
            "ctllm users",
            "ctllm users disable alice",
            "ctllm users export 'https://login.example|1234'",
        ),
    )
    users.enable_commands()
    listing = users.add_command("ls", list_users, "List the users", "List the users.")
    for each in (users, listing):
        each.add_argument("--json", action="store_true", default=SUPPRESS, help="print JSON")
    for name, handler, summary, description in (
        (
            "disable",
            disable_user,
            "Give a user no access",
            "Give a user no access until `ctllm users enable`, whatever the user presents: tokens "
            "of the provider, sessions, API keys, machines, invites. A running cloud closes the "
            "user's connections within two seconds.",
        ),
        (
            "enable",
            enable_user,
            "Let a disabled user in again",
            "Let a disabled user in again. Sessions that were not revoked go on.",
        ),
        (
            "forget",
            forget_user,
            "Remove all that is stored of a user",
            "End all sessions of a user and remove all that the cloud stores of the user. The "
            "user may sign in again.",
        ),
        (
            "export",
            export_user,
            "Print all that is stored of a user",
            "Print all that the cloud stores of a user, as JSON without secrets.",
        ),
    ):
        _add_user(users.add_command(name, handler, summary, description))


def _add_user(parser: Parser) -> None:
    parser.add_argument(
        "user",
        metavar="USER",
        help="the name or subject, or the id: the issuer, a bar and the subject",
    )


def open_cloud_state(config: Config) -> PrivateDirectory:
    """Return the directory of the cloud's secrets.

    Raises BadConfiguration if there is none, and BadRequest if this user may not look into it.
    """
    from ctllm.cloud.identity import PrivateDirectory

    folder = Path(config.state_dir) / "cloud"
    try:
        has_run = (folder / "signing-key").exists()
    except PermissionError:
        raise BadRequest(f"{folder}: only root and the cloud's user may use this command") from None
    if not has_run:
        raise BadConfiguration(
            f"{folder}: no cloud has run with this state directory; run this on the server, as the "
            "same user or with the same --state-dir"
        )
    return PrivateDirectory(folder)


def invite(config: Config, arguments: Namespace) -> None:
    """Print an invite link."""
    print_text(create_invite_link(config, arguments.name))


def create_invite_link(config: Config, name: str) -> str:
    """Return a link that logs in the user `name` once. Raises BadConfiguration."""
    from ctllm.cloud.identity import Invites

    state = open_cloud_state(config)
    url = _stored_public_url(state) or config.cloud.public_url
    invites = Invites(state.subdirectory("invites"), time.time, config.cloud.invite_ttl_minutes)
    return f"{url}/#invite={invites.create(name)}"


def _stored_public_url(state: PrivateDirectory) -> str:
    """Return the URL that the cloud stored when it started; "" if it stored none."""
    stored = state.read("url") or b""
    if stored and not _URL.fullmatch(stored):
        raise BadConfiguration(
            f"{state.path / 'url'} is damaged; restart the cloud, which writes it again"
        )
    return stored.decode("ascii")


def _open_accounts(config: Config) -> UserAccounts:
    from ctllm.cloud.user_accounts import UserAccounts

    return UserAccounts(open_cloud_state(config))


def revoke(config: Config, arguments: Namespace) -> None:
    """End all sessions, machines and invites of a user."""
    accounts = _open_accounts(config)
    user = accounts.resolve(arguments.user)
    print_text(f"Ended {_format_removed(accounts.revoke(user))} of {user.name}.")
    _warn_of_provider(user, "sign in again there with a fresh token at any time")


def disable_user(config: Config, arguments: Namespace) -> None:
    """Give a user no access."""
    accounts = _open_accounts(config)
    user = accounts.resolve(arguments.user)
    accounts.disable(user)
    print_text(
        f"Disabled {user.name}: nothing gives this user access until you run: "
        f"ctllm users enable {shlex.quote(user.id)}"
    )


def enable_user(config: Config, arguments: Namespace) -> None:
    """Let a disabled user in again."""
    accounts = _open_accounts(config)
    user = accounts.resolve(arguments.user)
    if accounts.enable(user):
        print_text(f"Enabled {user.name}.")
    else:
        print_text(f"{user.name} was not disabled.")


def forget_user(config: Config, arguments: Namespace) -> None:
    """Remove all that is stored of a user."""
    accounts = _open_accounts(config)
    user = accounts.resolve(arguments.user)
    removed = accounts.forget(user, wait=lambda: time.sleep(_SETTLING_SECONDS))
    print_text(
        f"Forgot {user.name}: removed {_format_removed(removed)}. What remains has no name, only a "
        "hash that needs the key of this cloud: when access ended, whether the user is disabled, "
        "and lines of the audit log until they are removed (cloud.audit_retention_days). Backups "
        "and the logs of other programs are yours to clear."
    )
    _warn_of_provider(user, "sign in again and is then stored anew")


def export_user(config: Config, arguments: Namespace) -> None:
    """Print all that is stored of a user."""
    accounts = _open_accounts(config)
    print_json(accounts.export(accounts.resolve(arguments.user)))


def _format_removed(removed: Removed) -> str:
    machines = f", {removed.machines} machines" if removed.machines else ""
    return f"{removed.sessions} sessions{machines} and {removed.invites} open invites"


def _warn_of_provider(user: User, what: str) -> None:
    from ctllm.cloud.identity import ISSUER

    if user.issuer != ISSUER:
        print_text(
            f"The user's provider is {user.issuer}: unless it refuses, {user.name} can {what}. To "
            f"prevent that: ctllm users disable {shlex.quote(user.id)}"
        )


# -- the list


def list_users(config: Config, arguments: Namespace) -> None:
    """List the users."""
    accounts = _open_accounts(config).list_all()
    providers = _provider_names(config)
    if getattr(arguments, "json", False):
        print_json([_to_json(account, providers) for account in accounts])
    elif not accounts:
        print_error("Nobody has signed in yet. Create an invite with: ctllm invite NAME")
    else:
        print_text(_format_users(accounts, providers, is_terminal(sys.stdout)))


def _provider_names(config: Config) -> dict[str, str]:
    """Return the name of the provider of each issuer, as in the ids of users."""
    return {provider.user_issuer: name for name, provider in config.cloud.providers.items()}


def _format_users(
    accounts: Sequence[UserAccount], providers: Mapping[str, str], is_terminal: bool
) -> str:
    """Return a table with columns for a terminal, else a line for each user with tabs."""
    rows = [_format_row(account, providers) for account in accounts]
    if not is_terminal:
        return "\n".join("\t".join(row) for row in rows)
    rows = [_COLUMNS, *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _format_row(account: UserAccount, providers: Mapping[str, str]) -> tuple[str, ...]:
    return (
        sanitize_line(account.user.name),
        sanitize_line(providers.get(account.user.issuer, account.user.issuer)),
        _format_time(account.last_seen) or "-",
        str(account.sessions),
        "disabled" if account.is_disabled else "active",
        sanitize_line(account.user.id),
    )


def _to_json(account: UserAccount, providers: Mapping[str, str]) -> dict[str, object]:
    return {
        "id": account.user.id,
        "name": account.user.name,
        "issuer": account.user.issuer,
        "provider": providers.get(account.user.issuer),
        "first_seen": _format_time(account.first_seen),
        "last_seen": _format_time(account.last_seen),
        "sessions": account.sessions,
        "state": "disabled" if account.is_disabled else "active",
    }


def _format_time(epoch_seconds: float) -> str | None:
    from ctllm.cloud.user_accounts import format_time

    return format_time(epoch_seconds) if epoch_seconds else None
