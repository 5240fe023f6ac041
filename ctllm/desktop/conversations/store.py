"""The conversations on disk: an encrypted file for each, and an encrypted index.

A write prepares both files before it commits either, so a full disk leaves the old versions. It
commits the conversation first: after a crash between the two, the conversation is newer than the
index, which opening the store repairs. A file that is older than the index says was put back by
somebody. It is reported and left alone, as is every damaged file.

All methods block, and none may run beside another. One process at a time uses a folder (the
daemon's instance lock).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import msgspec
from twisted.logger import Logger

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.desktop.conversations.index import Change, Entry, Index, Tombstone
from ctllm.desktop.conversations.preconditions import HasRevision, IsAbsent, Precondition
from ctllm.desktop.conversations.sealed_file import (
    HEADER_SIZE,
    OVERHEAD,
    DamagedFile,
    read_revision,
    seal,
    unseal,
)
from ctllm.errors import (
    ContentTooLarge,
    ConversationDamaged,
    Gone,
    InsufficientStorage,
    NotFound,
    PreconditionFailed,
)
from ctllm.system.atomic_write import (
    PreparedFile,
    overwrite_and_remove,
    rename_damaged,
    sync_directory,
)
from ctllm.system.os_errors import is_disk_full, translate_os_errors

#: The name of the index, and how names of conversations end.
INDEX = "index"
SUFFIX = ".conversation"

_NAME = re.compile(rf"([0-9a-f]{{32}}){re.escape(SUFFIX)}")
_NO_INDEX = "it is not in the index"

OnDamage = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """What one desktop stores: bytes of a document and of all, conversations, tombstones.

    A tombstone is forgotten after `tombstone_seconds`.
    """

    document_bytes: int = 32 << 20
    total_bytes: int = 8 << 30
    conversations: int = 10_000
    tombstones: int = 10_000
    tombstone_seconds: float = 365 * 86400.0


DEFAULT_LIMITS = StoreLimits()


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document and its revision."""

    content: bytes
    revision: int


