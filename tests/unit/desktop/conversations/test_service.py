"""Tests of the store of conversations for coroutines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase as TestCase

from ctllm.desktop.conversations.key import ConversationKey
from ctllm.desktop.conversations.preconditions import HasRevision, IsAbsent
from ctllm.desktop.conversations.service import Conversations
from ctllm.desktop.conversations.store import ConversationStore
from ctllm.desktop.secret_store import SecretStores
from ctllm.errors import NotFound, PreconditionFailed, SecretStoreUnavailable
from tests.unit.desktop.test_login_store import MemoryStore

A = "a" * 32


class FakeThread:
    """Runs functions when a test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Callable[[], Any], Deferred[Any]]] = []

    def __call__(self, function: Callable[[], Any]) -> Deferred[Any]:
        """Queue a function."""
        done: Deferred[Any] = Deferred()
        self.waiting.append((function, done))
        return done

    def run_one(self) -> None:
        """Run the next function."""
        function, done = self.waiting.pop(0)
        try:
            result = function()
        except Exception:
            done.errback()
        else:
            done.callback(result)

    def run_all(self) -> None:
        """Run functions until none is left."""
        while self.waiting:
            self.run_one()


class ConversationsTests(TestCase):
    """One operation at a time, in a thread."""

    def setUp(self) -> None:
        """The store is opened with its first use."""
        self.directory = Path(self.mktemp())
        self.secrets = MemoryStore("file")
        self.thread = FakeThread()
        self.opened = 0

        def open_store(key: bytes) -> ConversationStore:
            self.opened += 1
            return ConversationStore(self.directory, key)

        key = ConversationKey(self.directory, SecretStores([self.secrets], ["file"]))
        self.conversations = Conversations(key, open_store, self.thread)

    def result(self, coroutine: Any) -> Any:
        """Return the result of an operation."""
        running = Deferred.fromCoroutine(coroutine)
        self.thread.run_all()
        return self.successResultOf(running)

    def test_operations_wait_for_each_other(self) -> None:
        """Of two writes with the same precondition, the second is refused."""
        revision = self.result(self.conversations.write(A, b"1", IsAbsent()))
        one = Deferred.fromCoroutine(self.conversations.write(A, b"2", HasRevision(revision)))
        two = Deferred.fromCoroutine(self.conversations.write(A, b"3", HasRevision(revision)))
        self.assertEqual(len(self.thread.waiting), 1)
        self.thread.run_all()
        self.successResultOf(one)
        self.failureResultOf(two, PreconditionFailed)
        self.assertEqual(self.result(self.conversations.read(A)).content, b"2")
        self.assertEqual(self.opened, 1)

    def test_an_error_does_not_keep_the_next_operation_waiting(self) -> None:
        """The lock is released."""
        reading = Deferred.fromCoroutine(self.conversations.read(A))
        self.thread.run_all()
        self.failureResultOf(reading, NotFound)
        self.result(self.conversations.delete(A))
        revision, changes, damaged = self.result(self.conversations.changes_since(0))
        self.assertEqual([(each.id, each.deleted) for each in changes], [(A, True)])
        self.assertEqual((changes[0].revision, damaged), (revision, []))

    def test_a_locked_keyring_is_tried_again_by_the_next_operation(self) -> None:
        """The error says that it is locked, and nothing is written."""
        self.secrets.is_locked = True
        failed = Deferred.fromCoroutine(self.conversations.write(A, b"1", IsAbsent()))
        self.failureResultOf(failed, SecretStoreUnavailable)
        self.assertFalse(self.directory.exists())
        self.secrets.is_locked = False
        self.result(self.conversations.write(A, b"1", IsAbsent()))
