"""Commands for the users of a cloud: invite and revoke."""

from __future__ import annotations

import re
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from ctllm.cli.output import print_text
from ctllm.cli.parser import Parser
from ctllm.config import Config
from ctllm.errors import BadConfiguration

if TYPE_CHECKING:
    from ctllm.cloud.identity import PrivateDirectory

_URL = re.compile(rb"https?://[!-~]+")


def add_commands(parser: Parser) -> None:
    """Add invite and revoke."""
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
        "End all sessions of the user NAME with everything that depends on them: tokens, API keys "
        "and open invites. A running cloud closes the user's connections within two seconds. To "
        "let the user in again, create a new invite.",
        heading="on the server",
        examples=("ctllm --state-dir /var/lib/ctllm revoke alice",),
    )
    revoke_parser.add_argument("name", metavar="NAME", help="the user's name")


def open_cloud_state(config: Config) -> PrivateDirectory:
    """Return the directory of the cloud's secrets. Raises BadConfiguration if there is none."""
    from ctllm.cloud.identity import PrivateDirectory

    folder = Path(config.state_dir) / "cloud"
    if not (folder / "signing-key").exists():
        raise BadConfiguration(
            f"{folder}: no cloud has run with this state directory; run this on the server, as the "
            "same user or with the same --state-dir"
        )
    return PrivateDirectory(folder)


def invite(config: Config, arguments: Namespace) -> None:
    """Print an invite link."""
    from ctllm.cloud.identity import Invites

    state = open_cloud_state(config)
    url = _stored_public_url(state) or config.cloud.public_url
    invites = Invites(state.subdirectory("invites"), time.time, config.cloud.invite_ttl_minutes)
    print_text(f"{url}/#invite={invites.create(arguments.name)}")


def _stored_public_url(state: PrivateDirectory) -> str:
    """Return the URL that the cloud stored when it started; "" if it stored none."""
    stored = state.read("url") or b""
    if stored and not _URL.fullmatch(stored):
        raise BadConfiguration(
            f"{state.path / 'url'} is damaged; restart the cloud, which writes it again"
        )
    return stored.decode("ascii")


def revoke(config: Config, arguments: Namespace) -> None:
    """End all sessions and invites of a user."""
    from ctllm.cloud.identity import (
        ISSUER,
        Invites,
        Revocations,
        Sessions,
        User,
        load_signing_keys,
        parse_user_name,
    )

    name = parse_user_name(arguments.name)
    user = User(ISSUER, name, name)
    state = open_cloud_state(config)
    # The revocation comes first. It holds even if the rest fails.
    instance_secret = load_signing_keys(state).instance_secret
    Revocations(state.subdirectory("revocations"), instance_secret).revoke(user)
    sessions = Sessions(state.subdirectory("sessions"), time.time).close_all(user)
    invites = Invites(state.subdirectory("invites"), time.time).remove_all(user)
    print_text(f"Ended {sessions} sessions and {invites} open invites of {name}.")
