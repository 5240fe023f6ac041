"""Tests of the conversations on disk."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase as TestCase

from ctllm.desktop.conversations.preconditions import HasRevision, IsAbsent
from ctllm.desktop.conversations.sealed_file import generate_key
from ctllm.desktop.conversations.store import (
    DEFAULT_LIMITS,
    ConversationStore,
    StoredDocument,
    StoreLimits,
)
from ctllm.errors import (
    BadConfiguration,
    ContentTooLarge,
    ConversationDamaged,
    Gone,
    InsufficientStorage,
    NotFound,
    PreconditionFailed,
)

A, B, C = "a" * 32, "b" * 32, "c" * 32
YEAR = 365 * 86400.0


class StoreCase(TestCase):
    """A store in a folder of its own."""

    def setUp(self) -> None:
        """Begin in the year 2026."""
        self.directory = Path(self.mktemp())
        self.key = generate_key()
        self.now = 1_790_000_000.0
        self.damage: list[str] = []
        self.store = self.open()

    def open(self, limits: StoreLimits = DEFAULT_LIMITS) -> ConversationStore:
        """Open the folder as a daemon does that starts."""
        return ConversationStore(
            self.directory, self.key, lambda: self.now, limits, self.damage.append
        )

    def path(self, id: str) -> Path:
        """Return the file of a conversation."""
        return self.directory / f"{id}.conversation"

    def listed(self, store: ConversationStore | None = None) -> list[tuple[str, bool]]:
        """Return the ids of all conversations, and whether they were deleted."""
        return [(each.id, each.deleted) for each in (store or self.store).changes_since(0)]


class ReadAndWriteTests(StoreCase):
    """One writer, then two."""

    def test_what_was_written_is_read(self) -> None:
        """Also after a restart."""
        revision = self.store.write(A, b'{"a":1}', IsAbsent())
        for store in (self.store, self.open()):
            self.assertEqual(store.read(A), StoredDocument(b'{"a":1}', revision))
            self.assertEqual(store.revision, revision)
        self.assertEqual(self.damage, [])

    def test_a_revision_replaces_the_one_before(self) -> None:
        """The change is based on it."""
        first = self.store.write(A, b"1", IsAbsent())
        second = self.store.write(A, b"2", HasRevision(first))
        self.assertGreater(second, first)
        self.assertEqual(self.store.read(A), StoredDocument(b"2", second))
        self.assertEqual(self.store.changes_since(first), self.store.changes_since(0))

    def test_of_two_writers_one_is_refused(self) -> None:
        """It learns the present revision, and what the other wrote is unchanged."""
        first = self.store.write(A, b"1", IsAbsent())
        second = self.store.write(A, b"2", HasRevision(first))
        for stale in (HasRevision(first), HasRevision(0), IsAbsent()):
            refused = self.assertRaises(PreconditionFailed, self.store.write, A, b"3", stale)
            self.assertEqual(refused.revision, second)
        self.assertEqual(self.store.read(A).content, b"2")

    def test_a_change_of_what_is_not_stored_is_refused(self) -> None:
        """There is no present revision."""
        refused = self.assertRaises(PreconditionFailed, self.store.write, A, b"1", HasRevision(5))
        self.assertIsNone(refused.revision)
        self.assertRaises(NotFound, self.store.read, A)

    def test_a_restored_backup_gives_no_revision_twice(self) -> None:
        """A device that has a later version than the backup is refused, and does not overwrite."""
        first = self.store.write(A, b"1", IsAbsent())
        backup = {path: path.read_bytes() for path in self.directory.iterdir()}
        self.now += 10
        lost = self.store.write(A, b"lost", HasRevision(first))
        for path, content in backup.items():
            path.write_bytes(content)
        self.now += 10
        store = self.open()
        again = store.write(A, b"again", HasRevision(first))
        self.assertNotEqual(again, lost)
        with self.assertRaises(PreconditionFailed):
            store.write(A, b"3", HasRevision(lost))

    def test_only_the_owner_can_read_the_files(self) -> None:
        """And nothing of a document is in them in clear."""
        self.store.write(A, b"a marked sentence", IsAbsent())
        self.assertEqual(self.directory.stat().st_mode & 0o777, 0o700)
        for path in self.directory.iterdir():
            self.assertEqual(path.stat().st_mode & 0o777, 0o600)
            self.assertNotIn(b"marked", path.read_bytes())


class DeletionTests(StoreCase):
    """Delete means gone."""

    def test_a_deleted_conversation_leaves_a_tombstone(self) -> None:
        """Reading and writing it says that it was deleted; the file is gone."""
        revision = self.store.write(A, b"1", IsAbsent())
        self.store.delete(A)
        self.assertFalse(self.path(A).exists())
        for store in (self.store, self.open()):
            self.assertRaises(Gone, store.read, A)
            self.assertRaises(Gone, store.write, A, b"2", HasRevision(revision))
            self.assertRaises(Gone, store.write, A, b"2", IsAbsent())
            self.assertEqual(self.listed(store), [(A, True)])
        self.store.delete(A)  # again, which changes nothing

    def test_the_content_is_overwritten(self) -> None:
        """Whoever still has the file open reads zeros."""
        self.store.write(A, b"x" * 5000, IsAbsent())
        with self.path(A).open("rb") as file:
            size = len(file.read())
            self.store.delete(A)
            file.seek(0)
            self.assertEqual(file.read(), bytes(size))

    def test_what_is_not_stored_yet_is_deleted(self) -> None:
        """A device that is about to store it does not bring it back."""
        self.store.delete(A)
        self.assertRaises(Gone, self.store.write, A, b"1", IsAbsent())

    def test_a_precondition_protects_a_later_change(self) -> None:
        """The conversation stays."""
        first = self.store.write(A, b"1", IsAbsent())
        self.store.write(A, b"2", HasRevision(first))
        self.assertRaises(PreconditionFailed, self.store.delete, A, HasRevision(first))
        self.assertEqual(self.store.read(A).content, b"2")

    def test_tombstones_expire_after_a_year(self) -> None:
        """In the list when the next conversation is deleted, and after a restart."""
        self.store.delete(A)
        self.now += YEAR + 1
        self.assertRaises(NotFound, self.store.read, A)
        self.assertEqual(self.listed(self.open()), [])
        self.store.delete(B)
        self.assertEqual(self.listed(), [(B, True)])

    def test_tombstones_are_bounded(self) -> None:
        """The oldest are forgotten."""
        store = self.open(StoreLimits(tombstones=2))
        for id in (A, B, C):
            store.delete(id)
        self.assertEqual(self.listed(store), [(B, True), (C, True)])

    def test_a_deletion_that_a_crash_cut_is_finished(self) -> None:
        """The tombstone was written, and the file was still there."""
        self.store.write(A, b"1", IsAbsent())
        content = self.path(A).read_bytes()
        self.store.delete(A)
        self.path(A).write_bytes(content)
        self.assertEqual(self.listed(self.open()), [(A, True)])
        self.assertFalse(self.path(A).exists())


class LimitTests(StoreCase):
    """Nothing is changed by what is refused."""

    def test_a_document_has_a_limit(self) -> None:
        """A byte more is too large."""
        store = self.open(StoreLimits(document_bytes=1000))
        store.write(A, bytes(1000), IsAbsent())
        self.assertEqual(len(store.read(A).content), 1000)
        self.assertRaises(ContentTooLarge, store.write, B, bytes(1001), IsAbsent())

    def test_all_documents_have_a_limit(self) -> None:
        """A conversation that shrinks is stored even beyond it, and deleting makes room."""
        store = self.open(StoreLimits(total_bytes=100))
        first = store.write(A, bytes(60), IsAbsent())
        self.assertRaises(InsufficientStorage, store.write, B, bytes(41), IsAbsent())
        self.assertRaises(InsufficientStorage, store.write, A, bytes(101), HasRevision(first))
        self.assertEqual(len(store.read(A).content), 60)
        smaller = self.open(StoreLimits(total_bytes=10))
        smaller.write(A, bytes(50), HasRevision(first))
        smaller.delete(A)
        smaller.write(B, bytes(10), IsAbsent())

    def test_their_number_has_a_limit(self) -> None:
        """Those that are stored can still be changed."""
        store = self.open(StoreLimits(conversations=1))
        first = store.write(A, b"1", IsAbsent())
        self.assertRaises(InsufficientStorage, store.write, B, b"1", IsAbsent())
        store.write(A, b"2", HasRevision(first))


class DamageTests(StoreCase):
    """Damage is reported, left alone, and concerns one conversation only."""

    def setUp(self) -> None:
        """Store two conversations."""
        super().setUp()
        self.first = self.store.write(A, b"one", IsAbsent())
        self.store.write(B, b"two", IsAbsent())

    def assert_damaged(self, store: ConversationStore, id: str = A) -> None:
        """Check that `id` alone is damaged."""
        self.assertRaises(ConversationDamaged, store.read, id)
        self.assertEqual(store.damaged_ids, [id])
        self.assertEqual(self.listed(store), [(each, False) for each in (A, B) if each != id])
        self.assertEqual(len(self.damage), 1, self.damage)
        self.assertIn(str(self.path(id)), self.damage[0])

    def test_a_changed_file(self) -> None:
        """It is found when it is read, and again after a restart; its bytes stay."""
        damaged = bytearray(self.path(A).read_bytes())
        damaged[-1] ^= 1
        self.path(A).write_bytes(damaged)
        self.assertRaises(ConversationDamaged, self.store.read, A)
        self.assert_damaged(self.store)
        self.assertEqual(self.store.read(B).content, b"two")
        self.assertEqual(self.path(A).read_bytes(), damaged)

    def test_a_file_of_another_name(self) -> None:
        """Two files were exchanged."""
        self.path(A).write_bytes(self.path(B).read_bytes())
        store = self.open()
        self.assertRaises(ConversationDamaged, store.read, A)
        self.assertEqual(store.read(B).content, b"two")

    def test_an_earlier_version_of_a_file(self) -> None:
        """Somebody put it back: while the daemon runs, and while it does not."""
        earlier = self.path(A).read_bytes()
        self.now += 1
        self.store.write(A, b"three", HasRevision(self.first))
        self.path(A).write_bytes(earlier)
        self.assert_damaged(self.open())
        self.damage.clear()
        self.assertRaises(ConversationDamaged, self.store.read, A)
        self.assert_damaged(self.store)

    def test_a_file_that_was_deleted_and_whose_tombstone_has_expired(self) -> None:
        """It is not served again when somebody puts it back."""
        earlier = self.path(A).read_bytes()
        self.store.delete(A)
        self.now += YEAR + 1
        self.open()
        self.path(A).write_bytes(earlier)
        self.assert_damaged(self.open())

    def test_a_missing_file(self) -> None:
        """It is reported."""
        self.path(A).unlink()
        self.assert_damaged(self.open())

    def test_files_of_other_programs(self) -> None:
        """Other names are ignored; links are not followed; an empty file is damaged."""
        (self.directory / "notes.txt").write_text("mine")
        (self.directory / f"{C}.conversation").symlink_to("/etc/passwd")
        self.path(A).write_bytes(b"")
        self.assert_damaged(self.open())
        self.assertTrue((self.directory / "notes.txt").exists())

    def test_whoever_has_the_conversation_stores_it_again(self) -> None:
        """With the revision that is known, or as a new one; the damaged file is kept aside."""
        for is_new in (True, False):
            with self.subTest(is_new):
                self.path(A).write_bytes(b"damaged")
                store = self.open()
                precondition = IsAbsent() if is_new else HasRevision(self.first)
                self.first = store.write(A, b"again", precondition)
                self.assertEqual(store.read(A).content, b"again")
                self.assertEqual(self.listed(self.open()), [(B, False), (A, False)])
        aside = list(self.directory.glob(f"{A}.conversation.damaged-*"))
        self.assertEqual([path.read_bytes() for path in aside], [b"damaged"] * 2)
        store.delete(A)
        self.assertEqual(list(self.directory.glob(f"{A}*")), [])

    def test_a_damaged_index_is_made_again(self) -> None:
        """Of the conversations; it is reported and kept aside."""
        (self.directory / "index").write_bytes(b"damaged")
        store = self.open()
        self.assertEqual(self.listed(store), [(A, False), (B, False)])
        self.assertEqual(store.read(A).content, b"one")
        self.assertIn("index", self.damage[0])
        self.assertEqual(len(list(self.directory.glob("index.damaged-*"))), 1)

    def test_an_earlier_index_is_reported(self) -> None:
        """The newer conversations are served all the same."""
        earlier = (self.directory / "index").read_bytes()
        for id in (C, "d" * 32):
            self.now += 1
            self.store.write(id, b"new", IsAbsent())
        (self.directory / "index").write_bytes(earlier)
        store = self.open()
        self.assertEqual(store.read(C).content, b"new")
        self.assertEqual(len(store.changes_since(0)), 4)
        self.assertIn("newer than the index", self.damage[0])

    def test_a_forged_revision_does_not_become_that_of_the_store(self) -> None:
        """The header is verified before it counts."""
        forged = bytearray(self.path(A).read_bytes())
        forged[8:16] = (2**53 - 1).to_bytes(8, "big")
        self.path(A).write_bytes(forged)
        store = self.open()
        self.assert_damaged(store)
        self.assertEqual(store.revision, self.store.revision)


class FullDiskTests(StoreCase):
    """The old versions stay where a new one cannot be written."""

    def limit_files(self, size: int) -> None:
        """Let this process write files of at most `size` bytes."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        self.addCleanup(signal.signal, signal.SIGXFSZ, handler)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_FSIZE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    def lift_limit(self) -> None:
        """Let this process write files of any size."""
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

    def test_the_old_document_stays(self) -> None:
        """The error says that the disk is full; no temporary file remains."""
        first = self.store.write(A, b"old", IsAbsent())
        self.limit_files(10_000)
        refused = self.assertRaises(
            InsufficientStorage, self.store.write, A, bytes(20_000), HasRevision(first)
        )
        self.lift_limit()
        self.assertIn("Free some space", refused.message)
        for store in (self.store, self.open()):
            self.assertEqual(store.read(A), StoredDocument(b"old", first))
        self.assertEqual(
            sorted(path.name for path in self.directory.iterdir()), [self.path(A).name, "index"]
        )

    def test_an_index_that_cannot_be_written_leaves_both(self) -> None:
        """The document would fit, and the index does not."""
        first = self.store.write(A, b"old", IsAbsent())
        for number in range(50):
            self.store.write(f"{number:032x}", b"x", IsAbsent())
        self.limit_files(2000)
        self.assertRaises(InsufficientStorage, self.store.write, A, b"new", HasRevision(first))
        self.lift_limit()
        for store in (self.store, self.open()):
            self.assertEqual(store.read(A).content, b"old")
        self.assertEqual(self.damage, [])

    def test_a_conversation_can_be_deleted(self) -> None:
        """Even where the index cannot be written until it is gone."""
        self.store.write(A, b"secret", IsAbsent())
        self.limit_files(10)
        self.assertRaises(InsufficientStorage, self.store.delete, A)
        self.lift_limit()
        self.assertFalse(self.path(A).exists())
        self.store.delete(A)
        self.assertEqual(self.listed(self.open()), [(A, True)])

    def test_a_folder_that_cannot_be_used_is_an_error(self) -> None:
        """It names the folder."""
        self.directory = Path(self.mktemp())
        self.directory.write_text("a file")
        refused = self.assertRaises(BadConfiguration, self.open)
        self.assertIn(str(self.directory), refused.message)


