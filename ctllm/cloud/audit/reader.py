"""Reads the audit log: all its files, the oldest first, line by line."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import BinaryIO

from ctllm.cloud.audit.entries import AuditEntry
from ctllm.cloud.audit.file import AuditFile
from ctllm.common.json_decoder import InvalidJson, decode_json

#: Bytes of a line that are read at once. No line of ours is longer.
MAX_LINE_BYTES = 64 * 1024
#: Seconds between two looks at a file that may grow.
FOLLOW_INTERVAL = 0.5


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which entries are wanted: all of these. Times are epoch seconds; `event` is a pattern."""

    since: float | None = None
    until: float | None = None
    event: str = "*"
    user_hash: str = ""

    def matches(self, entry: AuditEntry) -> bool:
        """Return whether `entry` is wanted; one without a valid time is, unless time matters."""
        return (
            fnmatchcase(entry.event, self.event)
            and entry.user_hash.startswith(self.user_hash)
            and self._matches_time(entry)
        )

    def _matches_time(self, entry: AuditEntry) -> bool:
        if self.since is None and self.until is None:
            return True
        at = epoch_seconds(entry)
        if at is None:
            return False
        return (self.since is None or at >= self.since) and (self.until is None or at < self.until)


def epoch_seconds(entry: AuditEntry) -> float | None:
    """Return the time of an entry, or None if it is damaged."""
    try:
        return datetime.fromisoformat(entry.time).timestamp()
    except (ValueError, OverflowError):
        return None


class AuditReader:
    """Reads the files of an audit log. `damaged` counts the lines that could not be read."""

    def __init__(self, file: AuditFile) -> None:
        self._file = file
        self.damaged = 0

    def read(self) -> Iterator[AuditEntry]:
        """Yield the entries of all files; raises OSError."""
        for path in self._file.files():
            with suppress(FileNotFoundError), path.open("rb") as file:
                yield from self._read_lines(file)

    def follow(self, sleep: Callable[[float], None] = time.sleep) -> Iterator[AuditEntry]:
        """Yield the entries of all files, and then without end those that are appended."""
        finished: set[int] = set()
        while True:
            present: set[int] = set()
            for path in self._file.files():
                with suppress(FileNotFoundError), path.open("rb") as file:
                    inode = os.fstat(file.fileno()).st_ino
                    present.add(inode)
                    if inode not in finished:
                        yield from self._read_growing(file, inode, sleep)
            finished = present  # another file may get the number of one that was removed
            sleep(FOLLOW_INTERVAL)

    def _read_growing(
        self, file: BinaryIO, inode: int, sleep: Callable[[float], None]
    ) -> Iterator[AuditEntry]:
        """Yield the entries of a file until it is not the current one, but was renamed."""
        line, is_current = b"", True
        while is_current:
            is_current = self._is_current(inode)  # nothing is appended after that
            while data := file.readline(MAX_LINE_BYTES):
                line += data
                if line.endswith(b"\n") or len(line) >= MAX_LINE_BYTES:
                    entry, line = self._decode(line), b""
                    if entry is not None:
                        yield entry
            if is_current:
                sleep(FOLLOW_INTERVAL)

    def _is_current(self, inode: int) -> bool:
        with suppress(FileNotFoundError):
            return self._file.path.stat().st_ino == inode
        return False

    def _read_lines(self, file: BinaryIO) -> Iterator[AuditEntry]:
        while line := file.readline(MAX_LINE_BYTES):
            entry = self._decode(line)
            if entry is not None:
                yield entry

    def _decode(self, line: bytes) -> AuditEntry | None:
        """Return the entry of a line, or None for an empty or damaged one."""
        if not line.strip():
            return None
        try:
            return decode_json(line, AuditEntry)
        except InvalidJson:
            self.damaged += 1
            return None
