"""Parses request heads, and refuses those that another server may read differently."""

from __future__ import annotations

import re

import h11

from ctllm.errors import BadRequest, RequestHeaderFieldsTooLarge
from ctllm.http.message.head import Headers, RequestHead, without_headers

#: Some servers accept it as a line break (RFC 9112, section 2.2).
_BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")
_LISTED_LENGTH = re.compile(rb"\r\ncontent-length:[^\r\n]*,", re.IGNORECASE)
#: No later stage sends on a body of such a length.
_LONG_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*[0-9]{19}", re.IGNORECASE)
#: No client sends nearly as many, and each costs more time than a kilobyte of anything else.
MAX_HEADERS = 250
#: How many parts of an unwanted body are read so that its connection can be used again.
MAX_DISCARDED_EVENTS = 64
#: A request line (RFC 9112, section 3). Ollama accepts bytes beyond ASCII in a target.
_REQUEST_LINE = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e\x80-\xff]+) (HTTP/[0-9]\.[0-9])\r\n"
)
#: The beginning of a request line.
_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?: .*)?", re.DOTALL)
MAX_METHOD = 32
#: The first byte of TLS (RFC 8446, section 5.1): a record of its handshake.
_TLS = b"\x16"
#: The absolute form of a target (RFC 9112, section 3.2.2): authority, and path with query.
_ABSOLUTE_FORM = re.compile(rb"https?://([^/?]+)(.*)", re.IGNORECASE)
#: A Host (RFC 9112, section 3.2): without userinfo and path.
_HOST = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]+(?:%[0-9A-Za-z._~-]+)?\]|[0-9A-Za-z._~!$&'()*+,;=%-]*)(?::[0-9]*)?"
)


