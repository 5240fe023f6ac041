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
LIFE = 120.0
#: Passes of one user that are good at once; a further one takes the oldest one's place.
MOST = 8


@dataclass(frozen=True, slots=True)
class _Pass:
    authentication: Authentication
    expires: float


class Passes:
    """The passes that are good now; `now` gives epoch seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._kept: dict[bytes, _Pass] = {}  # by the secret's hash, the oldest first

    def create(self, authentication: Authentication) -> str:
        """Give the secret that makes its bearer the user of `authentication`, once."""
        now = self._now()
        self._kept = {key: each for key, each in self._kept.items() if each.expires > now}
        user = authentication.user
        own = [key for key, each in self._kept.items() if each.authentication.user == user]
        for key in own[: max(0, len(own) - MOST + 1)]:
            del self._kept[key]
        secret = token_urlsafe(32)
        self._kept[_hash(secret)] = _Pass(authentication, now + LIFE)
        return secret

    def find(self, secret: str) -> Authentication | None:
        """Give what a pass stands for, without spending it; None if it is not good."""
        found = self._kept.get(_hash(secret))
        return None if found is None or self._now() >= found.expires else found.authentication

    def redeem(self, secret: str) -> Authentication | None:
        """Give what a pass stands for that is good, which it is not any more; else None."""
        found = self.find(secret)
        self._kept.pop(_hash(secret), None)
        return found

    def remove_where(self, chosen: Callable[[Authentication], bool]) -> None:
        """Forget the passes that are `chosen`."""
        kept = self._kept.items()
        self._kept = {key: each for key, each in kept if not chosen(each.authentication)}


def _hash(secret: str) -> bytes:
    return sha256(secret.encode()).digest()
