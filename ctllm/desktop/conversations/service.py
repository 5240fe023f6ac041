"""The store of conversations for coroutines: it blocks a thread, and not the reactor."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, TypeVar

from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger
from twisted.python.failure import Failure

from ctllm.desktop.conversations.index import Change
from ctllm.desktop.conversations.key import ConversationKey
from ctllm.desktop.conversations.preconditions import HasRevision, Precondition
from ctllm.desktop.conversations.store import ConversationStore, StoredDocument
from ctllm.errors import CtllmError

T = TypeVar("T")


class RunInThread(Protocol):
    """Calls a function in a thread."""

    def __call__(self, function: Callable[[], T], /) -> Awaitable[T]:
        """Return the result of `function`."""


class Conversations:
    """The conversations in a folder, opened when they are first used.

    `open_store` opens the store with its key; it blocks. One operation runs at a time, and to its
    end, also if its caller is cancelled meanwhile: a thread cannot be stopped.
    """

    _log = Logger()

    def __init__(
        self,
        key: ConversationKey,
        open_store: Callable[[bytes], ConversationStore],
        run_in_thread: RunInThread,
    ) -> None:
        self._key = key
        self._open_store = open_store
        self._run_in_thread = run_in_thread
        self._store: ConversationStore | None = None
        self._lock: DeferredLock = DeferredLock()

    async def changes_since(self, revision: int) -> tuple[int, list[Change], list[str]]:
        """Return the revision of the store, what changed after `revision`, and the damaged ids."""
        return await self._call(
            lambda store: (store.revision, store.changes_since(revision), store.damaged_ids)
        )

    async def read(self, id: str) -> StoredDocument:
        """Return a document; raises as ConversationStore does."""
        return await self._call(lambda store: store.read(id))

    async def write(self, id: str, content: bytes, precondition: Precondition) -> int:
        """Store a document and return its revision; raises as ConversationStore does."""
        return await self._call(lambda store: store.write(id, content, precondition))

    async def delete(self, id: str, precondition: HasRevision | None = None) -> None:
        """Delete a conversation; raises as ConversationStore does."""
        await self._call(lambda store: store.delete(id, precondition))

    async def _call(self, operation: Callable[[ConversationStore], T]) -> T:
        result: Deferred[T] = Deferred(lambda _: None)
        running = Deferred.fromCoroutine(self._run(operation))
        running.addCallbacks(partial(_succeed, result), partial(self._fail, result))
        return await result

    def _fail(self, result: Deferred[T], reason: Failure) -> None:
        if not result.called:
            result.errback(reason)
        elif not isinstance(reason.value, CtllmError):
            self._log.failure("An operation failed whose caller had left", reason)

    async def _run(self, operation: Callable[[ConversationStore], T]) -> T:
        await self._lock.acquire()
        try:
            store = await self._opened()
            return await self._run_in_thread(lambda: operation(store))
        finally:
            self._lock.release()

    async def _opened(self) -> ConversationStore:
        if self._store is None:
            key = await self._key.load_or_create()
            self._store = await self._run_in_thread(lambda: self._open_store(key))
        return self._store


def _succeed(result: Deferred[T], value: T) -> None:
    if not result.called:
        result.callback(value)
