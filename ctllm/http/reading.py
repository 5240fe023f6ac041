"""Request heads out of a stream of bytes, and the refusal of those that read two ways."""

from __future__ import annotations

import re

import h11

from ctllm.errors import BadRequest, HeadTooLarge
from ctllm.wire.heads import RequestHead

#: What some servers take for a line break and others do not (RFC 9112, sections 2.2 and 5.2).
_BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")
_LISTED_LENGTH = re.compile(rb"\r\ncontent-length:[^\r\n]*,", re.IGNORECASE)
#: No client sends nearly as many, and each costs more to read than a kilobyte of anything else.
MAX_HEADERS = 250
#: Pieces of a body that nobody wants which are read so that its connection may go on.
MOST_PIECES = 64
_SLOPPY = re.compile(rb"(?<!\r)\n|\r(?!\n)|\r\n[ \t]|\0")


class Unread:
    """What was read of a connection and is not used yet; `limit` is a head's most bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = bytearray()
        self._scanned = 0  # where no end of a head was found before

    def __len__(self) -> int:
        """How many bytes there are."""
        return len(self._bytes)

    def add(self, data: bytes) -> None:
        """More was read."""
        self._bytes += data

    def put_back(self, data: bytes) -> None:
        """What was taken too much."""
        self._bytes[:0] = data

    def take_all(self) -> bytes:
        """Everything, for whoever reads a body."""
        taken = bytes(self._bytes)
        self._bytes.clear()
        return taken

    def take_head(self) -> bytes | None:
        """The next head if it is whole; raises HeadTooLarge or BadRequest."""
        while self._bytes[:2] == b"\r\n":
            del self._bytes[:2]  # RFC 9112 2.2: blank lines before a request are to be ignored
        end = self._bytes.find(b"\r\n\r\n", max(0, self._scanned - 3))
        self._scanned = len(self._bytes)
        if (end + 4 if end >= 0 else len(self._bytes)) > self._limit:
            raise HeadTooLarge(f"the request line and headers exceed {self._limit} bytes")
        if end < 0:
            if _BARE_LINE_FEED.search(self._bytes):  # or its end might be waited for in vain
                raise BadRequest("a head with bare line feeds")
            return None
        if self._bytes.count(b"\n", 0, end) > MAX_HEADERS:
            raise HeadTooLarge(f"there are more than {MAX_HEADERS} headers")
        head = bytes(self._bytes[: end + 4])
        del self._bytes[: end + 4]
        self._scanned = 0
        return head


def read_out(connection: h11.Connection, unread: Unread) -> None:
    """Take what has come of a body that nobody wanted, so that its connection may go on."""
    try:
        for _ in range(MOST_PIECES):
            if connection.their_state is not h11.SEND_BODY:
                return
            if connection.next_event() is h11.NEED_DATA:
                if not unread:
                    return
                connection.receive_data(unread.take_all())
    except h11.RemoteProtocolError:
        return  # then it does not go on


def request_head(event: h11.Request, raw: bytes) -> RequestHead:
    """What h11 read as `event` from `raw`; raises BadRequest where another might read another."""
    if _SLOPPY.search(raw):
        raise BadRequest("a head with a bare line break, a folded line or a NUL")
    headers = tuple(event.headers.raw_items())
    names = [name.lower() for name, _ in headers]
    if b"transfer-encoding" in names and b"content-length" in names:
        raise BadRequest("a request with both Content-Length and Transfer-Encoding")
    if raw.lower().count(b"\r\ncontent-length:") > 1:  # h11 makes one of two that agree
        raise BadRequest("a request with two Content-Length headers")
    if _LISTED_LENGTH.search(raw):  # h11 makes one of "5, 5" too
        raise BadRequest("a request with a list for its Content-Length")
    if event.http_version not in (b"1.0", b"1.1"):
        raise BadRequest("ctllm speaks HTTP/1.1")
    if event.http_version == b"1.0" and b"transfer-encoding" in names:
        raise BadRequest("a request of HTTP/1.0 with a Transfer-Encoding, which that lacks")
    return RequestHead(event.method, _origin_form(event.target), headers)


def _origin_form(target: bytes) -> bytes:
    """A target as path and query (RFC 9112, section 3.2: servers must take the absolute form)."""
    if target.startswith(b"/"):
        return target
    scheme, found, rest = target.partition(b"://")
    if found and scheme.lower() in (b"http", b"https"):
        return b"/" + rest.partition(b"/")[2]
    raise BadRequest("a request target that is neither a path nor a URL")
