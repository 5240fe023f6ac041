"""`ctllm.cloud.audit`: one JSON line for each event."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.audit import AuditLog

PROXY = "ctllm-proxy-0123456789abcdef0123456789abcdef"


class AuditLogTests(SynchronousTestCase):
    """The log and the file."""

    def setUp(self) -> None:
        self.time = 1_700_000_000.25
        self.state = Path(self.mktemp())
        (self.state / "cloud").mkdir(parents=True)
        self.path = self.state / "cloud" / "audit.jsonl"
        self.audit = AuditLog(self.state, lambda: self.time)

    def lines(self) -> list[Any]:
        return [msgspec.json.decode(line) for line in self.path.read_bytes().splitlines()]

    def test_a_line_has_the_time_in_utc_and_only_known_fields(self) -> None:
        self.audit.record("proxy.started", PROXY, milliseconds=412)
        self.audit.record("proxy.died", PROXY, "exited", "it was ended by SIGKILL")
        start, death = self.lines()
        time = "2023-11-14T22:13:20.250+00:00"
        self.assertEqual(
            start, {"time": time, "event": "proxy.started", "proxy": PROXY, "milliseconds": 412}
        )
        self.assertEqual((death["reason"], death["detail"]), ("exited", "it was ended by SIGKILL"))

    def test_writes_the_line_to_the_log_too(self) -> None:
        with capturedLogs() as events:
            AuditLog(None, lambda: self.time).record("proxy.stopped", PROXY, "idle")
        [event] = events
        self.assertEqual(event["log_namespace"], "ctllm.audit")
        self.assertEqual(msgspec.json.decode(event["line"])["reason"], "idle")
        self.assertFalse(self.path.exists())

    def test_the_file_is_private_with_any_umask(self) -> None:
        self.addCleanup(os.umask, os.umask(0))
        self.audit.record("proxy.stopped", PROXY)
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)

    def test_creates_a_file_that_was_rotated(self) -> None:
        self.audit.record("proxy.started", PROXY)
        self.path.rename(self.path.with_suffix(".1"))
        self.audit.record("proxy.stopped", PROXY)
        self.assertEqual([line["event"] for line in self.lines()], ["proxy.stopped"])

    def test_writes_a_repeated_refusal_once_a_minute(self) -> None:
        for _ in range(100):
            self.audit.record("proxy.start_refused", PROXY, "at_capacity")
        self.audit.record("proxy.start_refused", PROXY, "backoff")
        self.time += 60
        self.audit.record("proxy.start_refused", PROXY, "at_capacity")
        self.assertEqual(
            [(x["reason"], x.get("count")) for x in self.lines()],
            [("at_capacity", None), ("backoff", None), ("at_capacity", 99), ("at_capacity", None)],
        )

    def test_logs_a_full_disk_once_and_continues(self) -> None:
        full = OSError(errno.ENOSPC, "No space left on device")
        with capturedLogs() as events, mock.patch("os.write", side_effect=full):
            self.audit.record("proxy.started", PROXY)
            self.audit.record("proxy.stopped", PROXY)
        complaints = [event for event in events if "why" in event]
        self.assertEqual([event["why"] for event in complaints], ["No space left on device"])
        self.audit.record("proxy.started", PROXY)
        self.assertEqual(self.path.read_bytes().count(b'"proxy.started"'), 1)

    def test_a_line_after_a_truncated_one_is_complete(self) -> None:
        write = os.write
        with mock.patch("os.write", lambda fd, data: write(fd, data[:10])):
            self.audit.record("proxy.started", PROXY)
        self.audit.record("proxy.stopped", PROXY)
        torn, whole = self.path.read_bytes().splitlines()
        self.assertEqual((len(torn), msgspec.json.decode(whole)["event"]), (10, "proxy.stopped"))

    def test_writes_to_the_log_if_the_file_cannot_be_created(self) -> None:
        with capturedLogs() as events:
            AuditLog(self.state / "nowhere", lambda: self.time).record("proxy.started", PROXY)
        self.assertEqual(len(events), 2)


class IdentityEventTests(SynchronousTestCase):
    """Events of users."""

    def setUp(self) -> None:
        self.time = 1_700_000_000.0
        self.state = Path(self.mktemp())
        (self.state / "cloud").mkdir(parents=True)
        self.audit = AuditLog(self.state, lambda: self.time, lambda user_id: f"hash-{len(user_id)}")

    def lines(self) -> list[Any]:
        data = (self.state / "cloud" / "audit.jsonl").read_bytes()
        return [msgspec.json.decode(line) for line in data.splitlines()]

    def test_a_line_has_a_hash_and_a_network_and_neither_user_nor_address(self) -> None:
        self.audit.record_identity(
            "session.created", "ctllm|alice", address="203.0.113.77", method="invite"
        )
        self.assertEqual(
            self.lines(),
            [{"time": "2023-11-14T22:13:20.000+00:00", "event": "session.created",
              "user": "hash-11", "address": "203.0.113.0/24", "method": "invite"}],
        )  # fmt: skip

    def test_values_are_words_whatever_is_passed(self) -> None:
        self.audit.record_identity("key.refused", credential='a\n{"x":1} \x1b[2J\u202e' + "y" * 999)
        [line] = self.lines()
        self.assertEqual(line["credential"][:11], 'a_{"x":1}__')
        self.assertEqual(len(line["credential"]), 80)
        self.assertTrue(line["credential"].isascii() and line["credential"].isprintable())

    def test_a_flood_is_two_lines_a_minute_and_the_last_count_is_written_at_the_end(self) -> None:
        for _ in range(300):
            self.time += 0.5
            self.audit.record_identity("login.refused", address="203.0.113.7", reason="expired")
        self.audit.close()
        counts = [line.get("count", 0) for line in self.lines()]
        self.assertEqual(len(counts), 6)
        self.assertEqual(sum(counts) + counts.count(0), 300)

    def test_a_count_is_written_without_another_event(self) -> None:
        for _ in range(3):
            self.audit.record_identity("login.refused", reason="expired")
        self.time += 60
        self.audit.write_counts()
        self.assertEqual([line.get("count") for line in self.lines()], [None, 2])
