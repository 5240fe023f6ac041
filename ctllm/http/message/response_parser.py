"""Parses the response to one HTTP/1.1 request (RFC 9112, sections 4 to 6), sans-IO.

It is strict about what two clients may read differently: line breaks, header names, lengths. An
invalid response is an error; nothing is guessed.
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

#: The largest head of a response, in bytes, with the interim responses before it.
MAX_HEAD = 128 * 1024

_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: ([\t \x21-\x7e\x80-\xff]*))?")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_STATUS_LINE = b"HTTP/1.1 200 "
#: How many bytes of an incomplete head are searched for a status line.
MAX_STATUS_LINE = 1024
_NOT_IN_HEADS = re.compile(rb"(?<!\r)\n|\r(?=[^\n])|\0")
_NOT_IN_VALUES = re.compile(rb"[\0\r\n]")


class ResponseParser:
    """Parses one response. `head` and `body` are set once the final head is complete.

    With `upgrade`, 101 is a final head, too: what follows it is another protocol.
    """

    def __init__(self, method: bytes, upgrade: bool = False) -> None:
        self._method = method
        self._upgrade = upgrade
        self._unread = bytearray()
        self._scanned = 0  # how many bytes of an incomplete head are checked
        self._interim_bytes = 0  # of interim responses
        self._is_persistent = False
        self.head: ResponseHead | None = None
        self.body: BodyReader = ContentLengthReader(0)

    @property
    def has_started(self) -> bool:
        """Whether any data was received."""
        return self.head is not None or bool(self._unread) or bool(self._interim_bytes)

    @property
    def is_reusable(self) -> bool:
        """Whether the connection can be used again after the response."""
        return self._is_persistent and self.body.is_complete and not self.body.trailing_data

    @property
    def is_close_delimited(self) -> bool:
        """Whether the response ends with its connection only (RFC 9112, section 6.3)."""
        return isinstance(self.body, UntilCloseReader)

    def feed_head(self, data: bytes) -> bytes | None:
        """Parse `data` up to the end of the final head; return what follows it.

        Return None while the head is incomplete. Raises BadFraming for an invalid response.
        """
        self._unread += data
        while self.head is None:
            end = self._unread.find(b"\r\n\r\n")
            if max(end, len(self._unread) if end < 0 else 0) + self._interim_bytes > MAX_HEAD:
                raise BadFraming(f"a head of more than {MAX_HEAD} bytes")
            if end < 0:
                self._check_beginning()
                return None
            self._parse_head(bytes(self._unread[:end]))
            del self._unread[: end + 4]
            self._scanned = 0
        rest = bytes(self._unread)
        self._unread = bytearray()
        return rest

    def _check_beginning(self) -> None:
        """Raise BadFraming for what cannot become a head, at once and not after a timeout."""
        data = self._unread
        line, ended, _ = data[:MAX_STATUS_LINE].partition(b"\r\n")
        status = line if ended else line[:13] + _STATUS_LINE[len(line) :]
        if not _STATUS.fullmatch(status):
            raise BadFraming("a response that does not begin with HTTP/1.1 and a status")
        if _NOT_IN_HEADS.search(data, max(0, self._scanned - 1)):
            raise BadFraming("a head with a bare line break or a NUL")
        self._scanned = len(data)

    def _parse_head(self, raw: bytes) -> None:
        first, *lines = raw.split(b"\r\n")
        match = _STATUS.fullmatch(first)
        if match is None:
            raise BadFraming("a response that does not begin with HTTP/1.1 and a status")
        status = int(match[2])
        if status == 101 and not self._upgrade:
            raise BadFraming("a change of protocol without a request for it")
        headers = tuple(_parse_header(line) for line in lines)
        if status < 200 and status != 101:
            self._interim_bytes += len(raw) + 4
            return
        self.head = ResponseHead(status, match[3] or b"", headers)
        self._choose_body_reader(match[1] == b"1", status, headers)

    def _choose_body_reader(self, is_http_1_1: bool, status: int, headers: Headers) -> None:
        """Set `body` (RFC 9112, section 6.3); raises BadFraming."""
        connection = b",".join(value for name, value in headers if name.lower() == b"connection")
        options = {option.strip().lower() for option in connection.split(b",")}
        self._is_persistent = is_http_1_1 and b"close" not in options
        chunked, length = is_chunked(headers), content_length(headers)
        if chunked and (length is not None or not is_http_1_1):
            raise BadFraming("a response with two framings, or with one that its version lacks")
        if self._method == b"HEAD" or status in (101, 204, 304):
            self.body = ContentLengthReader(0)
        elif chunked:
            self.body = ChunkedReader()
        elif length is not None:
            self.body = ContentLengthReader(length)
        else:
            self.body = UntilCloseReader()
            self._is_persistent = False


def _parse_header(line: bytes) -> tuple[bytes, bytes]:
    """Parse a header line; raises BadFraming, also for a folded one (RFC 9112, section 5.2)."""
    name, colon, value = line.partition(b":")
    if not colon or not _NAME.fullmatch(name) or _NOT_IN_VALUES.search(value):
        raise BadFraming("an invalid header line")
    return name, value.strip(b" \t")
