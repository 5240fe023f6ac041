"""The transactions of a login: from the redirect to the provider to the callback (RFC 6749, 7636).

Nothing is stored when a transaction begins, so that those that strangers begin neither take memory
nor displace others. `state`, `nonce` and the PKCE verifier are computed from a random number, from
the secret in a cookie of the browser, and from a key of the cloud. So they match in no other
browser, and the URL of the callback gives away neither nonce nor verifier.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b, sha256
from secrets import token_urlsafe

from ctllm.auth.jws import encode_base64url
from ctllm.common.ttl_cache import TtlCache

#: Seconds that a person has to sign in at the provider.
LIFETIME = 600.0
#: Transactions that are remembered as used. If more are used at once, the oldest of them could be
#: used again in its own browser; its code could not.
MAX_USED = 8192

#: The longest `state` that is read.
_MAX_STATE = 512
_BROWSER_SECRET = re.compile("[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class LoginTransaction:
    """What the cloud sends to a provider, and needs again to redeem the code that it returns."""

    provider: str
    state: str = field(repr=False)
    nonce: str = field(repr=False)
    verifier: str = field(repr=False)

    @property
    def challenge(self) -> str:
        """The PKCE challenge of the verifier, method S256 (RFC 7636, section 4.2)."""
        return encode_base64url(sha256(self.verifier.encode()).digest())


class LoginTransactions:
    """Begins transactions, and finds each again, once. `now` returns epoch seconds."""

    def __init__(
        self, instance_secret: bytes, now: Callable[[], float], max_used: int = MAX_USED
    ) -> None:
        self._key = blake2b(key=instance_secret, person=b"ctllm-login", digest_size=32).digest()
        self._now = now
        self._used: TtlCache[str, bool] = TtlCache(max_used, now)

    def __len__(self) -> int:
        """Return how many transactions are stored, as used."""
        return len(self._used)

    def begin(self, provider: str, browser_secret: str) -> LoginTransaction:
        """Return a new transaction with `provider` for the browser that has `browser_secret`."""
        expires = int(self._now() + LIFETIME)
        return self._transaction(f"{expires}.{token_urlsafe(16)}.{provider}", browser_secret)

    def finish(self, state: str, browser_secret: str) -> LoginTransaction | None:
        """Return the transaction with this `state`, once.

        Return None if it is of another browser, has expired, or was finished before.
        """
        payload = state.partition(".")[2]
        if len(state) > _MAX_STATE or payload.count(".") < 2:
            return None
        transaction = self._transaction(payload, browser_secret)
        is_genuine = hmac.compare_digest(transaction.state.encode(), state.encode())
        if not is_genuine or self._used.get(state):
            return None
        expires = float(payload.partition(".")[0])
        if self._now() >= expires:
            return None
        self._used.put(state, True, expires)
        return transaction

    def _transaction(self, payload: str, browser_secret: str) -> LoginTransaction:
        provider = payload.split(".", 2)[2]
        state, nonce, verifier = (
            self._derive(label, payload, browser_secret) for label in ("state", "nonce", "verifier")
        )
        return LoginTransaction(provider, f"{state}.{payload}", nonce, verifier)

    def _derive(self, *parts: str) -> str:
        """Return 43 characters that nobody can compute without the key."""
        message = b"\0".join(part.encode("utf-8", "surrogatepass") for part in parts)
        return encode_base64url(hmac.digest(self._key, message, "sha256"))


def new_browser_secret() -> str:
    """Return a secret for the cookie of a browser."""
    return token_urlsafe(32)


def is_browser_secret(value: str) -> bool:
    """Return whether `value` has the form of a secret of `new_browser_secret`."""
    return _BROWSER_SECRET.fullmatch(value) is not None
