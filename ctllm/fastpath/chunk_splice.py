"""A chunked body that passes from one socket to another in the frames in which it arrives.

Each line of a streamed response is a chunk of its own, and nearly always one read of a socket; on a
busy machine, a read has several. Such a read is sent on as it is: checked, but neither decoded nor
encoded, and without the ten calls through transport, parser and writer on both sides. All else
takes the usual way.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

#: How many bytes one read returns at most: Twisted's `bufferSize`.
_READ_SIZE = 64 * 1024
_CRLF = b"\r\n"
#: A size line in its shortest form, without extensions (RFC 9112, section 7.1).
_SIZE_LINE = re.compile(rb"([1-9a-f][0-9a-f]{0,7})\r\n")


@lru_cache(4096)
def _size_lines(length: int) -> tuple[bytes, ...]:
    """Return how `length` bytes begin that are one chunk: at most one size line."""
    for digits in range(1, len(b"%x" % length) + 1):
        size = length - digits - 2 * len(_CRLF)
        if size > 0 and len(b"%x" % size) == digits:
            return (b"%x\r\n" % size,)
    return ()


def split_chunks(data: bytes, end: bytes) -> list[bytes]:
    """Return the contents of the chunks in `data`.

    They are none if it is not whole chunks alone, each in its shortest form, or if the contents of
    one do not end with `end`.
    """
    chunks: list[bytes] = []
    position = 0
    while position < len(data):
        found = _SIZE_LINE.match(data, position)
        if found is None:
            return []
        start = found.end()
        stop = start + int(found[1], 16)
        if data[stop : stop + 2] != _CRLF or not data.endswith(end, start, stop):
            return []
        chunks.append(data[start:stop])
        position = stop + 2
    return chunks


class ChunkSplice:
    """Sends chunks that are read from `source` to `target`, which are transports of sockets.

    It is created stopped. Once it is started, it takes the place of the source's `doRead`. It stops
    at a read that is not exactly one or more chunks whose contents end with `end`, or that would
    overtake data which `target` buffers; the source's protocol receives that read, and may start
    it again. `on_stopped` is called first, with the contents of the last read that was sent.

    For TLS, for transports without a socket, and where Twisted's transports lack a private
    attribute, it does not start.
    """

    __slots__ = (
        "_doRead",
        "_end",
        "_framed_end",
        "_last",
        "_on_stopped",
        "_receive",
        "_send",
        "_source",
        "_target",
    )

    def __init__(
        self, source: Any, target: Any, end: bytes, on_stopped: Callable[[bytes], None]
    ) -> None:
        self._source = source
        self._target = target
        self._end = end
        self._framed_end = end + _CRLF
        self._on_stopped = on_stopped
        self._last = b""
        self._doRead = self._read  # one bound method, to be recognised
        if is_possible(source, target):
            self._receive = source.socket.recv
            self._send = target.socket.send

    def start(self) -> None:
        """Read from the source, until a read is not to be sent on as it is."""
        if hasattr(self, "_receive") and "doRead" not in vars(self._source):
            self._source.doRead = self._doRead

    def stop(self) -> None:
        """Leave the source to its protocol."""
        attributes = vars(self._source)
        if attributes.get("doRead") is self._doRead:  # a transport that aborts has its own
            del attributes["doRead"]
        last, self._last = self._last, b""
        if last:
            self._on_stopped(b"".join(split_chunks(last, self._end)))

    def _read(self) -> object:
        """Read from the source once; return what its `doRead` would return."""
        try:
            data = self._receive(_READ_SIZE)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        target = self._target
        if (
            not data.endswith(self._framed_end)
            or not (data.startswith(_size_lines(len(data))) or split_chunks(data, self._end))
            or target._tempDataBuffer
            or target.dataBuffer
            or target.disconnecting
            or not target.connected
        ):
            return self._read_otherwise(data)
        self._last = data
        try:
            sent = self._send(data)
        except OSError:  # full or broken: the transport's own attempt decides
            sent = 0
        if sent < len(data):
            target.write(data[sent:])
        return None

    def _read_otherwise(self, data: bytes) -> object:
        self.stop()
        if not data:  # closed: the transport finds the same once more
            return self._source.doRead()
        self._source.protocol.dataReceived(data)
        return None


def is_possible(source: Any, target: Any) -> bool:
    """Whether both are transports of sockets that have what is used of them."""
    # The lookup is in vars() because a TLS transport passes on attributes of the one beneath.
    return (
        "socket" in vars(source)
        and hasattr(source, "doRead")
        and {"socket", "_tempDataBuffer"} <= vars(target).keys()
    )
