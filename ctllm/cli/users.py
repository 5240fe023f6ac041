"""Commands for the server: people."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from ctllm.cli.options import Command
from ctllm.cli.output import print_text
from ctllm.config import Config
from ctllm.errors import BadConfiguration

_URL = re.compile(rb"https?://[!-~]+")


def open_cloud_state(config: Config) -> Any:
    """The folder of the cloud's secrets; BadConfiguration where no cloud has run."""
    from ctllm.cloud.identity import PrivateDirectory

    folder = Path(config.state_dir) / "cloud"
    if not (folder / "signing-key").exists():
        raise BadConfiguration(
            f"{folder}: no cloud has run with this state folder; "
            "run this on the server, as the same user or with the same --state-dir"
        )
    return PrivateDirectory(folder)


def invite(config: Config, told: Command) -> None:
    """Print an invitation."""
    from ctllm.cloud.identity import Invites

    state = open_cloud_state(config)
    url = _public_url(state) or config.cloud.public_url
    invites = Invites(state.subdirectory("invites"), time.time, config.cloud.invite_ttl_minutes)
    print_text(f"{url}/#invite={invites.create(told.argument)}")


def _public_url(state: Any) -> str:
    """The address that the cloud kept when it started; empty where it kept none."""
    kept = state.read("url") or b""
    if kept and not _URL.fullmatch(kept):
        raise BadConfiguration(
            f"{state.path / 'url'} is damaged; restart the cloud, which writes it anew"
        )
    return str(kept.decode("ascii"))


def revoke(config: Config, told: Command) -> None:
    """End every sign-in of a user, and all that came of one."""
    from ctllm.cloud.identity import (
        ISSUER,
        Invites,
        Revocations,
        Sessions,
        User,
        load_signing_keys,
        parse_user_name,
    )

    name = parse_user_name(told.argument)
    user = User(ISSUER, name, name)
    state = open_cloud_state(config)
    # This comes first: whatever goes wrong with the rest, nothing of it counts any more.
    Revocations(state.subdirectory("revocations"), load_signing_keys(state).instance_secret).revoke(
        user
    )
    sessions = Sessions(state.subdirectory("sessions"), time.time).close_all(user)
    invites = Invites(state.subdirectory("invites"), time.time).remove_all(user)
    print_text(f"{sessions} sign-ins and {invites} open invitations of {name} ended.")
