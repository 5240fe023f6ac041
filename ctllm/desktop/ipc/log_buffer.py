"""The last lines of this program's log, for those who ask."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.logger import LogEvent, eventAsText

from ctllm.common.sanitize import sanitize_text

#: Lines that are kept, and how long one may be.
MAX_LINES = 1000
MAX_LINE_LENGTH = 2000


class LogBuffer:
    """A log observer that remembers. `on_line` hears of each line."""

    def __init__(self) -> None:
        self.on_line: Callable[[str], None] = lambda line: None
        self._lines: deque[str] = deque(maxlen=MAX_LINES)

    def __call__(self, event: LogEvent) -> None:
        """Remember one event, without what would only confuse: where in the code it was."""
        text = eventAsText(event, includeTimestamp=True, includeSystem=False)
        for line in text.splitlines():
            shown = sanitize_text(line[:MAX_LINE_LENGTH])
            self._lines.append(shown)
            self.on_line(shown)

    def last(self, count: int) -> list[str]:
        """The last lines, the newest at the end."""
        return list(self._lines)[len(self._lines) - min(count, len(self._lines)) :]
