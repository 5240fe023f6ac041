"""The last lines of the daemon's log, for the command `LOGS`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.logger import ILogObserver, LogEvent, eventAsText
from zope.interface import implementer

from ctllm.common.sanitize import sanitize_text

#: Lines that are stored, and characters of each.
MAX_LINES = 1000
MAX_LINE_LENGTH = 2000


@implementer(ILogObserver)
class LogBuffer:
    """A log observer that stores the last lines, and passes each line to its own observers."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._observers: list[Callable[[str], None]] = []

    def add_observer(self, observer: Callable[[str], None]) -> None:
        """Call `observer` with each line."""
        self._observers.append(observer)

    def __call__(self, event: LogEvent) -> None:
        """Store the lines of `event`, without the name of its logger."""
        text = eventAsText(event, includeTimestamp=True, includeSystem=False)
        for line in text.splitlines():
            safe_line = sanitize_text(line[:MAX_LINE_LENGTH])
            self._lines.append(safe_line)
            for observer in self._observers:
                observer(safe_line)

    def last(self, count: int) -> list[str]:
        """Return the last `count` lines, the newest at the end."""
        return list(self._lines)[len(self._lines) - min(count, len(self._lines)) :]
