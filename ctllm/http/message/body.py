"""Bodies of HTTP/1.1 messages (RFC 9112, sections 6 and 7): from the wire and onto it.

Every line of a streamed answer is a chunk of its own, so the chunked reader is on the path of a
token: one regular expression for each chunk, and one piece for all chunks that a read of the socket
brought whole. Of one that it brought in part the rest is on its way, for who writes a chunk's size
has all of it: so lines stay whole.
"""

from __future__ import annotations

import re
from typing import Protocol

from ctllm.http.message.head import Headers

#: Most bytes of a chunk's size with its extensions, and of a trailer section.
MAX_CHUNK_LINE = 4096
MAX_TRAILERS = 16 * 1024
#: The longest chunk whose rest is waited for.
MAX_HELD_CHUNK = 256 * 1024

_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n]*)?\r\n")
_LENGTH = re.compile(rb"[0-9]{1,18}")


class BadFraming(ValueError):
    """A body that does not have the form or the length that its head says."""


class BodyReader(Protocol):
    """A body being read. `rest` is what came after its end.

    `holds` tells that it keeps a part of a chunk to itself: nobody should wait long for the rest.
    """

    is_complete: bool
    trailing_data: bytes
    has_partial_chunk: bool

    def feed(self, data: bytes) -> bytes:
        """The payload in `data`, if any; raises BadFraming."""

    def take_partial_chunk(self) -> bytes:
        """What it holds."""

    def feed_eof(self) -> None:
        """The connection ended here; raises BadFraming if the body is not whole by that."""


class _Unchunked:
    """A body whose bytes pass as they come."""

    has_partial_chunk = False

    def take_partial_chunk(self) -> bytes:
        """Nothing."""
        return b""


class ContentLengthReader(_Unchunked):
    """A body of a known number of bytes."""

    def __init__(self, length: int) -> None:
        self._left = length
        self.is_complete = not length
        self.trailing_data = b""

    def feed(self, data: bytes) -> bytes:
        """As much of `data` as belongs to it."""
        piece, self.trailing_data = data[: self._left], data[self._left :]
        self._left -= len(piece)
        self.is_complete = not self._left
        return piece

    def feed_eof(self) -> None:
        """Too early, unless it was whole."""
        if not self.is_complete:
            raise BadFraming(f"it closed the connection {self._left} bytes before the end")


class UntilCloseReader(_Unchunked):
    """A body that ends with its connection."""

    def __init__(self) -> None:
        self.is_complete = False
        self.trailing_data = b""

    def feed(self, data: bytes) -> bytes:
        """All of it."""
        return data

    def feed_eof(self) -> None:
        """So it is whole."""
        self.is_complete = True


