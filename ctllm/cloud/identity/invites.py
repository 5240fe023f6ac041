"""Invites: a one-time secret, good for some minutes, that makes whoever brings it a user."""

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

LIFETIME = 15 * 60
"""Seconds that an invite is good for."""

_INVALID = "This sign-in link was used before or is too old: get a new one with `ctllm invite`."
_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Invite:
    """What is kept of an invite; `expires` and `created` in epoch seconds."""

    name: str
    expires: float
    created: float = 0.0


def parse_user_name(text: str) -> str:
    """Give `text` as a name of the built-in issuer's, in lower case; BadRequest if it is none."""
    if not _NAME.fullmatch(text):
        raise BadRequest(
            "A name has 1 to 64 letters (a-z), digits or . _ @ - and begins with a letter or a "
            "digit."
        )
    return text.lower()


class Invites:
    """The invites in `folder`, which the service and `ctllm invite` share; `now` epoch seconds."""

    def __init__(
        self, folder: PrivateDirectory, now: Callable[[], float], minutes: float = 15
    ) -> None:
        self._store = HashedStore(folder, Invite)
        self._now = now
        self._lifetime = minutes * 60

    def create(self, name: str) -> str:
        """Give the secret that makes its bearer the user `name`; BadRequest for a bad name."""
        secret = token_urlsafe(32)
        now = self._now()
        self._store.put(secret, Invite(parse_user_name(name), now + self._lifetime, now))
        return secret

    def verify(self, secret: str) -> Authentication:
        """Give who was invited, without spending it; Unauthenticated if it is over."""
        invite = self._store.get(secret)
        if invite is None or self._now() >= invite.expires:
            raise Unauthorized(_INVALID)
        return Authentication(User(ISSUER, invite.name, invite.name), invite.created)

    def redeem(self, secret: str) -> User:
        """Give the user that was invited, once; Unauthenticated ever after."""
        invite = self._store.get(secret)
        # Of all who have read it, only the one who removes it has it.
        if invite is None or not self._store.remove(secret) or self._now() >= invite.expires:
            raise Unauthorized(_INVALID)
        return User(ISSUER, invite.name, invite.name)

    def remove_all(self, user: User) -> int:
        """Remove every invite of `user`; give how many."""
        return self._store.remove_where(
            lambda invite: invite is not None and user == User(ISSUER, invite.name, invite.name)
        )

    def remove_expired(self) -> int:
        """Remove invites that are too old or damaged; give how many."""
        now = self._now()
        return self._store.remove_where(lambda invite: invite is None or now >= invite.expires)
