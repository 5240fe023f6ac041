"""The index: the revision and size of each conversation, and what remains of deleted ones.

It is a value. Each change returns another one, so that a failed write leaves the old one in use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from ctllm.desktop.conversations.sealed_file import MAX_REVISION

#: The name of a conversation: 32 hexadecimal digits that its creator chose at random.
ConversationId = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
Revision = Annotated[int, Meta(ge=0, le=MAX_REVISION)]
Time = Annotated[float, Meta(ge=0, le=2**53)]

T = TypeVar("T")


class Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A conversation; `size` is that of its document, in bytes."""

    revision: Revision
    size: Annotated[int, Meta(ge=0, le=2**53)]


class Tombstone(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What remains of a deleted conversation; `deleted_at` is in epoch seconds."""

    revision: Revision
    deleted_at: Time


class Change(msgspec.Struct, frozen=True):
    """A conversation that has changed, or was deleted."""

    id: str
    revision: int
    size: int
    deleted: bool


class Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of the index. `revision` is the largest one that was ever given."""

    revision: Revision = 0
    conversations: dict[ConversationId, Entry] = {}
    tombstones: dict[ConversationId, Tombstone] = {}

    def next_revision(self, now: float) -> int:
        """Return the revision of the next change; `now` is in epoch seconds.

        It is the time in milliseconds, where that is larger than all revisions so far. So a folder
        that was restored from a backup does not give a revision twice to different documents.
        """
        milliseconds = int(now * 1000)
        is_plausible = self.revision < milliseconds <= MAX_REVISION // 2
        return milliseconds if is_plausible else self.revision + 1

    @property
    def total_size(self) -> int:
        """The bytes of all documents."""
        return sum(entry.size for entry in self.conversations.values())

    def with_entry(self, id: str, entry: Entry) -> Index:
        """Return the index after a conversation was written."""
        return replace(
            self,
            revision=max(self.revision, entry.revision),
            conversations={**self.conversations, id: entry},
            tombstones=_without(self.tombstones, id),
        )

    def without_entry(self, id: str) -> Index:
        """Return the index without a conversation, and without a tombstone of it."""
        return replace(self, conversations=_without(self.conversations, id))

    def with_tombstone(self, id: str, tombstone: Tombstone, max_tombstones: int) -> Index:
        """Return the index after a conversation was deleted.

        The oldest tombstones beyond `max_tombstones` are dropped.
        """
        tombstones = {**_without(self.tombstones, id), id: tombstone}
        if len(tombstones) > max_tombstones:
            newest = sorted(tombstones, key=lambda each: tombstones[each].revision)
            tombstones = {each: tombstones[each] for each in newest[-max_tombstones:]}
        return replace(
            self,
            revision=max(self.revision, tombstone.revision),
            conversations=_without(self.conversations, id),
            tombstones=tombstones,
        )

    def without_tombstones_before(self, time: float) -> Index:
        """Return the index without the tombstones of what was deleted before `time`."""
        if all(each.deleted_at >= time for each in self.tombstones.values()):
            return self
        kept = {id: each for id, each in self.tombstones.items() if each.deleted_at >= time}
        return replace(self, tombstones=kept)

    def changes_since(self, revision: int) -> list[Change]:
        """Return what has changed after `revision`, in the order of the changes.

        A revision that was never given is of another folder, or of later than a backup that was
        restored: then all are returned.
        """
        since = revision if revision <= self.revision else 0
        changes = [
            Change(id, entry.revision, entry.size, False)
            for id, entry in self.conversations.items()
            if entry.revision > since
        ]
        changes += [
            Change(id, each.revision, 0, True)
            for id, each in self.tombstones.items()
            if each.revision > since
        ]
        return sorted(changes, key=lambda change: change.revision)


def _without(known: Mapping[str, T], id: str) -> dict[str, T]:
    return {each: value for each, value in known.items() if each != id}