class ChunkedReader:
    """A body in chunks; their extensions and the trailers are dropped."""

    def __init__(self) -> None:
        self.is_complete = False
        self.trailing_data = b""
        self.has_partial_chunk = False
        self._held = b""  # the beginning of something that is not whole yet
        self._part: list[bytes] = []  # what has come of a chunk whose rest is waited for
        self._left = 0  # bytes of a chunk that are still to come
        self._patient = True  # whether it is short enough to wait for its rest
        self._closing = False  # a chunk's own line end is due
        self._trailing = False

    def feed(self, data: bytes) -> bytes:
        """The payload of all chunks that are whole now, joined."""
        if not (self._held or self._left or self._closing or self._trailing):
            found = _CHUNK.match(data)
            if found is not None:
                start = found.end()
                size = int(found[1], 16)
                if size and start + size + 2 == len(data) and data.endswith(b"\r\n"):
                    return data[start:-2]  # a line that came by itself, as most do
        if self._held:
            data, self._held = self._held + data, b""
        pieces: list[bytes] = []
        position = self._begun(data, pieces)
        while not (self._left or self._closing or self._trailing or self.is_complete):
            found = _CHUNK.match(data, position)
            if found is None:
                self._hold(data, position, MAX_CHUNK_LINE)
                break
            start = found.end()
            size = int(found[1], 16)
            position = start + size
            if size and data[position : position + 2] == b"\r\n":
                pieces.append(data[start:position])
                position += 2
            else:
                position = self._partly(size, data, start, pieces)
        if self._trailing and not self.is_complete:
            self._trailers(data, position)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _begun(self, data: bytes, pieces: list[bytes]) -> int:
        """Go on with a chunk whose beginning came earlier; where in `data` it ends."""
        position = 0
        if self._left:
            piece = data[: self._left]
            position = len(piece)
            self._left -= position
            self._closing = not self._left
            self._give(piece, pieces)
        if self._closing:
            position = self._line_end(data, position)
        return position

    def _partly(self, size: int, data: bytes, start: int, pieces: list[bytes]) -> int:
        """A chunk that is not all there, or the last one."""
        if not size:
            self._trailing = True
            return start
        piece = data[start : start + size]
        self._left = size - len(piece)
        self._closing = not self._left
        self._patient = size <= MAX_HELD_CHUNK
        self._give(piece, pieces)
        return self._line_end(data, start + size) if self._closing else len(data)

    def _give(self, piece: bytes, pieces: list[bytes]) -> None:
        """Add a piece of a chunk to those that go on, or keep it until all of it is there."""
        self._part.append(piece)
        self.has_partial_chunk = self._patient and self._left > 0
        if not self.has_partial_chunk:
            pieces += self._part
            self._part.clear()

    def take_partial_chunk(self) -> bytes:
        """What has come of the chunk that is not whole; its rest is waited for again."""
        self.has_partial_chunk = False
        held, self._part = b"".join(self._part), []
        return held

    def _line_end(self, data: bytes, position: int) -> int:
        end = data[position : position + 2]
        if end == b"\r\n":
            self._closing = False
            return position + 2
        if end not in (b"", b"\r"):
            raise BadFraming("a chunk is longer than its size says")
        self._held = end
        return len(data)

    def _hold(self, data: bytes, position: int, limit: int) -> None:
        """Keep what is not whole, unless it cannot become what is expected."""
        self._held = data[position:]
        if len(self._held) > limit or (limit == MAX_CHUNK_LINE and b"\n" in self._held):
            raise BadFraming("what should be a chunk's size is none")

    def _trailers(self, data: bytes, position: int) -> None:
        """The lines after the last chunk, up to an empty one."""
        if data.startswith(b"\r\n", position):
            end = position + 2
        else:
            end = data.find(b"\r\n\r\n", position) + 4
            if end < 4:
                return self._hold(data, position, MAX_TRAILERS)
        self.is_complete = True
        self.trailing_data = data[end:]
        return None

    def feed_eof(self) -> None:
        """Too early, unless the last chunk was there."""
        if not self.is_complete:
            raise BadFraming("it closed the connection before the last chunk")


def content_length(headers: Headers) -> int | None:
    """What Content-Length says; None without it; raises BadFraming where it says two things."""
    found = {value.strip() for name, value in headers if name.lower() == b"content-length"}
    if not found:
        return None
    said = found.pop()
    if found or not _LENGTH.fullmatch(said):
        raise BadFraming("a Content-Length that is not one number")
    return int(said)


def is_chunked(headers: Headers) -> bool:
    """Whether Transfer-Encoding says so; raises BadFraming for any other coding."""
    codings = [value.strip().lower() for name, value in headers if _is_coding(name)]
    if codings not in ([], [b"chunked"]):
        raise BadFraming("a Transfer-Encoding other than chunked")
    return bool(codings)


def _is_coding(name: bytes) -> bool:
    return name.lower() == b"transfer-encoding"


class BodyEncoder:
    """Frames a body as its `headers` say: in chunks, of a length, or none at all."""

    def __init__(self, headers: Headers) -> None:
        self._chunked = is_chunked(headers)
        length = content_length(headers)
        if self._chunked and length is not None:
            raise BadFraming("both a Content-Length and chunks")
        self._left = length or 0
        self.is_complete = False

    def encode(self, data: bytes) -> bytes:
        """`data` as it goes onto the wire; raises BadFraming beyond the length."""
        if self._chunked:
            return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        self._left -= len(data)
        if self._left < 0:
            raise BadFraming("a body longer than its head says")
        return data

    def encode_end(self) -> bytes:
        """What goes after the last piece; raises BadFraming before the length was reached."""
        if self._left:
            raise BadFraming("a body shorter than its head says")
        self.is_complete = True
        return b"0\r\n\r\n" if self._chunked else b""