class ConversationStore:
    """The folder `directory`, which is created, with the `key` of its files.

    `now` returns epoch seconds. `on_damage` is called with a message about each damaged file; by
    default it is logged. Raises BadConfiguration if the file system refuses.
    """

    _log = Logger()

    def __init__(
        self,
        directory: Path,
        key: bytes,
        now: Callable[[], float] = time.time,
        limits: StoreLimits = DEFAULT_LIMITS,
        on_damage: OnDamage | None = None,
    ) -> None:
        self._directory = directory
        self._key = key
        self._now = now
        self._limits = limits
        self._on_damage = on_damage or self._log_damage
        self._index = Index()
        self._damaged: dict[str, str] = {}  # why, by id
        with self._translated("open"):
            self._open()

    # -- reading

    @property
    def revision(self) -> int:
        """The revision of the last change."""
        return self._index.revision

    @property
    def damaged_ids(self) -> list[str]:
        """The ids of damaged conversations, which are stored and cannot be read."""
        return sorted(self._damaged)

    def changes_since(self, revision: int) -> list[Change]:
        """Return what has changed after `revision`, without damaged conversations."""
        changes = self._index.changes_since(revision)
        return [change for change in changes if change.id not in self._damaged]

    def read(self, id: str) -> StoredDocument:
        """Return a document; raises NotFound, Gone or ConversationDamaged."""
        self._require_undeleted(id)
        if id in self._damaged:
            raise self._damage_error(id)
        entry = self._index.conversations.get(id)
        if entry is None:
            raise _unknown(id)
        with self._translated("read"):
            try:
                return self._read_verified(id, entry.revision)
            except DamagedFile as error:
                self._report_damage(id, str(error))
        raise self._damage_error(id)

    def _read_verified(self, id: str, expected: int) -> StoredDocument:
        """Raises DamagedFile, also for another revision than the index has."""
        try:
            with self._path(id).open("rb") as file:
                sealed = file.read(self._limits.document_bytes + OVERHEAD + 1)
        except FileNotFoundError:
            raise DamagedFile("it is missing") from None
        revision, content = unseal(self._key, id, sealed)
        if revision != expected:
            raise DamagedFile("it is not the version that was stored last")
        return StoredDocument(content, revision)

    # -- writing

    def write(self, id: str, content: bytes, precondition: Precondition) -> int:
        """Store a document and return its revision.

        Raises PreconditionFailed, Gone, ContentTooLarge or InsufficientStorage; then nothing has
        changed. A damaged file is renamed first: whoever writes has the conversation.
        """
        self._require_undeleted(id)
        self._check(id, precondition)
        self._require_room(id, len(content))
        revision = self._index.next_revision(self._now())
        index = self._index.with_entry(id, Entry(revision, len(content)))
        with self._translated("write to"):
            self._commit(index, id, seal(self._key, id, revision, content))
        return revision

    def _commit(self, index: Index, id: str, sealed: bytes) -> None:
        prepared: list[PreparedFile] = []
        try:
            prepared.append(PreparedFile(self._path(id), sealed))
            prepared.append(self._prepare_index(index))
            if id in self._damaged and self._path(id).exists():
                rename_damaged(self._path(id))
            for file in prepared:
                file.commit()
                self._index = index  # now: the conversation is the first of the two
        finally:
            for file in prepared:
                file.discard()
        self._damaged.pop(id, None)
        sync_directory(self._directory)

    def _prepare_index(self, index: Index) -> PreparedFile:
        sealed = seal(self._key, INDEX, index.revision, msgspec.json.encode(index))
        return PreparedFile(self._directory / INDEX, sealed)

    def _save_index(self, index: Index) -> None:
        file = self._prepare_index(index)
        try:
            file.commit()
        finally:
            file.discard()
        self._index = index
        sync_directory(self._directory)

    def delete(self, id: str, precondition: HasRevision | None = None) -> None:
        """Delete a conversation and leave a tombstone, even of one that is not stored here yet.

        A device may still be about to store it. Raises PreconditionFailed.
        """
        if id not in self._index.tombstones:
            if precondition is not None:
                self._check(id, precondition)
            with self._translated("write to"):
                self._bury(id)
        with self._translated("delete from"):
            self._erase(id)

    def _bury(self, id: str) -> None:
        now = self._now()
        index = self._index.without_tombstones_before(now - self._limits.tombstone_seconds)
        tombstone = Tombstone(index.next_revision(now), now)
        index = index.with_tombstone(id, tombstone, self._limits.tombstones)
        try:
            self._save_index(index)
        except OSError as error:
            if not is_disk_full(error):
                raise
            self._erase(id)  # which frees what the index needs
            self._save_index(index)

    def _erase(self, id: str) -> None:
        """Remove the files of a conversation, also those that were damaged once."""
        for path in (self._path(id), *self._directory.glob(f"{id}{SUFFIX}.damaged-*")):
            if path.exists():
                overwrite_and_remove(path)
        self._damaged.pop(id, None)
        sync_directory(self._directory)

    # -- checks

    def _require_undeleted(self, id: str) -> None:
        tombstone = self._index.tombstones.get(id)
        if tombstone is None:
            return
        if tombstone.deleted_at >= self._now() - self._limits.tombstone_seconds:
            raise Gone("This conversation was deleted.")

    def _check(self, id: str, precondition: Precondition) -> None:
        """Raise PreconditionFailed unless `precondition` is true. A damaged file counts as none."""
        entry = self._index.conversations.get(id)
        if isinstance(precondition, IsAbsent):
            if entry is None or id in self._damaged:
                return
        elif entry is not None and entry.revision == precondition.revision:
            return
        raise PreconditionFailed(
            "Another device has changed this conversation. Read it, merge both, and try again.",
            revision=None if entry is None else entry.revision,
        )

    def _require_room(self, id: str, size: int) -> None:
        limits, index = self._limits, self._index
        if size > limits.document_bytes:
            raise ContentTooLarge(
                f"A conversation has at most {limits.document_bytes >> 20} MiB, with its images. "
                "Begin another one."
            )
        present = index.conversations.get(id)
        if present is None and len(index.conversations) >= limits.conversations:
            raise InsufficientStorage(
                f"This desktop stores at most {limits.conversations:,} conversations. Delete some "
                "of them."
            )
        before = 0 if present is None else present.size
        if size > before and index.total_size - before + size > limits.total_bytes:
            raise InsufficientStorage(
                f"The conversations on this desktop take {limits.total_bytes >> 20:,} MiB, the "
                "most that it stores. Delete some of them."
            )

    # -- opening

    def _open(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._remove_temporary_files()
        index = self._load_index()
        is_rebuilt = index is None
        self._index = index or Index()
        repaired = self._compare(self._index, is_rebuilt)
        repaired = repaired.without_tombstones_before(self._now() - self._limits.tombstone_seconds)
        if repaired != self._index:
            self._save_index(repaired)

    def _remove_temporary_files(self) -> None:
        """Remove what a crash has left."""
        for path in self._directory.glob(".*"):
            path.unlink(missing_ok=True)

    def _load_index(self) -> Index | None:
        """Return the index; None if it has to be made of the conversations."""
        path = self._directory / INDEX
        try:
            _, content = unseal(self._key, INDEX, path.read_bytes())
            return decode_json(content, Index, max_size=len(content))
        except FileNotFoundError:
            return None
        except (DamagedFile, InvalidJson) as error:
            kept = rename_damaged(path)
            self._on_damage(
                f"{path} was damaged ({error}); it is now called {kept.name}. It was made again of "
                "the conversations. Those that were deleted may come back from another device."
            )
            return None

    def _compare(self, index: Index, is_rebuilt: bool) -> Index:
        """Return the index that fits the files: report what is damaged, finish what a crash cut."""
        found = dict(self._list_files())
        newer = 0
        for id, revision in found.items():
            entry, tombstone = index.conversations.get(id), index.tombstones.get(id)
            if tombstone is not None:
                self._erase(id)
            elif isinstance(revision, DamagedFile):
                self._report_damage(id, str(revision))
            elif entry is not None and revision == entry.revision:
                continue
            elif is_rebuilt or revision > self._index.revision:
                index = self._with_newer(index, id, revision)
                newer += 1
            else:
                reason = "it is older than the version that was stored last"
                self._report_damage(id, _NO_INDEX if entry is None else reason)
        for id in index.conversations.keys() - found.keys():
            self._report_damage(id, "it is missing")
        if newer > 1 and not is_rebuilt:
            self._on_damage(
                f"{newer} conversations in {self._directory} are newer than the index, which "
                "somebody has replaced by an earlier one. Those that were deleted since may return."
            )
        return index

    def _list_files(self) -> Iterator[tuple[str, int | DamagedFile]]:
        """Yield id and unverified revision of each conversation, without reading its content."""
        with os.scandir(self._directory) as entries:
            for entry in entries:
                match = _NAME.fullmatch(entry.name)
                if match is None or not entry.is_file(follow_symlinks=False):
                    continue
                with open(entry.path, "rb") as file:
                    start = file.read(HEADER_SIZE)
                try:
                    yield match[1], read_revision(start)
                except DamagedFile as error:
                    yield match[1], error

    def _with_newer(self, index: Index, id: str, revision: int) -> Index:
        try:
            document = self._read_verified(id, revision)
        except DamagedFile as error:
            self._report_damage(id, str(error))
            return index
        return index.with_entry(id, Entry(revision, len(document.content)))

    # -- errors

    def _path(self, id: str) -> Path:
        return self._directory / f"{id}{SUFFIX}"

    def _report_damage(self, id: str, reason: str) -> None:
        self._damaged[id] = reason
        self._on_damage(
            f"The conversation in {self._path(id)} is damaged: {reason}. It was left there. A "
            "device that has the conversation stores it again; or restore the file from a backup."
        )

    def _damage_error(self, id: str) -> ConversationDamaged:
        return ConversationDamaged(
            f"The conversation in {self._path(id)} is damaged: {self._damaged[id]}."
        )

    def _log_damage(self, message: str) -> None:
        self._log.error("{message}", message=message)

    def _translated(self, action: str) -> AbstractContextManager[None]:
        return translate_os_errors(action, self._directory, InsufficientStorage)


def _unknown(id: str) -> NotFound:
    return NotFound(f"There is no conversation {id} on this desktop.")
