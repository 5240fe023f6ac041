"""What a proxy's process says, as lines that a log can take."""

from __future__ import annotations

from collections.abc import Callable

from ctllm.common.sanitize import sanitize_line

#: Bytes: a longer line becomes several.
LONGEST = 2000


class Lines:
    """Cuts bytes into lines of bounded length, safe to show, and gives each to `said`."""

    def __init__(self, said: Callable[[str], None]) -> None:
        self._said = said
        self._rest = b""

    def take(self, data: bytes) -> None:
        """Take what was written; the last line may be unfinished."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            self._say(line)
        while len(self._rest) > LONGEST:
            self._say(self._rest[:LONGEST])
            self._rest = self._rest[LONGEST:]

    def end(self) -> None:
        """There is no more: the last line is finished, too."""
        rest, self._rest = self._rest, b""
        self._say(rest)

    def _say(self, line: bytes) -> None:
        for start in range(0, len(line), LONGEST):
            text = line[start : start + LONGEST].decode("utf-8", "replace").rstrip()
            if text:
                self._said(sanitize_line(text))
