"""API keys that the cloud accepts: hashes that desktops lease to it, in memory only."""

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
    grant: AccessGrant  # of the desktop
    hashes: frozenset[str]
    manage_hashes: frozenset[str]
    expires_at: float


class ApiKeyLeases:
    """A TokenVerifier of API keys. A key is valid while a desktop of its owner leases its hash."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        # By owner tag, then by desktop: a key is compared only with the keys of its owner.
        self._leases: dict[str, dict[str, _Lease]] = {}

    def lease(
        self,
        grant: AccessGrant,
        desktop_id: str,
        hashes: Iterable[str],
        seconds: float,
        manage_hashes: Iterable[str] = (),
    ) -> None:
        """Accept the keys with these hashes (SHA-256 in hex) for `seconds`.

        They replace the earlier lease of the desktop. Keys that are also in `manage_hashes` have
        the scope `manage`. `grant` is the desktop's own: its keys become invalid with its session.

        Raises BadRequest for a malformed hash or more than MAX_HASHES, and Forbidden for more than
        MAX_DESKTOPS desktops of one user. The earlier leases then remain.
        """
        lease = _Lease(
            grant, _validate_hashes(hashes), _validate_hashes(manage_hashes), self._now() + seconds
        )
        tag = owner_tag(grant.user.id)
        self._remove_expired_of(tag)
        leases = self._leases.get(tag, {})
        if desktop_id not in leases and len(leases) >= MAX_DESKTOPS:
            raise Forbidden(
                f"API keys of at most {MAX_DESKTOPS} desktops are valid at the same time. "
                "Disconnect another desktop."
            )
        self._leases[tag] = {**leases, desktop_id: lease}

    def remove_where(self, predicate: Callable[[AccessGrant], bool]) -> None:
        """Remove the leases of the desktops for whose grant `predicate` returns True."""
        for tag, leases in list(self._leases.items()):
            self._leases[tag] = {
                desktop_id: lease
                for desktop_id, lease in leases.items()
                if not predicate(lease.grant)
            }
            self._remove_expired_of(tag)

    def remove_expired(self) -> None:
        """Remove the leases that have expired."""
        for tag in list(self._leases):
            self._remove_expired_of(tag)

    def __len__(self) -> int:
        """Return the number of leases."""
        return sum(map(len, self._leases.values()))

    def matches(self, token: str) -> bool:
        """Return whether `token` has the prefix of an API key."""
        return token.startswith(PREFIX)

    async def verify(self, token: str) -> AccessGrant:
        """Return the grant of an API key; raises Unauthorized."""
        # The time of a set lookup of a SHA-256 gives nothing away: a client that learns how much of
        # a hash matched still cannot choose a key whose hash matches more.
        digest, now = hash_key(token), self._now()
        for lease in self._leases.get(parse_owner_tag(token) or "", {}).values():
            if digest in lease.hashes and now < lease.expires_at:
                scopes = {USE, MANAGE} if digest in lease.manage_hashes else {USE}
                return replace(lease.grant, scopes=frozenset(scopes), expires_at=lease.expires_at)
        raise Unauthorized(
            "This API key is unknown or revoked, or the desktop that created it is not connected."
        )

    def _remove_expired_of(self, tag: str) -> None:
        leases, now = self._leases.get(tag, {}), self._now()
        active = {desktop: lease for desktop, lease in leases.items() if now < lease.expires_at}
        if active:
            self._leases[tag] = active
        else:
            self._leases.pop(tag, None)


def _validate_hashes(hashes: Iterable[str]) -> frozenset[str]:
    validated = frozenset(hashes)
    if len(validated) > MAX_HASHES:
        raise BadRequest(f"A desktop may have at most {MAX_HASHES} API keys. Revoke some of them.")
    if not all(_HASH.fullmatch(digest) for digest in validated):
        raise BadRequest("The hash of an API key must be 64 hexadecimal digits in lower case.")
    return validated
