"""Login codes: one-time secrets with which a desktop logs in its user's browser.

They are in memory only. The session that is created with a code ends with the session of the
desktop that created the code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from secrets import token_urlsafe

from ctllm.cloud.identity.grants import Authentication

#: Seconds that a code is valid: a browser may have to start first.
LIFETIME = 120.0
#: Valid codes of one user. A further one replaces the oldest.
MAX_PER_USER = 8


@dataclass(frozen=True, slots=True)
class _LoginCode:
    authentication: Authentication
    expires_at: float


class LoginCodes:
    """The codes that are valid. `now` returns epoch seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._codes: dict[bytes, _LoginCode] = {}  # by the hash of the secret, oldest first

    def __len__(self) -> int:
        """Return the number of codes that are stored."""
        return len(self._codes)

    def create(self, authentication: Authentication) -> str:
        """Create a code and return its secret."""
        now = self._now()
        self._codes = {key: code for key, code in self._codes.items() if code.expires_at > now}
        user = authentication.user
        of_user = [key for key, code in self._codes.items() if code.authentication.user == user]
        for key in of_user[: max(0, len(of_user) - MAX_PER_USER + 1)]:
            del self._codes[key]
        secret = token_urlsafe(32)
        self._codes[_hash(secret)] = _LoginCode(authentication, now + LIFETIME)
        return secret

    def verify(self, secret: str) -> Authentication | None:
        """Return what a code authenticates, without redeeming it, or None if it is not valid."""
        code = self._codes.get(_hash(secret))
        return None if code is None or self._now() >= code.expires_at else code.authentication

    def redeem(self, secret: str) -> Authentication | None:
        """Return what a code authenticates and remove it, or None if it is not valid."""
        authentication = self.verify(secret)
        self._codes.pop(_hash(secret), None)
        return authentication

    def remove_where(self, predicate: Callable[[Authentication], bool]) -> None:
        """Remove the codes for whose authentication `predicate` returns True."""
        self._codes = {
            key: code for key, code in self._codes.items() if not predicate(code.authentication)
        }


def _hash(secret: str) -> bytes:
    return sha256(secret.encode()).digest()
