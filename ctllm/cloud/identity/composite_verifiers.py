"""Token verifiers that combine others: one for several kinds of token, and one with a cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256

from ctllm.auth.jws import MAX_TOKEN_SIZE
from ctllm.cloud.identity.grants import AccessGrant, TokenVerifier, User
from ctllm.common.ttl_cache import TtlCache
from ctllm.errors import Unauthorized


class CompositeTokenVerifier:
    """A TokenVerifier that delegates to the first of `verifiers` that matches the token.

    `check_active` raises Unauthorized for a grant whose user was revoked or whose session was
    closed, and UserDisabled. Work that takes long calls it again. `record_user` is called with
    every user who is authenticated.
    """

    def __init__(
        self,
        verifiers: Sequence[TokenVerifier],
        check_active: Callable[[AccessGrant], None] = lambda grant: None,
        record_user: Callable[[User], None] = lambda user: None,
    ) -> None:
        self._verifiers = tuple(verifiers)
        self.check_active = check_active
        self._record_user = record_user

    def matches(self, token: str) -> bool:
        """Return whether one of the verifiers matches `token`."""
        return any(verifier.matches(token) for verifier in self._verifiers)

    async def verify(self, token: str) -> AccessGrant:
        """Return what `token` grants; raises Unauthorized."""
        if len(token) > MAX_TOKEN_SIZE:
            raise Unauthorized(
                f"The token is too long: it has more than {MAX_TOKEN_SIZE} characters."
            )
        for verifier in self._verifiers:
            if verifier.matches(token):
                grant = await verifier.verify(token)
                self.check_active(grant)
                self._record_user(grant.user)
                return grant
        raise Unauthorized(
            "This token is not one of this cloud. Log in, or use an API key. Create one on a "
            "desktop with: ctllm keys add NAME"
        )


class CachingTokenVerifier:
    """A TokenVerifier that caches the grants of `verifier` until they expire.

    Not for API keys, which become invalid with their lease. At most `max_grants` are cached, by the
    SHA-256 of their token. `now` returns epoch seconds.
    """

    def __init__(
        self, verifier: TokenVerifier, now: Callable[[], float], max_grants: int = 4096
    ) -> None:
        self._verifier = verifier
        self._grants: TtlCache[bytes, AccessGrant] = TtlCache(max_grants, now)

    def matches(self, token: str) -> bool:
        """Return whether the verifier matches `token`."""
        return self._verifier.matches(token)

    async def verify(self, token: str) -> AccessGrant:
        """Return what `token` grants; raises Unauthorized. Errors are not cached."""
        digest = sha256(token.encode("utf-8", "surrogatepass")).digest()
        grant = self._grants.get(digest)
        if grant is None:
            grant = await self._verifier.verify(token)
            self._grants.put(digest, grant, grant.expires_at)
        return grant
