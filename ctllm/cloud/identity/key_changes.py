"""Keys of a desktop that were created or revoked on the page, until the desktop has done the same.

What the desktop has done follows from its lease: it has a new key, and has a revoked one no longer.
Revocations are stored, too (`UnconfirmedRevocations`); the rest is in memory only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from ctllm.auth.api_keys import MAX_KEYS, KeyChanges, KeyRecord, KeyReport, NamedKeyRecord

REMOVAL_SECONDS = 365 * 86400.0
"""Seconds for which a revocation waits for a desktop that does not come back."""
FAILURE_SECONDS = 600.0
"""Seconds for which the page is told that a key was not stored."""
MAX_REMOVALS = 2 * MAX_KEYS
"""Maximum number of revocations that wait for one desktop: of the keys that it has announced, and
of those that the page has created since."""
MAX_FAILURES = 20

KeyState = Literal["pending", "confirmed", "failed"]

_NOT_CONFIRMED = (
    "The desktop did not store this key in time, so it does not work any more. Create another one."
)


@dataclass(frozen=True, slots=True)
class PendingKey:
    """A key that the desktop has to store until `deadline` (epoch seconds)."""

    record: NamedKeyRecord
    deadline: float


@dataclass(frozen=True, slots=True)
class FailedKey:
    """A key that the desktop has not stored; `until` is in epoch seconds."""

    record: NamedKeyRecord
    message: str
    until: float


@dataclass
class DesktopKeyChanges:
    """The changes that one desktop has to make. Times are in epoch seconds."""

    report: KeyReport | None = None
    pending: dict[str, PendingKey] = field(default_factory=dict)
    removals: dict[str, float] = field(default_factory=dict)  # until when each is remembered
    stored: dict[str, float] = field(default_factory=dict)  # the removals that are on disk
    failed: dict[str, FailedKey] = field(default_factory=dict)

    @classmethod
    def restore(cls, removals: Mapping[str, float]) -> DesktopKeyChanges:
        """Return the changes of which only `removals` are known, and stored."""
        return cls(removals=dict(removals), stored=dict(removals))

    @property
    def is_stored(self) -> bool:
        """Whether the revocations on disk are those that wait."""
        return self.removals == self.stored

    @property
    def is_full(self) -> bool:
        """Whether the revocation of another new key might find no room.

        Half of it is for the keys that the desktop has announced.
        """
        return len(self.pending) + len(self.removals) >= MAX_REMOVALS - MAX_KEYS

    def add(self, record: NamedKeyRecord, deadline: float) -> None:
        """Have the desktop store a key."""
        self.pending[record.id] = PendingKey(record, deadline)

    def remove(self, id: str, now: float) -> None:
        """Have the desktop delete a key, also one that it may have stored meanwhile."""
        self.pending.pop(id, None)
        self.failed.pop(id, None)
        self.removals[id] = now + REMOVAL_SECONDS

    def reconcile(
        self, announced: Iterable[KeyRecord], report: KeyReport | None, now: float
    ) -> dict[str, KeyRecord]:
        """Return the keys that are valid, by id, now that the desktop has announced its own."""
        self.report = report
        self.expire(now)
        own = {record.id: record for record in announced}
        for refusal in report.refused if report is not None else ():
            if refusal.id in self.pending and refusal.id not in own:
                self._fail(self.pending[refusal.id], refusal.reason, now)
        self.removals = {
            id: _renewed(until, now) for id, until in self.removals.items() if id in own
        }
        self.pending = {id: each for id, each in self.pending.items() if id not in own}
        valid = {id: record for id, record in own.items() if id not in self.removals}
        return valid | {id: each.record for id, each in self.pending.items()}

    def expire(self, now: float) -> list[str]:
        """Give up what has taken too long; return the ids of the keys that are not valid then."""
        overdue = [each for each in self.pending.values() if now >= each.deadline]
        for each in overdue:
            self._fail(each, _NOT_CONFIRMED, now)
        self.removals = {id: until for id, until in self.removals.items() if now < until}
        self.failed = {id: each for id, each in self.failed.items() if now < each.until}
        return [each.record.id for each in overdue]

    def is_overdue(self, id: str, now: float) -> bool:
        """Whether a key should have been stored by now."""
        return id in self.pending and now >= self.pending[id].deadline

    def _fail(self, key: PendingKey, message: str, now: float) -> None:
        # It may be stored all the same: then it is removed.
        self.remove(key.record.id, now)
        if len(self.failed) >= MAX_FAILURES:
            del self.failed[next(iter(self.failed))]
        self.failed[key.record.id] = FailedKey(key.record, message, now + FAILURE_SECONDS)

    def to_send(self) -> KeyChanges:
        """Return what the desktop is to do."""
        added = tuple(
            msgspec.Raw(msgspec.json.encode(each.record)) for each in self.pending.values()
        )
        return KeyChanges(added, tuple(self.removals))

    @property
    def names(self) -> Mapping[str, str]:
        """The names of keys, by id, as far as they are known."""
        reported = self.report.keys if self.report is not None else ()
        known = {each.id: each.name for each in reported}
        return known | {id: each.record.name for id, each in self.pending.items()}

    @property
    def is_disposable(self) -> bool:
        """Whether the desktop would miss nothing without this object."""
        return not self.pending and self.is_stored


def _renewed(until: float, now: float) -> float:
    """Return until when the revocation of a key waits that its desktop still announces."""
    return until if until - now > REMOVAL_SECONDS / 2 else now + REMOVAL_SECONDS
