"""What a proxy's process says, as lines that a log can take."""

from __future__ import annotations

from collections.abc import Callable

from ctllm.common.sanitize import sanitize_line

#: Bytes: a longer line becomes several.
MAX_LOG_LINE_BYTES = 2000


class LogLineSplitter:
    """Cuts bytes into lines of bounded length, safe to show, and gives each to `said`."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._partial_line = b""

    def data_received(self, data: bytes) -> None:
        """Take what was written; the last line may be unfinished."""
        *whole, self._partial_line = (self._partial_line + data).split(b"\n")
        for line in whole:
            self._emit(line)
        while len(self._partial_line) > MAX_LOG_LINE_BYTES:
            self._emit(self._partial_line[:MAX_LOG_LINE_BYTES])
            self._partial_line = self._partial_line[MAX_LOG_LINE_BYTES:]

    def finish(self) -> None:
        """There is no more: the last line is finished, too."""
        rest, self._partial_line = self._partial_line, b""
        self._emit(rest)

    def _emit(self, line: bytes) -> None:
        for start in range(0, len(line), MAX_LOG_LINE_BYTES):
            text = line[start : start + MAX_LOG_LINE_BYTES].decode("utf-8", "replace").rstrip()
            if text:
                self._on_line(sanitize_line(text))
