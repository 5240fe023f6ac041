"""Passes: one-time secrets by which a user's desktop signs that user's browser in.

They are kept in memory alone, for two minutes, and only a few of each user's. The session that
made a pass is the parent of the one that the pass makes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from secrets import token_urlsafe

from ctllm.cloud.identity.grants import Authentication

#: Seconds that a pass is good for: a browser may have to start first.
LIFETIME = 120.0
#: Passes of one user that are good at once; a further one takes the oldest one's place.
MAX_PER_USER = 8


@dataclass(frozen=True, slots=True)
class _LoginCode:
    authentication: Authentication
    expires_at: float


class LoginCodes:
    """The passes that are good now; `now` gives epoch seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._codes: dict[bytes, _LoginCode] = {}  # by the secret's hash, the oldest first

    def create(self, authentication: Authentication) -> str:
        """Give the secret that makes its bearer the user of `authentication`, once."""
        now = self._now()
        self._codes = {key: each for key, each in self._codes.items() if each.expires_at > now}
        user = authentication.user
        own = [key for key, each in self._codes.items() if each.authentication.user == user]
        for key in own[: max(0, len(own) - MAX_PER_USER + 1)]:
            del self._codes[key]
        secret = token_urlsafe(32)
        self._codes[_hash(secret)] = _LoginCode(authentication, now + LIFETIME)
        return secret

    def verify(self, secret: str) -> Authentication | None:
        """Give what a pass stands for, without spending it; None if it is not good."""
        found = self._codes.get(_hash(secret))
        return None if found is None or self._now() >= found.expires_at else found.authentication

    def redeem(self, secret: str) -> Authentication | None:
        """Give what a pass stands for that is good, which it is not any more; else None."""
        found = self.verify(secret)
        self._codes.pop(_hash(secret), None)
        return found

    def remove_where(self, predicate: Callable[[Authentication], bool]) -> None:
        """Forget the passes that are `chosen`."""
        kept = self._codes.items()
        self._codes = {key: each for key, each in kept if not predicate(each.authentication)}


def _hash(secret: str) -> bytes:
    return sha256(secret.encode()).digest()
