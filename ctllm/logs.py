"""The log as JSON lines, for those whose logs are read by programs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec
from twisted.logger import LogEvent, formatEvent
from twisted.python.logfile import LogFile

_LEVELS = {"debug", "info", "warn", "error", "critical"}


class JsonLines:
    """A log observer that writes one object a line: time (UTC), level, system, message, trace."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def __call__(self, event: LogEvent) -> None:
        """Write one event."""
        self._out.write(json_line(event))
        self._out.flush()


def json_line(event: LogEvent) -> str:
    """One event as a line of JSON."""
    level = event.get("log_level")
    line: dict[str, Any] = {
        "time": datetime.fromtimestamp(event["log_time"], UTC).isoformat(timespec="milliseconds"),
        "level": level.name if level is not None and level.name in _LEVELS else "info",
        "system": event.get("log_namespace", "-"),
        "message": _plain(formatEvent(event)),
    }
    failure = event.get("log_failure")
    if failure is not None:
        line["trace"] = _plain(failure.getTraceback())
    return msgspec.json.encode(line).decode() + "\n"


def _plain(text: str) -> str:
    """What JSON may hold: a file's name, say, may have bytes that are no text."""
    return text.encode("utf-8", "backslashreplace").decode()


def json_observer(twistd: Mapping[str, Any]) -> JsonLines:
    """Writes to where twistd's own options say: --logfile, or standard output with -n."""
    name = twistd.get("logfile")
    if name in (None, "-") and (twistd.get("nodaemon") or name == "-"):
        # By now twistd may have put its log in the place of sys.stdout.
        assert sys.__stdout__ is not None
        return JsonLines(sys.__stdout__)
    return JsonLines(LogFile.fromFullPath(name or "twistd.log"))
