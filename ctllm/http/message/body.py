"""Bodies of HTTP/1.1 messages (RFC 9112, sections 6 and 7): readers and an encoder, sans-IO.

Each line of a streamed response is a chunk of its own, so `ChunkedReader` is on the path of a
token: it matches one regular expression per chunk, and returns one bytes object for all chunks that
a read of the socket completed. A chunk that is incomplete is held back, because its sender has all
of it and the rest follows at once: so lines stay whole.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Protocol

from ctllm.http.message.head import Headers

#: Limits in bytes: of a chunk's size with its extensions, and of a trailer section.
MAX_CHUNK_LINE = 4096
MAX_TRAILERS = 16 * 1024
#: The longest chunk that is held back until it is complete, in bytes.
MAX_HELD_CHUNK = 256 * 1024
#: The most chunks that are split at once, and the longest line before such a chunk, in bytes.
MAX_SPLIT = 1024
MAX_SHORT_LINE = 8

_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n]*)?\r\n")
_SHORT_SIZE = re.compile(rb"[0-9A-Fa-f]{1,8}")
_LENGTH = re.compile(rb"[0-9]{1,18}")


@lru_cache(maxsize=1024)
def _short_size(line: bytes) -> int:
    """Return the size that a chunk begins with, or -1 if its line has anything else."""
    return int(line, 16) if _SHORT_SIZE.fullmatch(line) else -1


def _split_chunks(data: bytes, payload: list[bytes]) -> int:
    """Append the complete chunks that `data` begins with to `payload`; return their length.

    This is for many short chunks in a read: it splits them and compares their sizes all at once. It
    returns 0 where one of them is the last, has an extension, or has a CRLF in it.
    """
    *parts, rest = data.split(b"\r\n", 2 * MAX_SPLIT)
    end = len(data) - len(rest)
    if len(parts) % 2:  # the rest belongs to a chunk
        end -= len(parts.pop()) + 2
    lines, chunks = parts[::2], parts[1::2]
    if max(map(len, lines), default=99) > MAX_SHORT_LINE or b"" in chunks:
        return 0
    if list(map(_short_size, lines)) != list(map(len, chunks)):
        return 0
    payload += chunks
    return end


class BadFraming(ValueError):
    """A body that does not have the form or the length that its head announces."""


class BodyReader(Protocol):
    """Decodes a body.

    `is_complete` says whether the end was read; `trailing_data` is what was received after it.
    `has_partial_chunk` says whether a part of a chunk is held back, whose rest should follow soon;
    `is_between_chunks` whether what follows is a chunk, or the last one.
    """

    is_complete: bool
    trailing_data: bytes
    has_partial_chunk: bool

    @property
    def is_between_chunks(self) -> bool:
        """Whether all of what was read is whole chunks of a chunked body that goes on."""

    def feed(self, data: bytes) -> bytes:
        """Return the payload that `data` completes, if any; raises BadFraming."""

    def take_partial_chunk(self) -> bytes:
        """Return what is held back."""

    def feed_eof(self) -> None:
        """The connection closed. Raises BadFraming if the body is incomplete."""


class _Unchunked:
    """A body whose payload is the data itself."""

    has_partial_chunk = False
    is_between_chunks = False

    def take_partial_chunk(self) -> bytes:
        """Return nothing: nothing is held back."""
        return b""


class ContentLengthReader(_Unchunked):
    """A body of a known number of bytes."""

    def __init__(self, length: int) -> None:
        self._remaining = length
        self.is_complete = not length
        self.trailing_data = b""

    def feed(self, data: bytes) -> bytes:
        """Return as much of `data` as belongs to the body."""
        payload, self.trailing_data = data[: self._remaining], data[self._remaining :]
        self._remaining -= len(payload)
        self.is_complete = not self._remaining
        return payload

    def feed_eof(self) -> None:
        """Raise BadFraming if the body is incomplete."""
        if not self.is_complete:
            raise BadFraming(f"it closed the connection {self._remaining} bytes before the end")


class UntilCloseReader(_Unchunked):
    """A body that ends with its connection."""

    def __init__(self) -> None:
        self.is_complete = False
        self.trailing_data = b""

    def feed(self, data: bytes) -> bytes:
        """Return all of `data`."""
        return data

    def feed_eof(self) -> None:
        """Complete the body."""
        self.is_complete = True


class ChunkedReader:
    """A body in chunks. Chunk extensions and trailers are dropped."""

    def __init__(self) -> None:
        self.is_complete = False
        self.trailing_data = b""
        self.has_partial_chunk = False
        self._unparsed = b""  # the beginning of a chunk's size, its line end or the trailers
        self._held: list[bytes] = []  # what was received of a chunk that is held back
        self._remaining = 0  # bytes of a chunk that are still to come
        self._may_hold = True  # whether the chunk is short enough to be held back
        self._needs_line_end = False  # that which follows a chunk's data
        self._in_trailers = False

    @property
    def is_between_chunks(self) -> bool:
        """Whether all of what was read is whole chunks, and not the last one."""
        return not (self._unparsed or self._remaining or self._needs_line_end or self._in_trailers)

    def feed(self, data: bytes) -> bytes:
        """Return the payload of all chunks that are complete now, joined."""
        if not (self._unparsed or self._remaining or self._needs_line_end or self._in_trailers):
            found = _CHUNK.match(data)
            if found is not None:
                start = found.end()
                size = int(found[1], 16)
                if size and start + size + 2 == len(data) and data.endswith(b"\r\n"):
                    return data[start:-2]  # one chunk, as for most lines
        if self._unparsed:
            data, self._unparsed = self._unparsed + data, b""
        payload: list[bytes] = []
        position = self._continue_chunk(data, payload)
        may_split = True
        while not (
            self._remaining or self._needs_line_end or self._in_trailers or self.is_complete
        ):
            found = _CHUNK.match(data, position)
            if found is None:
                self._keep_unparsed(data, position, MAX_CHUNK_LINE)
                break
            start = found.end()
            size = int(found[1], 16)
            position = start + size
            if size and data[position : position + 2] == b"\r\n":
                payload.append(data[start:position])
                position += 2
                if may_split and position < len(data):
                    may_split = False
                    position += _split_chunks(data[position:], payload)
            else:
                position = self._start_chunk(size, data, start, payload)
        if self._in_trailers and not self.is_complete:
            self._skip_trailers(data, position)
        return payload[0] if len(payload) == 1 else b"".join(payload)

    def _continue_chunk(self, data: bytes, payload: list[bytes]) -> int:
        """Read the rest of a chunk that began before; return where in `data` it ends."""
        position = 0
        if self._remaining:
            part = data[: self._remaining]
            position = len(part)
            self._remaining -= position
            self._needs_line_end = not self._remaining
            self._add_part(part, payload)
        if self._needs_line_end:
            position = self._read_line_end(data, position)
        return position

    def _start_chunk(self, size: int, data: bytes, start: int, payload: list[bytes]) -> int:
        """Read a chunk that is incomplete, or the last one; return where in `data` it ends."""
        if not size:
            self._in_trailers = True
            return start
        part = data[start : start + size]
        self._remaining = size - len(part)
        self._needs_line_end = not self._remaining
        self._may_hold = size <= MAX_HELD_CHUNK
        self._add_part(part, payload)
        return self._read_line_end(data, start + size) if self._needs_line_end else len(data)

    def _add_part(self, part: bytes, payload: list[bytes]) -> None:
        """Hold a part of a chunk back until the chunk is complete; then add all to `payload`."""
        self._held.append(part)
        self.has_partial_chunk = self._may_hold and self._remaining > 0
        if not self.has_partial_chunk:
            payload += self._held
            self._held.clear()

    def take_partial_chunk(self) -> bytes:
        """Return what is held back. What follows of the chunk is held back again."""
        self.has_partial_chunk = False
        held, self._held = b"".join(self._held), []
        return held

    def _read_line_end(self, data: bytes, position: int) -> int:
        end = data[position : position + 2]
        if end == b"\r\n":
            self._needs_line_end = False
            return position + 2
        if end not in (b"", b"\r"):
            raise BadFraming("a chunk is longer than its size")
        self._unparsed = end
        return len(data)

    def _keep_unparsed(self, data: bytes, position: int, limit: int) -> None:
        """Keep what is incomplete; raises BadFraming if no more data can make it valid."""
        self._unparsed = data[position:]
        if len(self._unparsed) > limit or (limit == MAX_CHUNK_LINE and b"\n" in self._unparsed):
            raise BadFraming("an invalid chunk size")

    def _skip_trailers(self, data: bytes, position: int) -> None:
        """Skip the lines after the last chunk, to an empty one."""
        if data.startswith(b"\r\n", position):
            end = position + 2
        else:
            end = data.find(b"\r\n\r\n", position) + 4
            if end < 4:
                return self._keep_unparsed(data, position, MAX_TRAILERS)
        self.is_complete = True
        self.trailing_data = data[end:]
        return None

    def feed_eof(self) -> None:
        """Raise BadFraming if the last chunk was not read."""
        if not self.is_complete:
            raise BadFraming("it closed the connection before the last chunk")


def content_length(headers: Headers) -> int | None:
    """Return the Content-Length, or None without one.

    Raises BadFraming for several that differ, and for what is no number.
    """
    values = {value.strip() for name, value in headers if name.lower() == b"content-length"}
    if not values:
        return None
    value = values.pop()
    if values or not _LENGTH.fullmatch(value):
        raise BadFraming("a Content-Length that is not one number")
    return int(value)


def is_chunked(headers: Headers) -> bool:
    """Whether the Transfer-Encoding is chunked; raises BadFraming for any other coding."""
    codings = [
        value.strip().lower() for name, value in headers if name.lower() == b"transfer-encoding"
    ]
    if codings not in ([], [b"chunked"]):
        raise BadFraming("a Transfer-Encoding other than chunked")
    return bool(codings)


class BodyEncoder:
    """Encodes a body as its `headers` announce it: in chunks, of a length, or empty."""

    def __init__(self, headers: Headers) -> None:
        self._is_chunked = is_chunked(headers)
        length = content_length(headers)
        if self._is_chunked and length is not None:
            raise BadFraming("both a Content-Length and chunks")
        self._remaining = length or 0
        self.is_complete = False

    def encode(self, data: bytes) -> bytes:
        """Encode `data`; raises BadFraming beyond the length."""
        if self._is_chunked:
            return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        self._remaining -= len(data)
        if self._remaining < 0:
            raise BadFraming("a body longer than its Content-Length")
        return data

    def encode_end(self) -> bytes:
        """Encode the end; raises BadFraming before the length is reached."""
        if self._remaining:
            raise BadFraming("a body shorter than its Content-Length")
        self.is_complete = True
        return b"0\r\n\r\n" if self._is_chunked else b""
