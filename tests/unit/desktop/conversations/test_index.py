"""Tests of the index of conversations."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase as TestCase

from ctllm.desktop.conversations.index import Change, Entry, Index, Tombstone
from ctllm.desktop.conversations.sealed_file import MAX_REVISION

A, B, C = "a" * 32, "b" * 32, "c" * 32


class IndexTests(TestCase):
    """Revisions, changes and tombstones."""

    def test_changes_are_those_after_a_revision_in_order(self) -> None:
        """A conversation is listed with its last change only."""
        index = Index().with_entry(A, Entry(1, 10)).with_entry(B, Entry(2, 20))
        index = index.with_entry(A, Entry(3, 30)).with_tombstone(B, Tombstone(4, 1.0), 10)
        self.assertEqual(index.changes_since(0), [Change(A, 3, 30, False), Change(B, 4, 0, True)])
        self.assertEqual(index.changes_since(3), [Change(B, 4, 0, True)])
        self.assertEqual(index.changes_since(4), [])

    def test_a_revision_of_the_future_lists_everything(self) -> None:
        """The folder was restored from a backup, or is another one."""
        index = Index().with_entry(A, Entry(1, 10))
        self.assertEqual(index.changes_since(99), [Change(A, 1, 10, False)])

    def test_revisions_follow_the_clock_and_never_go_back(self) -> None:
        """A clock that goes back, or far beyond, gives the next number."""
        index = Index(revision=5000)
        self.assertEqual(index.next_revision(now=6.0), 6000)
        self.assertEqual(index.next_revision(now=5.0), 5001)
        self.assertEqual(index.next_revision(now=0.0), 5001)
        self.assertEqual(index.next_revision(now=float(MAX_REVISION)), 5001)

    def test_the_oldest_tombstones_are_dropped(self) -> None:
        """So their number is bounded."""
        index = Index()
        for revision, id in enumerate((A, B, C), 1):
            index = index.with_tombstone(id, Tombstone(revision, 1.0), 2)
        self.assertEqual(set(index.tombstones), {B, C})

    def test_tombstones_expire(self) -> None:
        """The revision stays."""
        index = Index().with_tombstone(A, Tombstone(1, 100.0), 9)
        index = index.with_tombstone(B, Tombstone(2, 200.0), 9)
        kept = index.without_tombstones_before(150.0)
        self.assertEqual((set(kept.tombstones), kept.revision), ({B}, 2))

    def test_the_size_is_that_of_all_documents(self) -> None:
        """A replaced document counts once, a deleted one not at all."""
        index = Index().with_entry(A, Entry(1, 10)).with_entry(B, Entry(2, 20))
        index = index.with_entry(A, Entry(3, 5)).with_tombstone(B, Tombstone(4, 1.0), 9)
        self.assertEqual(index.total_size, 5)
