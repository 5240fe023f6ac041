"""`ctllm audit`: the table, the filters and JSON."""

from __future__ import annotations

import io
import json
import os
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from ctllm.cli import main
from ctllm.cloud.audit import AUDIT_FILE, AuditLog
from ctllm.cloud.identity import KnownUsers, PrivateDirectory, User, load_signing_keys, user_hash

ANN = User("ctllm", "ann", "ann")
EVE = User("https://login.example", "auth0|eve", "Eve\x1b[2J")
NOW = 1_700_000_000.0


class Terminal(io.StringIO):
    """A terminal to write to."""

    def isatty(self) -> bool:
        return True


class AuditCommandTests(SynchronousTestCase):
    """A cloud's state directory with some events."""

    def setUp(self) -> None:
        self.state = Path(self.mktemp())
        directory = PrivateDirectory(self.state / "cloud")
        secret = load_signing_keys(directory).instance_secret
        self.hash_of = lambda user_id: user_hash(secret, user_id)
        known = KnownUsers(directory.subdirectory("users"), secret)
        known.record(ANN)
        known.record(EVE)
        self.time = NOW
        audit = AuditLog(self.state, lambda: self.time, self.hash_of)
        audit.record_identity("session.created", ANN.id, address="203.0.113.7", method="invite")
        self.time += 60
        audit.record_identity("session.created", EVE.id, address="2001:db8::1", method="corp")
        audit.record("proxy.started", f"ctllm-proxy-{self.hash_of(ANN.id)}", milliseconds=412)
        self.time = time.time() - 300
        audit.record_identity("login.refused", address="203.0.113.9", reason="unauthenticated")
        audit.record_identity("session.closed", "ctllm|gone")
        self.patch(os, "environ", {**os.environ, "TZ": "UTC", "CTLLM_CONFIG": "/dev/null"})
        time.tzset()
        self.addCleanup(time.tzset)

    def run_(self, *words: str, out: io.StringIO | None = None) -> str:
        output, self.errors = out or io.StringIO(), io.StringIO()
        with redirect_stdout(output), redirect_stderr(self.errors):
            main([f"--state-dir={self.state}", "audit", *words])
        return output.getvalue()

    def events(self, *words: str) -> list[str]:
        return [json.loads(line)["event"] for line in self.run_("--json", *words).splitlines()]

    def test_prints_a_table_with_the_names_of_users(self) -> None:
        lines = self.run_(out=Terminal()).splitlines()
        gone = self.hash_of("ctllm|gone")[:12]
        self.assertEqual(
            lines[:4],
            ["TIME                 EVENT                    USER              ADDRESS             "
             "DETAILS",
             "2023-11-14 22:13:20  session.created          ann               203.0.113.0/24      "
             "invite",
             "2023-11-14 22:14:20  session.created          Eve�[2J           2001:db8::/48       "
             "corp",
             "2023-11-14 22:14:20  proxy.started            ann               -                   "
             "412 ms"],
        )  # fmt: skip
        self.assertIn(gone, lines[5])
        self.assertEqual(len(lines), 6)

    def test_elsewhere_tabs_separate_the_columns(self) -> None:
        row = self.run_().splitlines()[1].split("\t")
        self.assertEqual(row, ["2023-11-14 22:13:20", "session.created", "ann", "203.0.113.0/24",
                               "invite"])  # fmt: skip

    def test_filters_by_time(self) -> None:
        self.assertEqual(self.events("--since", "10m"), ["login.refused", "session.closed"])
        self.assertEqual(self.events("--since=1m"), [])
        self.assertEqual(self.events("--until", "2023-11-14T22:14"), ["session.created"])
        self.assertEqual(len(self.events("--since", "2023-11-14", "--until", "2023-11-15")), 3)

    def test_filters_by_event_and_user(self) -> None:
        self.assertEqual(self.events("--event", "session.*"),
                         ["session.created", "session.created", "session.closed"])  # fmt: skip
        for user in ("ann", ANN.id, self.hash_of(ANN.id), self.hash_of(ANN.id)[:8],
                     f"ctllm-proxy-{self.hash_of(ANN.id)}"):  # fmt: skip
            self.assertEqual(self.events("--user", user), ["session.created", "proxy.started"])
        self.assertEqual(self.events("--user", "ctllm|gone"), ["session.closed"])

    def test_json_has_hashes_and_no_names(self) -> None:
        text = self.run_("--json")
        self.assertNotIn("ann", text.lower())
        self.assertNotIn("eve", text.lower().replace("event", ""))

    def test_what_is_no_time_or_user_is_refused(self) -> None:
        for words in (("--since", "yesterday"), ("--until", "2h ago"), ("--user", "nobody")):
            with self.assertRaises(SystemExit) as caught:
                self.run_(*words)
            self.assertIn(words[1].split()[0], str(caught.exception))

    def test_damaged_lines_are_told(self) -> None:
        with (self.state / AUDIT_FILE).open("ab") as file:
            file.write(b"{\n{\n")
        self.run_()
        self.assertIn("2 damaged lines were left out.", self.errors.getvalue())
