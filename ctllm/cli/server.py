"""Commands for the server: people."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from ctllm.cli.options import Command
from ctllm.config import Config
from ctllm.errors import BadConfiguration

_URL = re.compile(rb"https?://[!-~]+")


def cloud_state(config: Config) -> Any:
    """The folder of the cloud's secrets; BadConfiguration where no cloud has run."""
    from ctllm.cloud.identity import Folder

    folder = Path(config.state) / "cloud"
    if not (folder / "signing-key").exists():
        raise BadConfiguration(
            f"{folder}: no cloud has run with this state folder; "
            "run this on the server, as the same user or with the same --state"
        )
    return Folder(folder)


def invite(config: Config, told: Command) -> None:
    """Print an invitation."""
    from ctllm.cloud.identity import Invites

    state = cloud_state(config)
    url = _public_url(state) or config.cloud.url
    invites = Invites(state.inner("invites"), time.time, config.cloud.invite_minutes)
    print(f"{url}/#invite={invites.create(told.argument)}")


def _public_url(state: Any) -> str:
    """The address that the cloud kept when it started; empty where it kept none."""
    kept = state.read("url") or b""
    if kept and not _URL.fullmatch(kept):
        raise BadConfiguration(
            f"{state.path / 'url'} is damaged; restart the cloud, which writes it anew"
        )
    return str(kept.decode("ascii"))


def revoke(config: Config, told: Command) -> None:
    """End every sign-in of a user."""
    from ctllm.cloud.identity import ISSUER, Sessions, User, user_name

    user = User(ISSUER, user_name(told.argument), told.argument)
    sessions = Sessions(cloud_state(config).inner("sessions"), time.time)
    print(f"{sessions.close_all(user)} sign-ins of {user.subject} ended.")
