"""Many kinds of tokens behind one face, and a memory for those that are costly to verify."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256

from ctllm.auth.jws import MAX_TOKEN
from ctllm.cloud.identity.grants import Grant, Identity
from ctllm.common.ttl_cache import TtlCache
from ctllm.errors import Unauthorized


class Identities:
    """An Identity that gives each token to the first of `kinds` that owns it.

    `check` raises Unauthenticated for a grant that is over before its time: its user was revoked,
    or its session has ended. What takes long asks it again.
    """

    def __init__(
        self, kinds: Sequence[Identity], check: Callable[[Grant], None] = lambda grant: None
    ) -> None:
        self._kinds = tuple(kinds)
        self.check = check

    def owns(self, token: str) -> bool:
        """Whether any kind owns `token`."""
        return any(kind.owns(token) for kind in self._kinds)

    async def verify(self, token: str) -> Grant:
        """Give what `token` grants; Unauthenticated if it is nobody's, wrong or too long."""
        if len(token) > MAX_TOKEN:
            raise Unauthorized("The token is too long to be one.")
        for kind in self._kinds:
            if kind.owns(token):
                grant = await kind.verify(token)
                self.check(grant)
                return grant
        raise Unauthorized(
            "This is no token that we know: sign in, or use an API key, which a desktop makes "
            "with: ctllm keys add NAME"
        )


class Remembered:
    """An Identity that asks `kind` once for each token and remembers the grant until it expires.

    Not for API keys, which end with their lease. At most `size` grants are remembered; `now` gives
    epoch seconds. Tokens are known by their SHA-256 and are not kept.
    """

    def __init__(self, kind: Identity, now: Callable[[], float], size: int = 4096) -> None:
        self._kind = kind
        self._grants: TtlCache[bytes, Grant] = TtlCache(size, now)

    def owns(self, token: str) -> bool:
        """Whether the kind behind this owns `token`."""
        return self._kind.owns(token)

    async def verify(self, token: str) -> Grant:
        """Give what `token` grants; a refusal is never remembered."""
        digest = sha256(token.encode("utf-8", "surrogatepass")).digest()
        grant = self._grants.get(digest)
        if grant is None:
            grant = await self._kind.verify(token)
            self._grants.put(digest, grant, grant.expires)
        return grant
