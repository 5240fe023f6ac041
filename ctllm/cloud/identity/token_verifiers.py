"""Many kinds of tokens behind one face, and a memory for those that are costly to verify."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256

from ctllm.auth.jws import MAX_TOKEN_SIZE
from ctllm.cloud.identity.grants import AccessGrant, TokenVerifier
from ctllm.common.ttl_cache import TtlCache
from ctllm.errors import Unauthorized


class CompositeTokenVerifier:
    """An Identity that gives each token to the first of `kinds` that owns it.

    `check` raises Unauthenticated for a grant that is over before its time: its user was revoked,
    or its session has ended. What takes long asks it again.
    """

    def __init__(
        self,
        verifiers: Sequence[TokenVerifier],
        check_active: Callable[[AccessGrant], None] = lambda grant: None,
    ) -> None:
        self._verifiers = tuple(verifiers)
        self.check_active = check_active

    def matches(self, token: str) -> bool:
        """Whether any kind owns `token`."""
        return any(kind.matches(token) for kind in self._verifiers)

    async def verify(self, token: str) -> AccessGrant:
        """Give what `token` grants; Unauthenticated if it is nobody's, wrong or too long."""
        if len(token) > MAX_TOKEN_SIZE:
            raise Unauthorized("The token is too long to be one.")
        for kind in self._verifiers:
            if kind.matches(token):
                grant = await kind.verify(token)
                self.check_active(grant)
                return grant
        raise Unauthorized(
            "This is no token that we know: sign in, or use an API key, which a desktop makes "
            "with: ctllm keys add NAME"
        )


class CachingTokenVerifier:
    """An Identity that asks `kind` once for each token and remembers the grant until it expires.

    Not for API keys, which end with their lease. At most `size` grants are remembered; `now` gives
    epoch seconds. Tokens are known by their SHA-256 and are not kept.
    """

    def __init__(
        self, verifier: TokenVerifier, now: Callable[[], float], max_grants: int = 4096
    ) -> None:
        self._verifier = verifier
        self._grants: TtlCache[bytes, AccessGrant] = TtlCache(max_grants, now)

    def matches(self, token: str) -> bool:
        """Whether the kind behind this owns `token`."""
        return self._verifier.matches(token)

    async def verify(self, token: str) -> AccessGrant:
        """Give what `token` grants; a refusal is never remembered."""
        digest = sha256(token.encode("utf-8", "surrogatepass")).digest()
        grant = self._grants.get(digest)
        if grant is None:
            grant = await self._verifier.verify(token)
            self._grants.put(digest, grant, grant.expires_at)
        return grant
