"""What was started, refused and stopped, when and why: one JSON line each.

Users appear only as their proxy's id, which is a hash; what they say appears nowhere.
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

#: Seconds in which the same refusal of the same user is written once.
REFUSAL_INTERVAL = 60.0
_FILE = Path("cloud", "audit.jsonl")
_MODE = 0o600
_log = Logger("ctllm.audit")


class AuditEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line. `time` is ISO 8601 in UTC, `milliseconds` how long a start took."""

    time: str
    event: AuditEvent
    proxy: str
    reason: str = ""
    detail: str = ""
    milliseconds: int | None = None


class AuditLog:
    """Writes to the log (namespace ctllm.audit) and to `cloud/audit.jsonl` in the folder `state`.

    Without `state` only to the log. `now` gives epoch seconds.
    Nothing fails because of a line that could not be written.
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
        """Write one line; `reason` is a word for programs, `detail` a sentence for people."""
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
        # What was cut off by a full disk is a line of its own, once there is room.
        whole = b"\n" * self._last_write_failed + line + b"\n"
        try:
            written = _append(path, whole)
        except OSError as error:
            self._log_failure(path, str(error.strerror))
        else:
            if written < len(whole):
                self._log_failure(path, "it could not be written whole")
            else:
                self._last_write_failed = False

    def _log_failure(self, path: Path, why: str) -> None:
        if not self._last_write_failed:
            self._last_write_failed = True
            _log.error("audit lines cannot be written to {path}: {why}", path=path, why=why)


def _append(path: Path, data: bytes) -> int:
    """Give how many bytes fitted. Opened each time, so that the file may be moved away."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, _MODE)
    try:
        return os.write(descriptor, data)
    finally:
        os.close(descriptor)
