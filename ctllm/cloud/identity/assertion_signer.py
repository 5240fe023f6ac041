"""Signs what streaming proxies believe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ctllm.auth.session_assertions import (
    ASSERTION,
    ISSUER,
    LIFETIME_SECONDS,
    MANAGE,
    SERVE,
    USE,
    AssertionBody,
)
from ctllm.common.ttl_cache import TtlCache
from ctllm.errors import Forbidden

Scope = Literal["use", "use manage", "use serve"]


class AssertionSigner:
    """Session assertions by `key`, each used again for half of its life; `now` epoch seconds."""

    def __init__(
        self, key: Ed25519PrivateKey, now: Callable[[], float], max_cached: int = 4096
    ) -> None:
        self._key = key
        self._now = now
        self._cache: TtlCache[tuple[str, Scope], str] = TtlCache(max_cached, now)

    def sign(self, proxy_id: str, scopes: frozenset[str]) -> str:
        """Give an assertion for the proxy with the id `proxy`; Forbidden without the scope use.

        Besides, it says one of serve and manage, whichever is in `scopes`.
        """
        if USE not in scopes:
            raise Forbidden("This sign-in may not use models.")
        scope: Scope = "use"
        if SERVE in scopes:
            scope = "use serve"
        elif MANAGE in scopes:
            scope = "use manage"
        known = self._cache.get((proxy_id, scope))
        return known or self._sign(proxy_id, scope)

    def _sign(self, proxy_id: str, scope: Scope) -> str:
        issued = int(self._now())
        user = proxy_id.rpartition("-")[2]
        body = AssertionBody(ISSUER, user, proxy_id, scope, issued, issued + LIFETIME_SECONDS)
        token = ASSERTION.sign(self._key, msgspec.json.encode(body))
        self._cache.put((proxy_id, scope), token, issued + LIFETIME_SECONDS / 2)
        return token
