"""The session assertion: what the cloud signs and a streaming proxy believes, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

import msgspec

from ctllm.auth.jws import TokenKind, decode_public_key
from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.common.ttl_cache import TtlCache
from ctllm.errors import Unauthorized

ASSERTION = TokenKind("ctllm-assertion+jwt", "session assertion")
ISSUER = "ctllm"
LIFETIME_SECONDS = 300
"""Seconds that an assertion is good for."""

USE = "use"
MANAGE = "manage"
SERVE = "serve"


class AssertionBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON inside. `sub` is the user as a hash: nothing personal reaches a proxy."""

    iss: str
    sub: str
    aud: str
    scope: Literal["use", "use manage", "use serve"]
    iat: int
    exp: int


@dataclass(frozen=True, slots=True)
class Claims:
    """What a proxy knows of its caller: the user's hash, what is allowed, until when (epoch)."""

    subject: str
    scopes: frozenset[str]
    expires: float


class AssertionVerifier:
    """Tells whether the cloud vouches for a caller of this proxy.

    `public_key_text` is the cloud's key in base64url (BadConfiguration if it is not), `proxy` the
    id of this proxy, `now` gives epoch seconds, `size` bounds how many assertions are remembered.
    """

    def __init__(
        self, public_key_text: str, proxy_id: str, now: Callable[[], float], cache_size: int = 64
    ) -> None:
        self._key = decode_public_key(public_key_text)
        self._proxy_id = proxy_id
        self._now = now
        self._cache: TtlCache[bytes, Claims] = TtlCache(cache_size, now)

    def verify(self, token: str | bytes) -> Claims:
        """Give the claims of `token`; Unauthenticated unless it is the cloud's and for here."""
        # A text that is not even UTF-8 gets a digest too, and its refusal below.
        raw = token if isinstance(token, bytes) else token.encode("utf-8", "surrogatepass")
        digest = sha256(raw).digest()
        claims = self._cache.get(digest)
        if claims is None:
            claims = self._verify(raw)
            self._cache.put(digest, claims, claims.expires)
        return claims

    def _verify(self, token: bytes) -> Claims:
        try:
            body = decode_json(ASSERTION.verify(self._key, token), AssertionBody)
        except InvalidJson as error:
            raise ASSERTION.invalid_token() from error
        if body.iss != ISSUER or body.aud != self._proxy_id:
            raise Unauthorized("The session assertion is for another streaming proxy.")
        ASSERTION.check_times(body.iat, body.exp, self._now())
        return Claims(body.sub, frozenset(body.scope.split()), body.exp)
