"""The records of the fake Ollama: one for each request, and a way to wait for one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from twisted.internet.defer import Deferred

from ctllm.demo.request_handler import RequestBody

#: The longest body that a record keeps, in bytes.
MAX_RECORDED_BODY = 64 * 1024

Phase = Literal["receiving", "waiting", "loading", "answering"]
ClosedBy = Literal["server", "client"]


@dataclass(eq=False)
class Record:
    """One request and its response. It changes until `closed_by` is set.

    Times are in the clock's seconds. `headers` are the pairs as received. `body` is None when it
    has 64 KiB or more. `phase` is the last one reached: receiving the body, waiting (the script's
    delay), loading, answering.
    """

    method: str
    target: str
    headers: list[tuple[str, str]]
    started: float
    body: bytes | None = b""
    body_length: int = 0
    body_sha256: str = ""
    status: int | None = None
    lines_sent: int = 0
    phase: Phase = "receiving"
    closed_at: float | None = None
    closed_by: ClosedBy | None = None
    _changed: Callable[[Record], None] = field(default=lambda _: None, repr=False)
    _waiting: list[Deferred[Record]] = field(default_factory=list, repr=False)

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def closed(self) -> Deferred[Record]:
        """A new Deferred that fires with this record when the request is finished."""
        waiting: Deferred[Record] = Deferred(self._waiting.remove)
        self._waiting.append(waiting)
        if self.closed_by is not None:
            self._fire()
        return waiting

    def header(self, name: str) -> str | None:
        """Return the first value of a header field, or None."""
        return next((v for n, v in self.headers if n.lower() == name.lower()), None)

    def enter(self, phase: Phase) -> None:
        """Enter a phase."""
        self.phase = phase
        self._changed(self)

    def set_body(self, body: RequestBody) -> None:
        """Record the part of the body that was received."""
        is_short = body.length < MAX_RECORDED_BODY
        self.body = body.content if is_short else None
        self.body_length, self.body_sha256 = body.length, body.sha256

    def count_line(self) -> None:
        """Count one line."""
        self.lines_sent += 1
        self._changed(self)

    def close(self, now: float, by: ClosedBy) -> None:
        """Record when and by whom the request was closed. Only the first call counts."""
        if self.closed_by is None:
            self.closed_at, self.closed_by = now, by
            self._changed(self)
            self._fire()

    def _fire(self) -> None:
        waiting, self._waiting[:] = self._waiting[:], []
        for deferred in waiting:
            deferred.callback(self)

    def as_json(self) -> dict[str, Any]:
        """Return the record as JSON types. Bytes of the body that are not UTF-8 are replaced."""
        shown = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return shown | {"body": None if self.body is None else self.body.decode(errors="replace")}


class Records:
    """The newest `keep` records, oldest first."""

    def __init__(self, keep: int) -> None:
        self._kept: deque[Record] = deque(maxlen=keep)
        self._watchers: list[tuple[Callable[[Record], bool], Deferred[Record]]] = []

    def __iter__(self) -> Iterator[Record]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Record:
        return self._kept[index]

    def add(self, record: Record) -> None:
        """Add a record."""
        record._changed = self._check
        self._kept.append(record)
        self._check(record)

    def wait_for(self, predicate: Callable[[Record], bool]) -> Deferred[Record]:
        """Fire with the first record that the predicate accepts, now or after a change."""
        found = next((record for record in self._kept if predicate(record)), None)
        waiting: Deferred[Record] = Deferred(self._unwatch)
        if found is not None:
            waiting.callback(found)
        else:
            self._watchers.append((predicate, waiting))
        return waiting

    def clear(self) -> None:
        """Remove all records. Pending waits stay."""
        self._kept.clear()

    def _check(self, record: Record) -> None:
        for watcher in [w for w in self._watchers if w[0](record)]:
            self._watchers.remove(watcher)
            watcher[1].callback(record)

    def _unwatch(self, waiting: Deferred[Record]) -> None:
        self._watchers = [w for w in self._watchers if w[1] is not waiting]
