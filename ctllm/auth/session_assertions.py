"""Session assertions: signed by the cloud, they authenticate requests to a streaming proxy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from ctllm.auth.jws import TokenKind, decode_public_key
from ctllm.auth.model_patterns import MAX_PATTERNS, ModelPattern
from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.common.ttl_cache import TtlCache
from ctllm.errors import Unauthorized

ASSERTION = TokenKind("ctllm-assertion+jwt", "session assertion")
ISSUER = "ctllm"
LIFETIME_SECONDS = 300
"""Seconds for which an assertion is valid."""

USE = "use"
MANAGE = "manage"
SERVE = "serve"
CONVERSATIONS = "conversations"
CONTROL: Final = "control"
"""The scope of the cloud itself, which asks a proxy for its requests in progress and ends them."""


class AssertionBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The claims in JSON. `sub` is a hash of the user, so that a proxy gets no personal data.

    `models` restricts the client to the models that match one of these patterns. It is left out
    without a restriction. A proxy that does not know it refuses the assertion. With `max_desktops`,
    a tunnel is refused to a desktop when so many others are connected. `max_requests` limits the
    requests in progress that a reverse proxy has sent.
    """

    iss: str
    sub: str
    aud: str
    scope: Literal["use", "use manage", "use serve", "use manage conversations", "control"]
    iat: int
    exp: int
    models: Annotated[tuple[ModelPattern, ...], Meta(max_length=MAX_PATTERNS)] = ()
    max_desktops: Annotated[int, Meta(ge=0)] = 0
    max_requests: Annotated[int, Meta(ge=0)] = 0


@dataclass(frozen=True, slots=True)
class Claims:
    """The verified claims: the hash of the user, the scopes and the expiry (epoch seconds).

    With `models`, the client may only use the models that match one of these patterns. Without a
    limit of their own, `max_desktops` and `max_requests` are 0.
    """

    subject: str
    scopes: frozenset[str]
    expires: float
    models: tuple[str, ...] = ()
    max_desktops: int = 0
    max_requests: int = 0


class AssertionVerifier:
    """Verifies session assertions for one proxy.

    `public_key_text` is the cloud's key in base64url, `proxy_id` the audience that assertions must
    have. `now` returns epoch seconds. The last `cache_size` assertions are cached. Raises
    BadConfiguration if the key is invalid.
    """

    def __init__(
        self, public_key_text: str, proxy_id: str, now: Callable[[], float], cache_size: int = 64
    ) -> None:
        self._key = decode_public_key(public_key_text)
        self._proxy_id = proxy_id
        self._now = now
        self._cache: TtlCache[bytes, Claims] = TtlCache(cache_size, now)

    def verify(self, token: str | bytes) -> Claims:
        """Return the claims of `token`; raises Unauthorized unless it is valid for this proxy."""
        # Invalid UTF-8 also gets a digest; the token is then rejected below.
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
        scopes = frozenset(body.scope.split())
        return Claims(body.sub, scopes, body.exp, body.models, body.max_desktops, body.max_requests)
