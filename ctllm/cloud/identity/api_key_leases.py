"""API keys that the cloud accepts: records that desktops lease to it, in memory only.

A desktop leases its keys again and again while it runs. Its lease is *active* until it expires or
the desktop withdraws it. Then it is *lapsed*: its keys authenticate nothing new and the digests are
forgotten, but the ids are remembered for a while, because the desktop may only be restarting and a
response of another desktop goes on. A key that is in no lease at all has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from ctllm.auth.api_keys import (
    MAX_KEYS,
    PREFIX,
    KeyRecord,
    KeyUse,
    key_id,
    owner_tag,
    parse_owner_tag,
)
from ctllm.auth.session_assertions import MANAGE, USE
from ctllm.cloud.identity.grants import AccessGrant
from ctllm.errors import BadRequest, Forbidden, Unauthorized

MAX_DESKTOPS = 32
LAPSE_GRACE = 600.0
"""Seconds for which a lapsed lease keeps the requests in progress of its keys."""

CREDENTIAL_PREFIX = "key:"
"""The prefix of the `credential_id` of a grant of an API key, before the key's id."""


@dataclass
class _Lease:
    """The lease of one desktop; `keys` is empty once it has lapsed, at `lapsed_at`."""

    grant: AccessGrant  # of the desktop
    keys: dict[str, KeyRecord]
    ids: frozenset[str]
    expires_at: float
    uses: dict[str, KeyUse] = field(default_factory=dict)
    lapsed_at: float | None = None

    def lapse(self, now: float) -> None:
        self.keys, self.lapsed_at = {}, now

    @property
    def is_active(self) -> bool:
        return self.lapsed_at is None


