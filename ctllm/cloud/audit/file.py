"""The file of the audit log, which the cloud and commands append to, and its rotation.

Nobody holds the file open: each line opens it, so that it can be renamed at any time, by another
process or by logrotate. A line that was written to a file which is renamed is in the renamed one.
Only one process rotates: it holds a lock of the directory, which the system releases if it dies.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from ctllm.system.private_dir import copy_ownership, open_directory

#: Seconds after which a file is rotated whatever its size, so that old lines can be removed.
MAX_AGE = 7 * 86400.0

_MODE = 0o600
_DAY = 86400.0
_TIME_FORMAT = "%Y%m%dT%H%M%S.%fZ"
_ROTATED = re.compile(r"\.([0-9]{8}T[0-9]{6}\.[0-9]{6}Z)\.jsonl")
#: The start of a line, up to its time.
_FIRST_TIME = re.compile(rb'\{"time":"([^"]{1,40})"')


class AuditFile:
    """The file at `path`, and those that it was rotated to: `audit.TIME.jsonl` beside it.

    `max_bytes` and `retention_days` may be 0, for no limit.
    """

    def __init__(self, path: Path, max_bytes: int = 0, retention_days: float = 0) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._retention = retention_days * _DAY
        self._inode = 0
        self._first_time = 0.0

    def append(self, line: bytes, now: float) -> bool:
        """Append a line; return False if only a part was written. Raises OSError.

        Rotates the file first if the line would make it too large, or if its first line is too old.
        A line that was cut off, by a full disk or a kill, is ended before.
        """
        with self._open() as descriptor:
            if not self._is_due(descriptor, len(line) + 1, now):
                return _write_line(descriptor, line)
        with suppress(OSError):
            self._rotate(len(line) + 1, now)
        with self._open() as descriptor:
            return _write_line(descriptor, line)

    def files(self) -> list[Path]:
        """Return all files of the log, the oldest first; raises OSError."""
        current = [self.path] if self.path.exists() else []
        return [*(path for _, path in sorted(self._rotated())), *current]

    def remove_expired(self, now: float) -> int:
        """Remove rotated files that are older than the retention time, and return their number."""
        expired = [
            path for at, path in self._rotated() if self._retention and at + self._retention < now
        ]
        for path in expired:
            path.unlink(missing_ok=True)
        return len(expired)

    def _rotated(self) -> Iterator[tuple[float, Path]]:
        for path in self.path.parent.glob(f"{self.path.stem}.*.jsonl"):
            match = _ROTATED.fullmatch(path.name.removeprefix(self.path.stem))
            if match is not None:
                with suppress(ValueError):
                    at = datetime.strptime(match[1], _TIME_FORMAT).replace(tzinfo=UTC)
                    yield at.timestamp(), path

    @contextmanager
    def _open(self) -> Iterator[int]:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self.path, flags, _MODE)
        try:
            if not os.fstat(descriptor).st_size:
                copy_ownership(descriptor, self.path.parent)  # a command of root may have made it
            yield descriptor
        finally:
            os.close(descriptor)

    def _is_due(self, descriptor: int, added: int, now: float) -> bool:
        known = os.fstat(descriptor)
        if not known.st_size:
            return False
        if self._max_bytes and known.st_size + added > self._max_bytes:
            return True
        if known.st_ino != self._inode:
            self._inode, self._first_time = known.st_ino, _read_first_time(descriptor, now)
        return now - self._first_time > MAX_AGE

    def _rotate(self, added: int, now: float) -> None:
        """Rename the file, unless another process did or does; remove what is too old."""
        with open_directory(self.path.parent) as directory:
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until it is closed
            except BlockingIOError:
                return
            with self._open() as descriptor:
                if not self._is_due(descriptor, added, now):
                    return
            os.rename(self.path, self._unused_name(now))
            os.fsync(directory)
            self.remove_expired(now)

    def _unused_name(self, now: float) -> Path:
        while True:
            at = datetime.fromtimestamp(now, UTC).strftime(_TIME_FORMAT)
            path = self.path.with_name(f"{self.path.stem}.{at}.jsonl")
            if not path.exists():
                return path
            now += 1e-6


def _read_first_time(descriptor: int, default: float) -> float:
    match = _FIRST_TIME.match(os.pread(descriptor, 64, 0))
    try:
        return datetime.fromisoformat(match[1].decode("ascii")).timestamp() if match else default
    except (ValueError, OverflowError):
        return default


def _write_line(descriptor: int, line: bytes) -> bool:
    """Append a line with one system call, so that lines of several processes do not mix."""
    size = os.fstat(descriptor).st_size
    # Another process may write at this moment; then there is an empty line, which readers skip.
    is_cut_off = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
    data = b"\n" * is_cut_off + line + b"\n"
    return os.write(descriptor, data) == len(data)
