"""The log's two forms, text for people and JSON lines for programs.

What is logged has been said by others, too: nothing in either form steers a terminal.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec
from twisted.logger import (
    FileLogObserver,
    LogEvent,
    formatEvent,
    formatEventAsClassicLogText,
)
from twisted.python.logfile import LogFile

from ctllm.common.sanitize import escape_unprintable, sanitize_text

_LEVELS = {"debug", "info", "warn", "error", "critical"}


class JsonLogObserver:
    """A log observer that writes one object a line: time (UTC), level, system, message, trace."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def __call__(self, event: LogEvent) -> None:
        """Write one event."""
        self._out.write(format_json_line(event))
        self._out.flush()


def format_json_line(event: LogEvent) -> str:
    """One event as a line of JSON."""
    level = event.get("log_level")
    line: dict[str, Any] = {
        "time": datetime.fromtimestamp(event["log_time"], UTC).isoformat(timespec="milliseconds"),
        "level": level.name if level is not None and level.name in _LEVELS else "info",
        "system": event.get("log_namespace", "-"),
        "message": _encodable(formatEvent(event)),
    }
    failure = event.get("log_failure")
    if failure is not None:
        line["trace"] = _encodable(failure.getTraceback())
    return escape_unprintable(msgspec.json.encode(line).decode()) + "\n"


def _encodable(text: str) -> str:
    """What JSON may hold: a file's name, say, may have bytes that are no text."""
    return text.encode("utf-8", "backslashreplace").decode()


def format_text_lines(event: LogEvent) -> str | None:
    """One event as twistd writes it, with further lines indented."""
    text = formatEventAsClassicLogText(event)
    return None if text is None else f"{sanitize_text(text.rstrip(chr(10)))}\n"


def make_text_observer(twistd: Mapping[str, Any], reactor: Any) -> FileLogObserver | None:
    """Writes text to where twistd's own options say; None for what only twistd itself can do."""
    if not twistd or twistd.get("syslog"):
        return None
    out = _open_log(twistd)
    if isinstance(out, LogFile):
        _rotate_on_sigusr1(out, reactor)
    return FileLogObserver(out, format_text_lines)


def _rotate_on_sigusr1(file: LogFile, reactor: Any) -> None:
    """On SIGUSR1, as twistd does."""
    if not hasattr(signal, "SIGUSR1") or signal.getsignal(signal.SIGUSR1):
        return

    def rotate(*_: object) -> None:
        reactor.callFromThread(file.rotate)

    signal.signal(signal.SIGUSR1, rotate)


def make_json_observer(twistd: Mapping[str, Any]) -> JsonLogObserver:
    """Writes to where twistd's own options say: --logfile, or standard output with -n."""
    return JsonLogObserver(_open_log(twistd))


def _open_log(twistd: Mapping[str, Any]) -> Any:
    name = twistd.get("logfile")
    if name in (None, "-") and (twistd.get("nodaemon") or name == "-"):
        # By now twistd may have put its log in the place of sys.stdout.
        assert sys.__stdout__ is not None
        return sys.__stdout__
    return LogFile.fromFullPath(name or "twistd.log")  # type: ignore[no-untyped-call]