class ApiKeyLeases:
    """A TokenVerifier of API keys. A key is valid while a desktop of its owner leases it.

    `now` returns epoch seconds.
    """

    def __init__(self, now: Callable[[], float], lapse_grace: float = LAPSE_GRACE) -> None:
        self._now = now
        self._lapse_grace = lapse_grace
        # By owner tag, then by desktop: a key is compared only with the keys of its owner.
        self._leases: dict[str, dict[str, _Lease]] = {}
        self._observers: list[Callable[[AccessGrant], object]] = []

    def add_observer(self, observer: Callable[[AccessGrant], object]) -> None:
        """Call `observer` with the desktop's grant when keys have ended."""
        self._observers.append(observer)

    # -- leases

    def lease(
        self, grant: AccessGrant, desktop_id: str, keys: Sequence[KeyRecord], seconds: float
    ) -> list[KeyUse]:
        """Accept `keys` for `seconds`; return the use of the desktop's keys since the last call.

        They replace the earlier lease of the desktop. `grant` is the desktop's own: its keys become
        invalid with its session.

        Raises BadRequest for more than MAX_KEYS, and Forbidden for more than
        MAX_DESKTOPS desktops of one user. The earlier leases then remain.
        """
        by_id = {key.id: key for key in keys}
        if len(keys) > MAX_KEYS:
            raise BadRequest(
                f"A desktop may have at most {MAX_KEYS} API keys. Revoke some of them."
            )
        tag = owner_tag(grant.user.id)
        leases = self._leases.setdefault(tag, {})
        self._lapse_expired(leases)
        self._check_room(leases, desktop_id)
        previous = leases.get(desktop_id)
        leases[desktop_id] = _Lease(grant, by_id, frozenset(by_id), self._now() + seconds)
        if previous is None:
            return []
        self._report_ended(grant, previous.ids - frozenset(by_id))
        return list(previous.uses.values())

    def withdraw(self, grant: AccessGrant, desktop_id: str) -> list[KeyUse]:
        """End the lease of a desktop that stops; return the use of its keys as `lease` does."""
        lease = self._leases.get(owner_tag(grant.user.id), {}).get(desktop_id)
        if lease is None:
            return []
        uses, lease.uses = list(lease.uses.values()), {}
        if lease.is_active:
            lease.lapse(self._now())
        return uses

    def remove_where(self, predicate: Callable[[AccessGrant], bool]) -> None:
        """Remove the leases of the desktops for whose grant `predicate` returns True."""
        self._keep(lambda lease: not predicate(lease.grant))

    def remove_expired(self) -> None:
        """Forget the digests of expired leases, and lapsed leases after their grace."""
        now = self._now()
        for leases in self._leases.values():
            self._lapse_expired(leases)
        removed = self._keep(
            lambda lease: lease.lapsed_at is None or now < lease.lapsed_at + self._lapse_grace
        )
        for lease in removed:
            self._report_ended(lease.grant, lease.ids)

    def __len__(self) -> int:
        """Return the number of active leases."""
        return sum(lease.is_active for each in self._leases.values() for lease in each.values())

    def _check_room(self, leases: dict[str, _Lease], desktop_id: str) -> None:
        others = {each: lease for each, lease in leases.items() if each != desktop_id}
        if sum(lease.is_active for lease in others.values()) >= MAX_DESKTOPS:
            raise Forbidden(
                f"API keys of at most {MAX_DESKTOPS} desktops are valid at the same time. "
                "Disconnect another desktop."
            )
        if len(others) >= 2 * MAX_DESKTOPS:  # at least half of them have lapsed
            oldest = min(
                (each for each, lease in others.items() if not lease.is_active),
                key=lambda each: leases[each].lapsed_at or 0.0,
            )
            del leases[oldest]

    def _lapse_expired(self, leases: dict[str, _Lease]) -> None:
        now = self._now()
        for lease in leases.values():
            if lease.is_active and now >= lease.expires_at:
                lease.lapse(now)

    def _keep(self, predicate: Callable[[_Lease], bool]) -> list[_Lease]:
        """Keep the leases for which `predicate` returns True; return the others."""
        removed = []
        for tag, leases in list(self._leases.items()):
            removed += [lease for lease in leases.values() if not predicate(lease)]
            kept = {desktop: lease for desktop, lease in leases.items() if predicate(lease)}
            if kept:
                self._leases[tag] = kept
            else:
                del self._leases[tag]
        return removed

    def _report_ended(self, grant: AccessGrant, ids: frozenset[str]) -> None:
        if any(not self._is_known(owner_tag(grant.user.id), each) for each in ids):
            for observer in self._observers:
                observer(grant)

    # -- keys

    def matches(self, token: str) -> bool:
        """Return whether `token` has the prefix of an API key."""
        return token.startswith(PREFIX)

    async def verify(self, token: str) -> AccessGrant:
        """Return the grant of an API key; raises Unauthorized.

        The work is the same for any key: one hash, and a lookup for each desktop of the owner.
        """
        id, now = key_id(token), self._now()
        for lease in self._leases.get(parse_owner_tag(token) or "", {}).values():
            record = lease.keys.get(id)
            if record is None or now >= lease.expires_at or not record.matches(token):
                continue
            if record.is_expired(now):
                raise Unauthorized(
                    "This API key has expired. Create another on a desktop with: ctllm keys add "
                    "NAME"
                )
            return _grant_of(lease, record)
        raise Unauthorized(
            "This API key is unknown or revoked, or the desktop that created it is not connected."
        )

    def check_active(self, grant: AccessGrant) -> None:
        """Raise Unauthorized if `grant` is that of an API key which has ended.

        A key whose lease has lapsed still holds: its desktop may only be restarting.
        """
        if not is_api_key(grant):
            return
        id = grant.credential_id.removeprefix(CREDENTIAL_PREFIX)
        if not self._is_known(owner_tag(grant.user.id), id):
            raise Unauthorized("This API key was revoked.")

    def record_use(self, grant: AccessGrant, address: str) -> None:
        """Count a request of an API key from `address`, which is truncated."""
        id = grant.credential_id.removeprefix(CREDENTIAL_PREFIX)
        for lease in self._leases.get(owner_tag(grant.user.id), {}).values():
            if id in lease.keys:
                known = lease.uses.get(id)
                count = 1 if known is None else known.requests + 1
                lease.uses[id] = KeyUse(id, int(self._now()), address, count)

    def _is_known(self, tag: str, id: str) -> bool:
        return any(id in lease.ids for lease in self._leases.get(tag, {}).values())


def is_api_key(grant: AccessGrant) -> bool:
    """Return whether an API key authenticated the client."""
    return grant.credential_id.startswith(CREDENTIAL_PREFIX)


def _grant_of(lease: _Lease, record: KeyRecord) -> AccessGrant:
    expires = lease.expires_at if record.expires is None else min(lease.expires_at, record.expires)
    return replace(
        lease.grant,
        scopes=frozenset((USE, MANAGE) if record.scope == MANAGE else (USE,)),
        expires_at=expires,
        credential_id=f"{CREDENTIAL_PREFIX}{record.id}",
        models=record.models,
        requests_per_minute=int(record.requests_per_minute),
    )