class RequestBuffer:
    """The received bytes of a connection that are not parsed. A head has `limit` bytes at most."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = bytearray()
        self._has_line = False  # whether the request line is there, and valid
        self._scanned = 0  # how many bytes have no end of a head

    def __len__(self) -> int:
        """Return the number of bytes."""
        return len(self._bytes)

    def append(self, data: bytes) -> None:
        """Add received bytes."""
        self._bytes += data

    def prepend(self, data: bytes) -> None:
        """Put back bytes that were taken."""
        self._bytes[:0] = data

    def take_all(self) -> bytes:
        """Return all bytes, and remove them."""
        taken = bytes(self._bytes)
        self._bytes.clear()
        return taken

    def take_head(self) -> bytes | None:
        """Return the next head, and remove it; return None if it is incomplete.

        Raises RequestHeaderFieldsTooLarge, or BadRequest for what cannot become a head.
        """
        while self._bytes[:2] == b"\r\n":
            del self._bytes[:2]  # RFC 9112, section 2.2: blank lines before a request are ignored
        scanned, self._scanned = self._scanned, len(self._bytes)
        end = self._bytes.find(b"\r\n\r\n", max(0, scanned - 3))
        if (end + 4 if end >= 0 else len(self._bytes)) > self._limit:
            raise RequestHeaderFieldsTooLarge(
                f"The request line and headers exceed {self._limit} bytes."
            )
        if end < 0:
            self._check_beginning(scanned)
            return None
        if self._bytes.count(b"\n", 0, end) > MAX_HEADERS:
            raise RequestHeaderFieldsTooLarge(f"The request has more than {MAX_HEADERS} headers.")
        head = bytes(self._bytes[: end + 4])
        del self._bytes[: end + 4]
        self._scanned = 0
        self._has_line = False
        return head

    def _check_beginning(self, scanned: int) -> None:
        """Raise BadRequest for what cannot become a head, at once and not after a timeout."""
        data = self._bytes
        if data[:1] == _TLS:
            raise BadRequest("This port is for HTTP, without TLS. The URL begins with http://.")
        if _BARE_LINE_FEED.search(data, max(0, scanned - 1)):
            raise BadRequest("The head has a line feed without a carriage return.")
        if data and not self._has_line:
            if b"\r\n" in data:
                self._has_line = True
                split_target(bytes(data))
            elif not _METHOD.fullmatch(data[:MAX_METHOD]) and data != b"\r":
                raise BadRequest("The request does not begin with a request line of HTTP/1.1.")


def discard_body(connection: h11.Connection, buffer: RequestBuffer) -> None:
    """Drop what was received of an unwanted body, so that its connection can be used again."""
    try:
        for _ in range(MAX_DISCARDED_EVENTS):
            if connection.their_state is not h11.SEND_BODY:
                return
            if connection.next_event() is h11.NEED_DATA:
                if not buffer:
                    return
                connection.receive_data(buffer.take_all())
    except h11.RemoteProtocolError:
        return  # the connection cannot be used again


def split_target(raw: bytes) -> tuple[bytes, bytes]:
    """Return the target of the head `raw`, and the head with ``/`` in its place.

    h11 accepts targets in ASCII only, and does not use them. Raises BadRequest without a request
    line.
    """
    line = _REQUEST_LINE.match(raw)
    if line is None:
        raise BadRequest("The request does not begin with a request line of HTTP/1.1.")
    method, target, version = line.groups()
    return target, b"%b / %b\r\n%b" % (method, version, raw[line.end() :])


def check_request_head(event: h11.Request, target: bytes, raw: bytes) -> RequestHead:
    """Return the head that h11 read from `raw` as `event`.

    Raises BadRequest where another server may read another request from `raw`, which is how
    requests are smuggled (RFC 9112, section 11.2).
    """
    if _is_ambiguous(raw):
        raise BadRequest("The head has a bare line break, a folded line or a NUL.")
    headers = tuple(event.headers.raw_items())
    names = [name.lower() for name, _ in headers]
    if b"transfer-encoding" in names and b"content-length" in names:
        raise BadRequest("The request has both a Content-Length and a Transfer-Encoding.")
    if b"content-length" in names:
        _check_content_length(raw)
    if event.http_version not in (b"1.0", b"1.1"):
        raise BadRequest("The version must be HTTP/1.1.")
    if event.http_version == b"1.0" and b"transfer-encoding" in names:
        raise BadRequest("The request has a Transfer-Encoding, which HTTP/1.0 lacks.")
    head = _origin_form(event.method, target, headers)
    if not _HOST.fullmatch(head.authority):
        raise BadRequest("The Host is invalid, or has a user name.")
    return head


def _is_ambiguous(raw: bytes) -> bool:
    """Whether servers read line breaks differently (RFC 9112, sections 2.2 and 5.2), or a NUL."""
    breaks = raw.count(b"\r\n")
    return (
        raw.count(b"\n") != breaks
        or raw.count(b"\r") != breaks
        or b"\r\n " in raw
        or b"\r\n\t" in raw
        or b"\0" in raw
    )


def _check_content_length(raw: bytes) -> None:
    """Raise BadRequest where h11 has merged several lengths that are equal."""
    if raw.lower().count(b"\r\ncontent-length:") > 1:
        raise BadRequest("The request has two Content-Length headers.")
    if _LISTED_LENGTH.search(raw):  # such as "5, 5"
        raise BadRequest("The Content-Length of the request is a list.")
    if _LONG_LENGTH.search(raw):
        raise BadRequest("The Content-Length of the request has more than 18 digits.")


def _origin_form(method: bytes, target: bytes, headers: Headers) -> RequestHead:
    """Return a head whose target is a path with its query, or ``*``.

    The authority of a target in absolute form replaces the Host header, which a server must ignore
    then (RFC 9112, section 3.2.2): so checks of the Host check the authority.
    """
    if target.startswith(b"/") or target == b"*":
        return RequestHead(method, target, headers)
    absolute = _ABSOLUTE_FORM.fullmatch(target)
    if absolute is None:
        raise BadRequest("The request target is neither a path nor a URL.")
    authority, rest = absolute.groups()
    path = rest if rest.startswith(b"/") else b"/" + rest
    return RequestHead(method, path, ((b"Host", authority), *without_headers(headers, (b"host",))))


#: The representation of bytes that ends some messages of h11.
_REPR = re.compile(r":? ?\(?(?:bytearray\()?b['\"].*", re.DOTALL)


def describe_error(error: h11.ProtocolError) -> str:
    """Return the message of `error`, without the bytes that h11 quotes."""
    return _REPR.sub("", str(error))
