"""Invites: one-time secrets, valid for some minutes, that authenticate a user by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from secrets import token_urlsafe

from ctllm.auth.session_assertions import ISSUER
from ctllm.cloud.identity.grants import Authentication, User
from ctllm.cloud.identity.hashed_store import HashedStore
from ctllm.errors import BadRequest, Unauthorized
from ctllm.system.private_dir import PrivateDirectory

_INVALID = (
    "This invite link has expired or was used before. Create a new one with `ctllm invite NAME`."
)
_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Invite:
    """The stored part of an invite. Field names are the JSON keys; times are epoch seconds."""

    name: str
    expires: float
    created: float = 0.0


def parse_user_name(text: str) -> str:
    """Return `text` in lower case if it can be the name of a user; raises BadRequest."""
    if not _NAME.fullmatch(text):
        raise BadRequest(
            "A user name must have 1 to 64 characters: the letters a to z, digits, and . _ @ - "
            "It must begin with a letter or a digit."
        )
    return text.lower()


class Invites:
    """The invites in `directory`, which the service and `ctllm invite` share.

    `now` returns epoch seconds.
    """

    def __init__(
        self, directory: PrivateDirectory, now: Callable[[], float], minutes: float = 15
    ) -> None:
        self._store = HashedStore(directory, Invite)
        self._now = now
        self._lifetime = minutes * 60

    def create(self, name: str) -> str:
        """Create an invite for the user `name` and return its secret; raises BadRequest."""
        secret = token_urlsafe(32)
        now = self._now()
        self._store.put(secret, Invite(parse_user_name(name), now + self._lifetime, now))
        return secret

    def verify(self, secret: str) -> Authentication:
        """Return what an invite authenticates, without redeeming it; raises Unauthorized."""
        invite = self._store.get(secret)
        if invite is None or self._now() >= invite.expires:
            raise Unauthorized(_INVALID)
        return Authentication(User(ISSUER, invite.name, invite.name), invite.created)

    def redeem(self, secret: str) -> User:
        """Return the user of an invite and remove the invite; raises Unauthorized."""
        invite = self._store.get(secret)
        # Of several concurrent calls that read it, only the one that removes it succeeds.
        if invite is None or not self._store.remove(secret) or self._now() >= invite.expires:
            raise Unauthorized(_INVALID)
        return User(ISSUER, invite.name, invite.name)

    def list_all(self) -> list[Invite]:
        """Return the invites that are stored; reads every file."""
        return self._store.list_values()

    def remove_all(self, user: User) -> int:
        """Remove every invite of `user` and return their number."""
        return self._store.remove_where(
            lambda invite: invite is not None and user == User(ISSUER, invite.name, invite.name)
        )

    def remove_expired(self) -> int:
        """Remove expired and damaged invites and return their number."""
        now = self._now()
        return self._store.remove_where(lambda invite: invite is None or now >= invite.expires)
