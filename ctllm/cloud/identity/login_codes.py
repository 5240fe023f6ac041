"""Login codes: one-time secrets with which a session logs in another client of its user.

With a code of a desktop, a browser logs in, whose session ends with that of the desktop. With a
code of a browser, a desktop logs in (pairing). Codes are in memory only. They are void once the
session that created them has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from secrets import token_urlsafe

from ctllm.cloud.identity.grants import Authentication
from ctllm.cloud.identity.sessions import ClientType

#: Seconds that a code is valid: a browser may have to start first.
LIFETIME = 120.0
#: Seconds that a code for a desktop is valid: ctllm may have to be installed first.
PAIRING_LIFETIME = 900.0
#: Valid codes of one user. A further one replaces the oldest.
MAX_PER_USER = 8


@dataclass(frozen=True, slots=True)
class _LoginCode:
    authentication: Authentication
    client: ClientType
    expires_at: float


class LoginCodes:
    """The codes that are valid. `now` returns epoch seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._codes: dict[bytes, _LoginCode] = {}  # by the hash of the secret, oldest first

    def __len__(self) -> int:
        """Return the number of codes that are stored."""
        return len(self._codes)

    def create(
        self,
        authentication: Authentication,
        client: ClientType = "browser",
        lifetime: float = LIFETIME,
    ) -> str:
        """Create a code with which a `client` logs in, and return its secret."""
        now = self._now()
        self._codes = {key: code for key, code in self._codes.items() if code.expires_at > now}
        user = authentication.user
        of_user = [key for key, code in self._codes.items() if code.authentication.user == user]
        for key in of_user[: max(0, len(of_user) - MAX_PER_USER + 1)]:
            del self._codes[key]
        secret = token_urlsafe(32)
        self._codes[_hash(secret)] = _LoginCode(authentication, client, now + lifetime)
        return secret

    def verify(self, secret: str) -> Authentication | None:
        """Return what a code authenticates, without redeeming it, or None if it is not valid."""
        code = self._find(secret)
        return None if code is None else code.authentication

    def client_of(self, secret: str) -> ClientType | None:
        """Return what may log in with a code, or None if it is not valid."""
        code = self._find(secret)
        return None if code is None else code.client

    def _find(self, secret: str) -> _LoginCode | None:
        code = self._codes.get(_hash(secret))
        return None if code is None or self._now() >= code.expires_at else code

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