_WRITER = """
import sys
from pathlib import Path
from ctllm.desktop.conversations.preconditions import HasRevision, IsAbsent
from ctllm.desktop.conversations.store import ConversationStore
store = ConversationStore(Path(sys.argv[1]), bytes(32))
revision = store.write("a" * 32, b"x" * 200_000, IsAbsent())
print("begun", flush=True)
while True:
    for letter in b"xyz":
        revision = store.write("a" * 32, bytes([letter]) * 200_000, HasRevision(revision))
"""


class CrashTests(StoreCase):
    """A writer that is killed leaves the old version or the new one."""

    def test_kill_in_mid_write(self) -> None:
        """Twenty times, at any moment."""
        for number in range(20):
            directory = self.directory / str(number)
            writer = subprocess.Popen(
                [sys.executable, "-c", _WRITER, os.fspath(directory)], stdout=subprocess.PIPE
            )
            assert writer.stdout is not None
            writer.stdout.readline()
            os.read(os.open("/dev/urandom", os.O_RDONLY), number * 100_000)  # another moment
            writer.kill()
            writer.communicate()
            store = ConversationStore(directory, bytes(32), on_damage=self.damage.append)
            content = store.read(A).content
            self.assertEqual((len(content), len(set(content))), (200_000, 1))
            self.assertEqual(self.damage, [])
            names = sorted(path.name for path in directory.iterdir())
            self.assertEqual(names, [f"{A}.conversation", "index"])
