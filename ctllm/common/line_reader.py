"""Lines out of a stream of bytes, none longer than it may be."""

from __future__ import annotations


class Lines:
    """Cuts what is fed into lines without their ends. One that is too long is None, and skipped."""

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self._part = bytearray()
        self._skipping = False

    @property
    def half(self) -> bool:
        """Whether a line has begun and not ended."""
        return bool(self._part) or self._skipping

    def feed(self, data: bytes) -> list[bytes | None]:
        """The lines that `data` ends."""
        *whole, rest = data.split(b"\n")
        found: list[bytes | None] = []
        for end in whole:
            found.append(self._ended(end))
        self._add(rest)
        return found

    def _ended(self, end: bytes) -> bytes | None:
        self._add(end)
        line = None if self._skipping else bytes(self._part).removesuffix(b"\r")
        self._part.clear()
        self._skipping = False
        return line

    def _add(self, piece: bytes) -> None:
        if self._skipping or len(self._part) + len(piece) > self.longest:
            self._skipping = True
            self._part.clear()
        else:
            self._part += piece
