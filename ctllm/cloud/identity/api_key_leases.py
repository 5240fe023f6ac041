"""API keys that the cloud accepts: records that desktops lease to it, which are in memory only.

A desktop leases its keys again and again while it runs. Its lease is *active* until it expires or
the desktop withdraws it. Then it is *lapsed*: its keys authenticate nothing new and the digests are
forgotten, but the ids are remembered for a while, because the desktop may only be restarting and a
response of another desktop goes on. A key that is in no lease at all has ended.

The page creates and revokes keys, too (`DesktopKeyChanges`): that takes effect in the lease at
once, and the desktop does the same when it renews the lease. Until then a revocation is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from twisted.logger import Logger

from ctllm.auth.api_keys import (
    MAX_KEYS,
    PREFIX,
    KeyChanges,
    KeyRecord,
    KeyReport,
    KeyUse,
    NamedKeyRecord,
    key_id,
    owner_tag,
    parse_owner_tag,
)
from ctllm.auth.session_assertions import MANAGE, USE
from ctllm.cloud.identity.grants import AccessGrant
from ctllm.cloud.identity.key_changes import DesktopKeyChanges, KeyState
from ctllm.cloud.identity.unconfirmed_revocations import UnconfirmedRevocations
from ctllm.errors import (
    BadRequest,
    Conflict,
    CtllmError,
    Forbidden,
    NotFound,
    ServiceUnavailable,
    Unauthorized,
)

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
    changes: DesktopKeyChanges
    seconds: float
    uses: dict[str, KeyUse] = field(default_factory=dict)  # that the desktop is still to be told
    told: dict[str, KeyUse] = field(default_factory=dict)  # and those that it was told
    lapsed_at: float | None = None

    def lapse(self, now: float) -> None:
        self.keys, self.lapsed_at = {}, now

    def add(self, record: NamedKeyRecord, now: float) -> None:
        self.keys[record.id] = record
        self.ids |= {record.id}
        self.changes.add(record, now + self.seconds)

    def drop(self, id: str) -> None:
        self.keys.pop(id, None)
        self.ids -= {id}

    def has(self, id: str) -> bool:
        """Whether a key can be revoked, also one whose revocation was not stored."""
        unstored = self.changes.removals.keys() - self.changes.stored.keys()
        return id in self.keys or id in self.changes.failed or id in unstored

    @property
    def is_active(self) -> bool:
        return self.lapsed_at is None


@dataclass(frozen=True, slots=True)
class ListedKey:
    """A key as its owner sees it. `name` is empty if the desktop has not told it.

    `last_used` is in epoch seconds, 0 if it was never used. `message` is why it has failed.
    """

    record: KeyRecord
    desktop_id: str
    name: str
    state: KeyState
    last_used: int = 0
    last_address: str = ""
    message: str = ""


class ApiKeyLeases:
    """A TokenVerifier of API keys. A key is valid while a desktop of its owner leases it.

    `revocations` are those that no desktop has confirmed. `now` returns epoch seconds.
    """

    _log = Logger()

    def __init__(
        self,
        revocations: UnconfirmedRevocations,
        now: Callable[[], float],
        lapse_grace: float = LAPSE_GRACE,
    ) -> None:
        self._revocations = revocations
        self._now = now
        self._started_at = now()
        self._lapse_grace = lapse_grace
        # By owner tag, then by desktop: a key is compared only with the keys of its owner.
        self._leases: dict[str, dict[str, _Lease]] = {}
        # Likewise. They outlive the leases.
        self._changes: dict[str, dict[str, DesktopKeyChanges]] = {}
        self._is_storing = True
        self._observers: list[Callable[[AccessGrant], object]] = []

    def add_observer(self, observer: Callable[[AccessGrant], object]) -> None:
        """Call `observer` with the desktop's grant when keys have ended."""
        self._observers.append(observer)

    # -- leases

    def lease(
        self,
        grant: AccessGrant,
        desktop_id: str,
        keys: Sequence[KeyRecord],
        seconds: float,
        report: KeyReport | None = None,
    ) -> list[KeyUse]:
        """Accept `keys` for `seconds`; return the use of the desktop's keys since the last call.

        They replace the earlier lease of the desktop. `grant` is the desktop's own: its keys become
        invalid with its session. `report` is that of a desktop which knows keys of the page.

        Raises BadRequest for more than MAX_KEYS, and Forbidden for more than
        MAX_DESKTOPS desktops of one user. Raises BadConfiguration if nobody knows which of them are
        revoked, because a file is damaged. The earlier leases then remain.
        """
        if len(keys) > MAX_KEYS:
            raise BadRequest(
                f"A desktop may have at most {MAX_KEYS} API keys. Revoke some of them."
            )
        tag = owner_tag(grant.user.id)
        leases = self._leases.setdefault(tag, {})
        self._lapse_expired(leases)
        self._check_room(leases, desktop_id)
        previous, now = leases.get(desktop_id), self._now()
        changes = self._changes_of(tag, desktop_id)
        valid = changes.reconcile(keys, report, now)
        self._try_to_store(tag, desktop_id, changes)
        ids = frozenset(valid)
        lease = _Lease(grant, valid, ids, now + seconds, changes, seconds)
        leases[desktop_id] = lease
        if previous is None:
            return []
        known = previous.told | previous.uses
        lease.told = {id: use for id, use in known.items() if id in ids}
        self._report_ended(grant, previous.ids - ids)
        return list(previous.uses.values())

    def _changes_of(self, tag: str, desktop_id: str) -> DesktopKeyChanges:
        known = self._changes.get(tag, {}).get(desktop_id)
        if known is not None:
            return known
        changes = DesktopKeyChanges.restore(self._revocations.load(tag, desktop_id))
        by_desktop = self._changes.setdefault(tag, {})
        if len(by_desktop) >= 2 * MAX_DESKTOPS:
            del by_desktop[self._least_needed(tag)]
        by_desktop[desktop_id] = changes
        return changes

    def _least_needed(self, tag: str) -> str:
        """Return a desktop of whose changes nothing is lost, if there is one."""
        leases, by_desktop = self._leases.get(tag, {}), self._changes[tag]

        def need(id: str) -> tuple[bool, bool]:
            return id in leases and leases[id].is_active, not by_desktop[id].is_disposable

        return min(by_desktop, key=need)

    # -- storing revocations

    def store_revocations(self, grant: AccessGrant, desktop_id: str) -> None:
        """Store the revocations that wait for a desktop.

        Raises ServiceUnavailable if they cannot be stored: then they hold in this process, which
        tries again.
        """
        tag = owner_tag(grant.user.id)
        changes = self._changes.get(tag, {}).get(desktop_id)
        if changes is not None and not self._try_to_store(tag, desktop_id, changes):
            raise ServiceUnavailable(
                "The key is revoked and does not work any more, but the cloud cannot store that. "
                "If it restarts before the desktop has deleted the key, the key works again. "
                "Revoke it once more in a while, or run `ctllm keys rm NAME` on the desktop.",
                retry_after=30,
            )

    def _try_to_store(self, tag: str, desktop_id: str, changes: DesktopKeyChanges) -> bool:
        if changes.is_stored:
            return True
        try:
            self._revocations.save(tag, desktop_id, changes.removals)
        except CtllmError as error:
            if self._is_storing:  # the first failure of many
                self._log.error("Cannot store revoked API keys: {why}", why=error.message)
            self._is_storing = False
            return False
        changes.stored, self._is_storing = dict(changes.removals), True
        return True

    def changes_for(self, grant: AccessGrant, desktop_id: str) -> KeyChanges:
        """Return what the page has changed, and the desktop of `grant` has not yet."""
        return self._changes_of(owner_tag(grant.user.id), desktop_id).to_send()

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
        self._expire_changes(now)
        removed = self._keep(
            lambda lease: lease.lapsed_at is None or now < lease.lapsed_at + self._lapse_grace
        )
        for lease in removed:
            self._report_ended(lease.grant, lease.ids)

    def _expire_changes(self, now: float) -> None:
        for tag, by_desktop in list(self._changes.items()):
            leases = self._leases.get(tag, {})
            for desktop_id, changes in list(by_desktop.items()):
                lease = leases.get(desktop_id)
                self._end_keys(lease, changes.expire(now))
                self._try_to_store(tag, desktop_id, changes)
                if lease is None and changes.is_disposable:
                    del by_desktop[desktop_id]
            if not by_desktop:
                del self._changes[tag]

    def _end_keys(self, lease: _Lease | None, ids: Sequence[str]) -> None:
        """Remove keys from a lease, and end their requests in progress."""
        if lease is None or not ids:
            return
        for id in ids:
            lease.drop(id)
        self._report_ended(lease.grant, frozenset(ids))

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

    # -- the page

    def desktops_of(self, grant: AccessGrant) -> list[str]:
        """Return the desktops of a user that store keys of the page, the last to renew first."""
        leases = self._active_leases(grant)
        found = [id for id, lease in leases.items() if _accepts(lease)]
        return sorted(found, key=lambda id: -leases[id].expires_at)

    def create(self, grant: AccessGrant, desktop_id: str, record: NamedKeyRecord) -> None:
        """Accept a key that the page has created, and have the desktop store it.

        Raises NotFound, Forbidden or Conflict if this desktop cannot, or if the name is used, and
        BadRequest if it has too many.
        """
        lease = self._require_changeable(self._active_leases(grant).get(desktop_id))
        if record.name in lease.changes.names.values():
            raise Conflict(f"There is already an API key called {record.name!r} on this desktop.")
        if len(lease.keys) >= MAX_KEYS:
            raise BadRequest(f"A desktop has at most {MAX_KEYS} API keys. Revoke one first.")
        if lease.changes.is_full:
            raise Conflict(
                "This desktop has not confirmed the last changes of its API keys yet. Try again "
                "in a minute."
            )
        lease.add(record, self._now())

    def revoke(self, grant: AccessGrant, id: str) -> str:
        """End a key and its requests, and have its desktop delete it; return the desktop's id.

        Call `store_revocations` then. A revocation that was not stored can be repeated.
        Raises NotFound, Forbidden or Conflict.
        """
        for desktop_id, lease in self._active_leases(grant).items():
            if lease.has(id):
                self._require_changeable(lease)
                lease.changes.remove(id, self._now())
                self._end_keys(lease, [id])
                return desktop_id
        raise NotFound(
            "There is no such API key, or its desktop is not connected. On that desktop, `ctllm "
            "keys rm NAME` revokes it."
        )

    def list_keys(self, grant: AccessGrant) -> list[ListedKey]:
        """Return the keys of a user's desktops that run, and those that have failed lately."""
        found: list[ListedKey] = []
        for desktop_id, lease in self._active_leases(grant).items():
            found += _list_lease(lease, desktop_id)
        return sorted(found, key=lambda key: (key.name, key.record.id))

    def _active_leases(self, grant: AccessGrant) -> dict[str, _Lease]:
        leases, now = self._leases.get(owner_tag(grant.user.id), {}), self._now()
        return {
            id: lease for id, lease in leases.items() if lease.is_active and now < lease.expires_at
        }

    def _require_changeable(self, lease: _Lease | None) -> _Lease:
        if lease is None:
            raise NotFound("This desktop is not connected. Choose another one.")
        if lease.changes.report is None:
            raise Conflict(
                "This desktop runs an older version of ctllm, which the page cannot create or "
                "revoke API keys for. Upgrade it, or use `ctllm keys` on it."
            )
        if not lease.changes.report.accepts:
            raise Forbidden(
                "This desktop takes no changes of API keys from the page (desktop.remote_keys is "
                "off there). Use `ctllm keys` on it."
            )
        return lease

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
            if lease.changes.is_overdue(id, now):
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

        A key whose lease has lapsed still holds: its desktop may only be restarting. So does one
        that was used before this process started, until its desktop renews the lease.
        """
        if not is_api_key(grant):
            return
        id = grant.credential_id.removeprefix(CREDENTIAL_PREFIX)
        tag = owner_tag(grant.user.id)
        if not self._is_known(tag, id) and not self._may_be_leased_again(tag, grant):
            raise Unauthorized("This API key was revoked.")

    def _may_be_leased_again(self, tag: str, grant: AccessGrant) -> bool:
        """Whether the desktop of a key may still renew the lease that an earlier process had."""
        if self._now() >= self._started_at + self._lapse_grace:
            return False
        leases = self._leases.get(tag, {}).values()
        return all(lease.grant.session_ids != grant.session_ids for lease in leases)

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


def _accepts(lease: _Lease) -> bool:
    return lease.changes.report is not None and lease.changes.report.accepts


def _list_lease(lease: _Lease, desktop_id: str) -> list[ListedKey]:
    changes = lease.changes
    names = changes.names
    reported = {each.id: each for each in changes.report.keys} if changes.report else {}
    found = []
    for id, record in lease.keys.items():
        known, use = reported.get(id), lease.uses.get(id) or lease.told.get(id)
        found.append(
            ListedKey(
                record,
                desktop_id,
                names.get(id, ""),
                "pending" if id in changes.pending else "confirmed",
                int(use.last_used if use else known.last_used if known else 0),
                use.address if use else known.address if known else "",
            )
        )
    for failed in changes.failed.values():
        record = failed.record
        found.append(ListedKey(record, desktop_id, record.name, "failed", message=failed.message))
    return found


def is_api_key(grant: AccessGrant) -> bool:
    """Return whether an API key authenticated the client."""
    return grant.credential_id.startswith(CREDENTIAL_PREFIX)


def key_credential(id: str) -> str:
    """Return the `credential_id` of the grant of an API key, for the audit log, too."""
    return f"{CREDENTIAL_PREFIX}{id}"


def _grant_of(lease: _Lease, record: KeyRecord) -> AccessGrant:
    expires = lease.expires_at if record.expires is None else min(lease.expires_at, record.expires)
    return replace(
        lease.grant,
        scopes=frozenset((USE, MANAGE) if record.scope == MANAGE else (USE,)),
        expires_at=expires,
        credential_id=key_credential(record.id),
        models=record.models,
        requests_per_minute=int(record.requests_per_minute),
    )
