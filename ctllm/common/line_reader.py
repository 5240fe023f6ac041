"""A parser of lines with a maximum length."""

from __future__ import annotations


class LineReader:
    """Splits a byte stream into lines without their ends (LF or CRLF).

    A line of more than `max_length` bytes is skipped and reported as None.
    """

    def __init__(self, max_length: int) -> None:
        self.max_length = max_length
        self._partial = bytearray()
        self._skipping = False

    @property
    def has_partial_line(self) -> bool:
        """Whether a line has begun and not ended."""
        return bool(self._partial) or self._skipping

    def feed(self, data: bytes) -> list[bytes | None]:
        """Return the lines that end in `data`."""
        *ends, rest = data.split(b"\n")
        lines = [self._finish_line(end) for end in ends]
        self._append(rest)
        return lines

    def _finish_line(self, end: bytes) -> bytes | None:
        self._append(end)
        line = None if self._skipping else bytes(self._partial).removesuffix(b"\r")
        self._partial.clear()
        self._skipping = False
        return line

    def _append(self, data: bytes) -> None:
        if self._skipping or len(self._partial) + len(data) > self.max_length:
            self._skipping = True
            self._partial.clear()
        else:
            self._partial += data
