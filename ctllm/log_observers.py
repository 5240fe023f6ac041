"""Log observers: text for people, JSON lines for programs.

Messages may contain text from other machines. Both formats escape control characters.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO, cast

import msgspec
from twisted.logger import (
    FileLogObserver,
    LogEvent,
    formatEvent,
    formatEventAsClassicLogText,
)
from twisted.python.logfile import LogFile

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorFromThreads

from ctllm.common.sanitize import escape_unprintable, sanitize_text

#: The options of twistd itself, such as logfile and nodaemon.
TwistdOptions = Mapping[str, Any]

#: An ILogObserver.
LogObserver = Callable[[LogEvent], None]

_LEVELS = {"debug", "info", "warn", "error", "critical"}


class JsonLogObserver:
    """A log observer that writes JSON lines.

    They have time (UTC), level, system, message, and where there is one request_id and trace.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def __call__(self, event: LogEvent) -> None:
        """Write one event."""
        self._out.write(format_json_line(event))
        self._out.flush()


def format_json_line(event: LogEvent) -> str:
    """Return an event as a line of JSON."""
    level = event.get("log_level")
    line = {
        "time": datetime.fromtimestamp(event["log_time"], UTC).isoformat(timespec="milliseconds"),
        "level": level.name if level is not None and level.name in _LEVELS else "info",
        "system": event.get("log_namespace", "-"),
        "message": _encodable(formatEvent(event)),
    }
    if "request_id" in event:
        line["request_id"] = _encodable(str(event["request_id"]))
    failure = event.get("log_failure")
    if failure is not None:
        line["trace"] = _encodable(failure.getTraceback())
    return escape_unprintable(msgspec.json.encode(line).decode()) + "\n"


def _encodable(text: str) -> str:
    """Escape surrogates, which JSON cannot encode. File names may contain them."""
    return text.encode("utf-8", "backslashreplace").decode()


def format_text_lines(event: LogEvent) -> str | None:
    """Return an event in twistd's format with its continuation lines indented."""
    text = formatEventAsClassicLogText(event)
    return None if text is None else f"{sanitize_text(text.rstrip(chr(10)))}\n"


def make_text_observer(
    twistd: TwistdOptions, reactor: IReactorFromThreads
) -> FileLogObserver | None:
    """Return an observer for the log that twistd's options name.

    Returns None for syslog, and without options, which leave the log to twistd.
    """
    if not twistd or twistd.get("syslog"):
        return None
    out = _open_log(twistd)
    if out is not sys.__stdout__:
        _rotate_on_sigusr1(cast("LogFile", out), reactor)
    return FileLogObserver(out, format_text_lines)


def _rotate_on_sigusr1(file: LogFile, reactor: IReactorFromThreads) -> None:
    """Rotate the log on SIGUSR1, as twistd does."""
    if not hasattr(signal, "SIGUSR1") or signal.getsignal(signal.SIGUSR1):
        return

    def rotate(*_: object) -> None:
        reactor.callFromThread(file.rotate)

    signal.signal(signal.SIGUSR1, rotate)


def make_json_observer(twistd: TwistdOptions) -> JsonLogObserver:
    """Return an observer for the log that twistd's options name: --logfile, or stdout with -n."""
    return JsonLogObserver(_open_log(twistd))


def _open_log(twistd: TwistdOptions) -> TextIO:
    name = twistd.get("logfile")
    if name in (None, "-") and (twistd.get("nodaemon") or name == "-"):
        # twistd may have replaced sys.stdout by its log.
        assert sys.__stdout__ is not None
        return sys.__stdout__
    file = LogFile.fromFullPath(name or "twistd.log")  # type: ignore[no-untyped-call]
    return cast("TextIO", file)
