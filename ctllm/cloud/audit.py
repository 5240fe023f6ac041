"""The audit log: one JSON line for each start, refusal and end of a streaming proxy.

A line names the user only by the id of the proxy, which has a hash. It never has request data.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec
from twisted.logger import Logger

from ctllm.common.ttl_cache import TtlCache

AuditEvent = Literal[
    "proxy.started",
    "proxy.adopted",
    "proxy.start_failed",
    "proxy.start_refused",
    "proxy.stopped",
    "proxy.died",
]

#: Seconds in which the same refusal for the same user is written only once.
REFUSAL_INTERVAL = 60.0
_FILE = Path("cloud", "audit.jsonl")
_MODE = 0o600
_log = Logger("ctllm.audit")


class AuditEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line. `time` is ISO 8601 in UTC; `milliseconds` is the duration of a start."""

    time: str
    event: AuditEvent
    proxy: str
    reason: str = ""
    detail: str = ""
    milliseconds: int | None = None


class AuditLog:
    """Writes audit events to the log `ctllm.audit` and to `cloud/audit.jsonl` in `state_dir`.

    Without `state_dir` there is no file. `now` returns epoch seconds. A line that cannot be written
    is lost: `record` raises no error, and the first failure is logged.
    """

    def __init__(self, state_dir: Path | None = None, now: Callable[[], float] = time.time) -> None:
        self._path = None if state_dir is None else state_dir / _FILE
        self._now = now
        self._recent_refusals: TtlCache[tuple[str, str], bool] = TtlCache(1024, now)
        self._last_write_failed = False

    def record(
        self,
        event: AuditEvent,
        proxy_id: str,
        reason: str = "",
        detail: str = "",
        milliseconds: int | None = None,
    ) -> None:
        """Write one line. `reason` is a word for programs, `detail` a sentence for people."""
        now = self._now()
        if event == "proxy.start_refused" and self._is_repeated((proxy_id, reason), now):
            return
        at = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")
        line = msgspec.json.encode(AuditEntry(at, event, proxy_id, reason, detail, milliseconds))
        _log.info("{line}", line=line.decode())
        if self._path is not None:
            self._append(self._path, line)

    def _is_repeated(self, refusal: tuple[str, str], now: float) -> bool:
        if self._recent_refusals.get(refusal):
            return True
        self._recent_refusals.put(refusal, True, now + REFUSAL_INTERVAL)
        return False

    def _append(self, path: Path, line: bytes) -> None:
        # The newline in front ends a line that a full disk cut off.
        data = b"\n" * self._last_write_failed + line + b"\n"
        try:
            written = _append(path, data)
        except OSError as error:
            self._log_failure(path, str(error.strerror))
        else:
            if written < len(data):
                self._log_failure(path, "only a part of the line was written")
            else:
                self._last_write_failed = False

    def _log_failure(self, path: Path, why: str) -> None:
        if not self._last_write_failed:
            self._last_write_failed = True
            _log.error("Cannot write audit lines to {path}: {why}", path=path, why=why)


def _append(path: Path, data: bytes) -> int:
    """Append `data` and return how many bytes were written.

    The file is opened for each line, so that it can be rotated by renaming it.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, _MODE)
    try:
        return os.write(descriptor, data)
    finally:
        os.close(descriptor)
