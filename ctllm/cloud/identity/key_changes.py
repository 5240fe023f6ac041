"""Keys of a desktop that were created or revoked on the page, until the desktop has done the same.

All of it is in memory. What the desktop has done follows from its lease: it has a new key, and has
a revoked one no longer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from ctllm.auth.api_keys import KeyChanges, KeyRecord, KeyReport, NamedKeyRecord

REMOVAL_SECONDS = 7 * 86400.0
"""Seconds for which a revocation waits for its desktop."""
FAILURE_SECONDS = 600.0
"""Seconds for which the page is told that a key was not stored."""
MAX_REMOVALS = 200
"""Maximum number of revocations that wait for one desktop."""
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
    failed: dict[str, FailedKey] = field(default_factory=dict)

    def add(self, record: NamedKeyRecord, deadline: float) -> None:
        """Have the desktop store a key."""
        self.pending[record.id] = PendingKey(record, deadline)

    def remove(self, id: str, now: float) -> None:
        """Have the desktop delete a key, also one that it may have stored meanwhile."""
        self.pending.pop(id, None)
        self.failed.pop(id, None)
        _make_room(self.removals, MAX_REMOVALS)
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
        self.removals = {id: until for id, until in self.removals.items() if id in own}
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
        _make_room(self.failed, MAX_FAILURES)
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
    def is_empty(self) -> bool:
        """Whether nothing would be lost with this object."""
        return not (self.pending or self.removals)


def _make_room(entries: dict[str, float] | dict[str, FailedKey], size: int) -> None:
    while len(entries) >= size:
        del entries[next(iter(entries))]
