"""Secrets in a file that only its owner can read."""

from __future__ import annotations

import os
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.secret_store import PlainFileStore
from ctllm.errors import SecretStoreUnavailable
from ctllm.system.file_lock import locked

T = TypeVar("T")


class PlainFileStoreTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.state = Path(self.mktemp())
        self.damage: list[str] = []
        self.store = PlainFileStore(self.state, self.damage.append, lock_timeout=0.05)

    def done(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def refused(self, coroutine: Coroutine[Any, Any, object]) -> str:
        deferred: Deferred[object] = Deferred.fromCoroutine(coroutine)
        return str(self.failureResultOf(deferred, SecretStoreUnavailable).value)

    def test_keeps_secrets_by_name(self) -> None:
        self.assertIsNone(self.done(self.store.get("a")))
        self.done(self.store.set("a", "1"))
        self.done(self.store.set("b", "2"))
        self.done(self.store.set("a", "3"))
        self.done(self.store.delete("b"))
        self.done(self.store.delete("b"))
        another = PlainFileStore(self.state)
        self.assertEqual([self.done(another.get(name)) for name in "ab"], ["3", None])

    def test_the_file_is_private_whatever_the_umask(self) -> None:
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        self.done(self.store.set("a", "1"))
        self.assertEqual(self.store.path.stat().st_mode & 0o777, 0o600)
        self.assertEqual(self.store.path.parent.stat().st_mode & 0o777, 0o700)

    def test_concurrent_changes_are_all_applied(self) -> None:
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda n: PlainFileStore(self.state).write(str(n), "x"), range(64)))
        found = [self.done(self.store.get(str(number))) for number in range(64)]
        self.assertEqual(found, ["x"] * 64)

    def test_a_damaged_file_is_set_aside_and_told_without_its_content(self) -> None:
        for broken in (
            b"",
            b"[]",
            b'{"a": "hunter2"',
            b'{"a": ["hunter2"]}',
            b'"hunter2"',
            b"\xff",
        ):
            self.store.path.parent.mkdir(parents=True, exist_ok=True)
            self.store.path.write_bytes(broken)
            self.assertIsNone(self.done(self.store.get("a")))
            (message,) = self.damage
            (aside,) = self.store.path.parent.glob("*.damaged-*")
            self.assertEqual(aside.read_bytes(), broken)
            self.assertEqual(aside.name in message, True)
            self.assertNotIn("hunter2", message)
            self.done(self.store.set("a", "1"))
            self.assertEqual(self.done(self.store.get("a")), "1")
            self.damage.clear()
            aside.unlink()

    def test_a_file_that_cannot_be_read_or_written_is_unavailable(self) -> None:
        self.store.path.mkdir(parents=True)
        for attempt in (
            self.store.get("a"),
            self.store.set("a", "hunter2"),
            self.store.delete("a"),
        ):
            message = self.refused(attempt)
            self.assertIn(str(self.store.path), message)
            self.assertNotIn("hunter2", message)

    def test_the_lock_times_out(self) -> None:
        self.done(self.store.set("a", "1"))
        with locked(self.store.path.with_suffix(".lock"), 1.0):
            self.assertIn("another process", self.refused(self.store.set("a", "2")))
        self.assertEqual(self.done(self.store.get("a")), "1")
