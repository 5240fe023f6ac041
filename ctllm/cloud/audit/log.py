"""Writes the audit log: one JSON line for each event."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import structs
from twisted.logger import Logger

from ctllm.cloud.audit.entries import (
    AuditEntry,
    IdentityEvent,
    ProxyEvent,
    format_time,
    safe_value,
)
from ctllm.cloud.audit.file import AuditFile
from ctllm.cloud.audit.repeats import RepeatFilter
from ctllm.http.client_address import truncate_address

#: The file of the audit log in `state_dir`.
AUDIT_FILE = Path("cloud", "audit.jsonl")
#: Seconds between two calls of `AuditLog.write_counts`.
COUNT_INTERVAL = 5.0
_log = Logger("ctllm.audit")


class AuditLog:
    """Writes audit events to the log `ctllm.audit` and to `cloud/audit.jsonl` in `state_dir`.

    Without `state_dir` there is no file; `max_bytes` and `retention_days` are those of AuditFile.
    `now` returns epoch seconds. `user_hash` returns the hash of the user with an id. A line that
    cannot be written is lost: no method raises an error, and the first failure is logged.
    """

    def __init__(
        self,
        state_dir: Path | None = None,
        now: Callable[[], float] = time.time,
        user_hash: Callable[[str], str] = lambda user_id: "",
        max_bytes: int = 0,
        retention_days: float = 0,
    ) -> None:
        self._file = (
            None
            if state_dir is None
            else AuditFile(state_dir / AUDIT_FILE, max_bytes, retention_days)
        )
        self._now = now
        self._user_hash = user_hash
        self._repeats = RepeatFilter()
        self._last_write_failed = False

    def record(
        self,
        event: ProxyEvent,
        proxy_id: str,
        reason: str = "",
        detail: str = "",
        milliseconds: int | None = None,
    ) -> None:
        """Record an event of a proxy. `reason` is a word for programs, `detail` a sentence."""
        entry = AuditEntry(
            "", event, proxy_id, reason=reason, detail=detail, milliseconds=milliseconds
        )
        self._record(entry)

    def record_identity(
        self,
        event: IdentityEvent,
        user_id: str = "",
        *,
        user_hash: str = "",
        address: str = "",
        method: str = "",
        credential: str = "",
        reason: str = "",
        number: int = 1,
    ) -> None:
        """Record an event of a user (`User.id`, or the hash of it), if the user is known.

        `address` is the client's whole address; its network is written. `method` says how somebody
        signed in: "invite", "login_code", or the name of a provider. `credential` is the id of an
        API key or machine, never the key. `reason` is a word for programs, such as "expired"; never
        pass what a client sent. `number` is that of like events, of a kind that is counted.
        """
        entry = AuditEntry(
            "",
            event,
            user=user_hash or (self._user_hash(user_id) if user_id else ""),
            address=truncate_address(address),
            method=safe_value(method),
            credential=safe_value(credential),
            reason=safe_value(reason),
        )
        self._record(entry, number)

    def write_counts(self) -> None:
        """Write the numbers of events that were repeated; call it every COUNT_INTERVAL."""
        for entry in self._repeats.take_counts(self._now()):
            self._write(entry)

    def close(self) -> None:
        """Write the numbers of all events that were repeated."""
        for entry in self._repeats.take_all_counts():
            self._write(entry)

    def remove_expired(self) -> None:
        """Remove rotated files that are too old; raises OSError."""
        if self._file is not None:
            self._file.remove_expired(self._now())

    def _record(self, entry: AuditEntry, number: int = 1) -> None:
        # Without this, a repetition after the end of the interval would count towards the last one.
        self.write_counts()
        if self._repeats.admits(entry, self._now(), number):
            self._write(entry)

    def _write(self, entry: AuditEntry) -> None:
        now = self._now()
        line = msgspec.json.encode(structs.replace(entry, time=format_time(now)))
        _log.info("{line}", line=line.decode())
        if self._file is not None:
            self._append(self._file, line, now)

    def _append(self, file: AuditFile, line: bytes, now: float) -> None:
        try:
            is_whole = file.append(line, now)
        except OSError as error:
            self._log_failure(file.path, str(error.strerror))
        else:
            if is_whole:
                self._last_write_failed = False
            else:
                self._log_failure(file.path, "only a part of the line was written")

    def _log_failure(self, path: Path, why: str) -> None:
        if not self._last_write_failed:
            self._last_write_failed = True
            _log.error("Cannot write audit lines to {path}: {why}", path=path, why=why)
