"""The answer to one HTTP/1.1 request, out of a stream of bytes (RFC 9112, sections 4 to 6).

Strict where two readers might read two things: line ends, header names, lengths. What a server
says that HTTP does not know is an error, not a guess.
"""

from __future__ import annotations

import re

from ctllm.http.message.body import (
    BadFraming,
    BodyReader,
    ChunkedReader,
    ContentLengthReader,
    UntilCloseReader,
    content_length,
    is_chunked,
)
from ctllm.http.message.head import Headers, ResponseHead

#: The largest head of an answer that is read, in bytes; interim answers count towards it.
MAX_HEAD = 128 * 1024

_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: ([\t \x21-\x7e\x80-\xff]*))?")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_STATUS_LINE = b"HTTP/1.1 200 "
#: Of a head that is not whole, as much is looked at for a status line.
MAX_STATUS_LINE = 1024
_NOT_IN_HEADS = re.compile(rb"(?<!\r)\n|\r(?=[^\n])|\0")
_NOT_IN_VALUES = re.compile(rb"[\0\r\n]")


class ResponseParser:
    """Reads one answer. `head` and `body` are there once the final head was read.

    Where `upgrade` was asked for, 101 is final, too: what follows it is another protocol's.
    """

    def __init__(self, method: bytes, upgrade: bool = False) -> None:
        self._method = method
        self._upgrade = upgrade
        self._unread = bytearray()
        self._scanned = 0  # bytes of a head that have been checked
        self._interim = 0  # bytes of interim answers so far
        self._lasting = False
        self.head: ResponseHead | None = None
        self.body: BodyReader = ContentLengthReader(0)

    @property
    def has_started(self) -> bool:
        """Whether anything of it has come."""
        return self.head is not None or bool(self._unread) or bool(self._interim)

    @property
    def is_reusable(self) -> bool:
        """Whether the connection may be used again after this (whole) answer."""
        return self._lasting and self.body.is_complete and not self.body.trailing_data

    @property
    def is_close_delimited(self) -> bool:
        """Whether nothing but the end of its connection says where it ends."""
        return isinstance(self.body, UntilCloseReader)

    def feed_head(self, data: bytes) -> bytes | None:
        """Read towards the final head; what follows it in `data`, or None while it is not there.

        Raises BadFraming for what is no answer.
        """
        self._unread += data
        while self.head is None:
            end = self._unread.find(b"\r\n\r\n")
            if max(end, len(self._unread) if end < 0 else 0) + self._interim > MAX_HEAD:
                raise BadFraming(f"a head of more than {MAX_HEAD} bytes")
            if end < 0:
                self._check_beginning()
                return None
            self._read(bytes(self._unread[:end]))
            del self._unread[: end + 4]
            self._scanned = 0
        rest = bytes(self._unread)
        self._unread = bytearray()
        return rest

    def _check_beginning(self) -> None:
        """Raise BadFraming for what cannot become a head: its end would be awaited in vain."""
        begun = self._unread
        line, ended, _ = begun[:MAX_STATUS_LINE].partition(b"\r\n")
        status = line if ended else line[:13] + _STATUS_LINE[len(line) :]
        if not _STATUS.fullmatch(status):
            raise BadFraming("an answer that does not begin with HTTP/1.1 and a status")
        if _NOT_IN_HEADS.search(begun, max(0, self._scanned - 1)):
            raise BadFraming("a head with a bare line break or a NUL")
        self._scanned = len(begun)

    def _read(self, raw: bytes) -> None:
        first, *lines = raw.split(b"\r\n")
        found = _STATUS.fullmatch(first)
        if found is None:
            raise BadFraming("an answer that does not begin with HTTP/1.1 and a status")
        status = int(found[2])
        if status == 101 and not self._upgrade:
            raise BadFraming("a change of protocol that nobody asked for")
        headers = tuple(_field(line) for line in lines)
        if status < 200 and status != 101:
            self._interim += len(raw) + 4
            return
        self.head = ResponseHead(status, found[3] or b"", headers)
        self._frame(found[1] == b"1", status, headers)

    def _frame(self, modern: bool, status: int, headers: Headers) -> None:
        """How the body is to be read (section 6.3)."""
        options = b",".join(value for name, value in headers if name.lower() == b"connection")
        asked = {option.strip().lower() for option in options.split(b",")}
        self._lasting = modern and b"close" not in asked
        chunked, length = is_chunked(headers), content_length(headers)
        if chunked and (length is not None or not modern):
            raise BadFraming("an answer with two framings, or with one that its version lacks")
        if self._method == b"HEAD" or status in (101, 204, 304):
            self.body = ContentLengthReader(0)
        elif chunked:
            self.body = ChunkedReader()
        elif length is not None:
            self.body = ContentLengthReader(length)
        else:
            self.body = UntilCloseReader()
            self._lasting = False  # its end is the connection's


def _field(line: bytes) -> tuple[bytes, bytes]:
    """One header line; folded ones (section 5.2) are refused with the rest."""
    name, colon, value = line.partition(b":")
    if not colon or not _NAME.fullmatch(name) or _NOT_IN_VALUES.search(value):
        raise BadFraming("a header line that is none")
    return name, value.strip(b" \t")
