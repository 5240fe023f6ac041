"""Signs the session assertions that streaming proxies verify."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ctllm.auth.assignments import ASSIGNMENT, encode_assignment
from ctllm.auth.session_assertions import (
    ASSERTION,
    CONTROL,
    CONVERSATIONS,
    ISSUER,
    LIFETIME_SECONDS,
    MANAGE,
    SERVE,
    USE,
    AssertionBody,
)
from ctllm.common.ttl_cache import TtlCache
from ctllm.errors import Forbidden

Scope = Literal["use", "use manage", "use serve", "use manage conversations", "control"]
_Claims = tuple[str, Scope, tuple[str, ...], int, int]


class AssertionSigner:
    """Signs session assertions with `key`, and reuses each for half of its lifetime.

    `now` returns epoch seconds. At most `max_cached` assertions are cached.
    """

    def __init__(
        self, key: Ed25519PrivateKey, now: Callable[[], float], max_cached: int = 4096
    ) -> None:
        self._key = key
        self._now = now
        self._cache: TtlCache[_Claims, str] = TtlCache(max_cached, now)

    def sign(
        self,
        proxy_id: str,
        scopes: frozenset[str],
        models: tuple[str, ...] = (),
        max_desktops: int = 0,
        max_requests: int = 0,
    ) -> str:
        """Return an assertion for the proxy with this id; raises Forbidden without the scope use.

        The assertion has the scope use and, if `scopes` has it, serve, or else manage, to which
        conversations is added. `models`
        are the patterns of the models that the client may use, if not all. `max_desktops` limits
        the desktops of the user, for a tunnel. `max_requests` limits the requests in progress, for
        one that a reverse proxy sends.
        """
        if USE not in scopes:
            raise Forbidden("This session does not have the scope 'use'.")
        scope: Scope = "use"
        if SERVE in scopes:
            scope = "use serve"
        elif {MANAGE, CONVERSATIONS} <= scopes:
            scope = "use manage conversations"
        elif MANAGE in scopes:
            scope = "use manage"
        return self._get((proxy_id, scope, models, max_desktops, max_requests))

    def sign_control(self, proxy_id: str) -> str:
        """Return an assertion with which the cloud itself controls the proxy with this id."""
        return self._get((proxy_id, CONTROL, (), 0, 0))

    def sign_assignment(self, waiting_id: str, proxy_id: str) -> str:
        """Return the assignment by which the proxy that waits becomes that with `proxy_id`."""
        return ASSIGNMENT.sign(self._key, encode_assignment(waiting_id, proxy_id, self._now()))

    def _get(self, claims: _Claims) -> str:
        return self._cache.get(claims) or self._sign(claims)

    def _sign(self, claims: _Claims) -> str:
        proxy_id, scope, models, max_desktops, max_requests = claims
        issued_at = int(self._now())
        user_hash = proxy_id.rpartition("-")[2]
        body = AssertionBody(
            ISSUER,
            user_hash,
            proxy_id,
            scope,
            issued_at,
            issued_at + LIFETIME_SECONDS,
            models,
            max_desktops,
            max_requests,
        )
        token = ASSERTION.sign(self._key, msgspec.json.encode(body))
        self._cache.put(claims, token, issued_at + LIFETIME_SECONDS / 2)
        return token
