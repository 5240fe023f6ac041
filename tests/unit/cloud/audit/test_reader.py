"""`ctllm.cloud.audit.reader`: entries of all files, damaged lines, and what is appended."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.audit import AuditEntry, AuditFile, AuditFilter, AuditReader
from ctllm.cloud.audit.entries import IdentityEvent, format_time

NOW = 1_700_000_000.0
ANN, BOB = "a" * 32, "b" * 32


def entry(event: IdentityEvent = "session.created", at: float = NOW, user: str = ANN) -> AuditEntry:
    return AuditEntry(format_time(at), event, user=user)


class AuditReaderTests(SynchronousTestCase):
    """A log in a directory of its own."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute() / "audit.jsonl"
        self.path.parent.mkdir()
        self.file = AuditFile(self.path, max_bytes=400)
        self.reader = AuditReader(self.file)

    def append(self, *entries: AuditEntry) -> None:
        for each in entries:
            self.file.append(msgspec.json.encode(each), NOW)

    def test_reads_rotated_files_before_the_current_one(self) -> None:
        entries = [entry(at=NOW + each) for each in range(20)]
        self.append(*entries)
        self.assertGreater(len(self.file.files()), 3)
        self.assertEqual(list(self.reader.read()), entries)

    def test_without_a_file_there_are_no_entries(self) -> None:
        self.assertEqual(list(self.reader.read()), [])

    def test_damaged_lines_are_counted_and_the_others_read(self) -> None:
        self.append(entry())
        with self.path.open("ab") as file:
            file.write(
                b'{"time":"2026\n\n[1]\n{"time":1,"event":"x"}\n\xff\xfe\n{"event":"no.such"}'
            )
        self.append(entry("session.closed"))
        self.assertEqual([each.event for each in self.reader.read()],
                         ["session.created", "session.closed"])  # fmt: skip
        self.assertEqual(self.reader.damaged, 5)

    def test_a_line_without_end_is_not_read_into_memory(self) -> None:
        with self.path.open("wb") as file:
            for _ in range(32):
                file.write(b"x" * (1 << 20))
        self.append(entry())
        tracemalloc.start()
        self.assertEqual(len(list(self.reader.read())), 1)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        self.assertLess(peak, 1 << 20)

    def test_follows_what_is_appended_also_over_rotations(self) -> None:
        self.append(entry(at=NOW))
        following, pending = self.reader.follow(self.sleep), [entry(at=NOW + i) for i in range(30)]
        self.appending = list(pending)
        self.assertEqual(next(following), entry(at=NOW))
        self.assertEqual([next(following) for _ in pending], pending)
        self.assertGreater(len(self.file.files()), 3)

    def sleep(self, seconds: float) -> None:
        """Append several entries meanwhile."""
        self.append(*self.appending[:5])
        del self.appending[:5]

    def test_follows_a_line_that_is_written_in_parts(self) -> None:
        line = msgspec.json.encode(entry()) + b"\n"
        parts = [line[:10], line[10:30], line[30:]]

        def sleep(seconds: float) -> None:
            with self.path.open("ab") as file:
                file.write(parts.pop(0))

        self.path.write_bytes(b"")
        self.assertEqual(next(self.reader.follow(sleep)), entry())
        self.assertEqual((parts, self.reader.damaged), ([], 0))


class AuditFilterTests(SynchronousTestCase):
    """Which entries are wanted."""

    def test_filters_by_time_event_and_user(self) -> None:
        one = entry(at=NOW)
        for matching in (AuditFilter(), AuditFilter(since=NOW), AuditFilter(until=NOW + 1),
                         AuditFilter(event="session.*"), AuditFilter(user_hash=ANN),
                         AuditFilter(user_hash="aaaa")):  # fmt: skip
            self.assertTrue(matching.matches(one), matching)
        for other in (AuditFilter(since=NOW + 1), AuditFilter(until=NOW),
                      AuditFilter(event="Session.*"), AuditFilter(event="proxy.*"),
                      AuditFilter(user_hash=BOB)):  # fmt: skip
            self.assertFalse(other.matches(one), other)

    def test_events_of_a_proxy_are_those_of_its_user(self) -> None:
        started = AuditEntry(format_time(NOW), "proxy.started", f"ctllm-proxy-{ANN}")
        self.assertTrue(AuditFilter(user_hash=ANN).matches(started))

    def test_an_entry_without_a_valid_time_is_wanted_unless_time_matters(self) -> None:
        damaged = AuditEntry("yesterday", "session.created")
        self.assertTrue(AuditFilter().matches(damaged))
        self.assertFalse(AuditFilter(since=0.0).matches(damaged))
