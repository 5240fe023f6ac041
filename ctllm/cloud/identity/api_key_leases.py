"""API keys as the cloud knows them: hashes that desktops lend it, in memory, for a while."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from ctllm.auth.api_keys import PREFIX, hash_key, owner_tag, parse_owner_tag
from ctllm.auth.session_assertions import MANAGE, USE
from ctllm.cloud.identity.grants import AccessGrant
from ctllm.errors import BadRequest, Forbidden, Unauthorized

MAX_HASHES = 100
MAX_DESKTOPS = 32
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class _Lease:
    grant: AccessGrant  # of the desktop that vouches
    hashes: frozenset[str]
    manage_hashes: frozenset[str]
    expires_at: float


class ApiKeyLeases:
    """An Identity of API keys, each good while a desktop of its owner vouches for it."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        # Of owner tags, then of desktops: a key is only ever looked for among its owner's.
        self._leases: dict[str, dict[str, _Lease]] = {}

    def lease(
        self,
        grant: AccessGrant,
        desktop_id: str,
        hashes: Iterable[str],
        seconds: float,
        manage_hashes: Iterable[str] = (),
    ) -> None:
        """Take `hashes` (hex SHA-256) as the keys that `desktop` vouches for, for `seconds`.

        Those among them that are `managing` too have the scope manage. They replace what the
        desktop vouched for before. BadRequest for more than 100 or for what is no hash, Forbidden
        beyond 32 desktops of one user; both leave all as it was. `grant` is the desktop's: no key
        outlives what that rests on.
        """
        lease = _Lease(
            grant, _validate_hashes(hashes), _validate_hashes(manage_hashes), self._now() + seconds
        )
        tag = owner_tag(grant.user.id)
        self._remove_expired_of(tag)
        leases = self._leases.get(tag, {})
        if desktop_id not in leases and len(leases) >= MAX_DESKTOPS:
            raise Forbidden(f"API keys work for at most {MAX_DESKTOPS} desktops at a time.")
        self._leases[tag] = {**leases, desktop_id: lease}

    def remove_where(self, predicate: Callable[[AccessGrant], bool]) -> None:
        """Forget what those desktops vouched for whose grant is `chosen`."""
        for tag, leases in list(self._leases.items()):
            kept = {desktop: each for desktop, each in leases.items() if not predicate(each.grant)}
            self._leases[tag] = kept
            self._remove_expired_of(tag)

    def remove_expired(self) -> None:
        """Forget the leases that have ended."""
        for tag in list(self._leases):
            self._remove_expired_of(tag)

    def matches(self, token: str) -> bool:
        """Whether `token` calls itself an API key."""
        return token.startswith(PREFIX)

    async def verify(self, token: str) -> AccessGrant:
        """Give the grant of an API key; Unauthenticated if no desktop of its owner vouches."""
        return self._find(token)

    def _find(self, key: str) -> AccessGrant:
        # Finding a SHA-256 in a set is safe from timing: whoever could learn how much of the
        # hash matched could not choose a key whose hash matches more.
        digest, now = hash_key(key), self._now()
        for lease in self._leases.get(parse_owner_tag(key) or "", {}).values():
            if digest in lease.hashes and now < lease.expires_at:
                scopes = {USE, MANAGE} if digest in lease.manage_hashes else {USE}
                return replace(lease.grant, scopes=frozenset(scopes), expires_at=lease.expires_at)
        raise Unauthorized(
            "This API key is unknown or revoked, or the desktop that made it is not connected."
        )

    def _remove_expired_of(self, tag: str) -> None:
        leases, now = self._leases.get(tag, {}), self._now()
        alive = {desktop: lease for desktop, lease in leases.items() if now < lease.expires_at}
        if alive:
            self._leases[tag] = alive
        else:
            self._leases.pop(tag, None)


def _validate_hashes(hashes: Iterable[str]) -> frozenset[str]:
    checked = frozenset(hashes)
    if len(checked) > MAX_HASHES:
        raise BadRequest(f"A desktop may have at most {MAX_HASHES} API keys: revoke some.")
    if not all(_HASH.fullmatch(digest) for digest in checked):
        raise BadRequest("An API key's hash is 64 hexadecimal digits, in lower case.")
    return checked
