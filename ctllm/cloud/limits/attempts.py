"""Limits the failed attempts of each client address to authenticate.

After too many, a credential whose check costs cryptography is refused unseen, unless it was good
before. What costs a look-up (API keys, invites, refresh tokens) is still looked up: all are random
secrets that nobody can guess, and behind one address there may be an office. So somebody who floods
the cloud does not lock out those who share the address, and costs it little. Failed look-ups are
counted apart: a program that sends an old API key again and again affects nobody else.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

from ctllm.cloud.limits.rate_limiter import RateLimiter
from ctllm.common.ttl_cache import TtlCache
from ctllm.errors import RateLimited
from ctllm.http.client_address import client_network

#: Seconds for which a good credential is known at most, and the number of them.
KNOWN_FOR = 3600.0
MAX_KNOWN = 16384


class AttemptLimiter:
    """The failed attempts of each address.

    At most `logins_per_minute` to sign in or `requests_per_minute` with a token or key may fail, or
    as many of both as take a minute together; 0 is any number. Programs send a token that has
    become invalid more often than people sign in. `seconds` returns a time that does not jump.
    """

    def __init__(
        self,
        logins_per_minute: int,
        requests_per_minute: int,
        seconds: Callable[[], float],
        max_known: int = MAX_KNOWN,
    ) -> None:
        self._logins_per_minute = logins_per_minute
        self._requests_per_minute = requests_per_minute
        self._seconds = seconds
        self._failures = RateLimiter(seconds)
        self._known: TtlCache[bytes, bool] = TtlCache(max_known, seconds)

    def admit(self, address: str, credential: str, *, is_login: bool) -> None:
        """Raise RateLimited for a credential that `address` may not have checked now."""
        if self._known.get(_digest(credential)):
            return
        wait = self._failures.wait(client_network(address), self._limit(is_login))
        if wait:
            raise _error(wait)

    def succeeded(self, credential: str, lifetime: float = KNOWN_FOR) -> None:
        """Remember a credential that is good, or that the cloud has just issued.

        It expires in `lifetime` seconds: then it is forgotten, as clients have a new one by then.
        """
        expires = self._seconds() + min(lifetime, KNOWN_FOR)
        self._known.put(_digest(credential), True, expires)

    def failed(self, address: str, *, is_login: bool, was_cheap: bool = False) -> None:
        """Count a failed attempt; raises RateLimited if there were too many before it.

        `was_cheap` tells that the check cost no cryptography.
        """
        client = client_network(address)
        key = f"{client} cheap" if was_cheap else client
        wait = self._failures.count(key, self._limit(is_login))
        if wait:
            raise _error(wait)

    def _limit(self, is_login: bool) -> int:
        return self._logins_per_minute if is_login else self._requests_per_minute


def is_costly(token: str) -> bool:
    """Return whether the check of a token costs cryptography: it is a JWS (RFC 7515)."""
    return token.count(".") == 2


def _digest(credential: str) -> bytes:
    return sha256(credential.encode("utf-8", "surrogatepass")).digest()


def _error(wait: int) -> RateLimited:
    return RateLimited(
        "Too many attempts to sign in have failed at this address. Check the token or key, and try "
        f"again in {wait} s.",
        retry_after=wait,
    )
