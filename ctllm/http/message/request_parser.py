"""Request heads out of a stream of bytes, and the refusal of those that read two ways."""

from __future__ import annotations

import re

import h11

from ctllm.errors import BadRequest, RequestHeaderFieldsTooLarge
from ctllm.http.message.head import Headers, RequestHead, without_headers

#: What some servers take for a line break and others do not (RFC 9112, sections 2.2 and 5.2).
_BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")
_LISTED_LENGTH = re.compile(rb"\r\ncontent-length:[^\r\n]*,", re.IGNORECASE)
#: No client sends nearly as many, and each costs more to read than a kilobyte of anything else.
MAX_HEADERS = 250
#: Pieces of a body that nobody wants which are read so that its connection may go on.
MAX_DISCARDED_EVENTS = 64
_SLOPPY = re.compile(rb"(?<!\r)\n|\r(?!\n)|\r\n[ \t]|\0")
#: A request line (RFC 9112, section 3). A target may have bytes beyond ASCII: Ollama takes them.
_REQUEST_LINE = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e\x80-\xff]+) (HTTP/[0-9]\.[0-9])\r\n"
)
#: The beginning of one, before its end has come.
_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?: .*)?", re.DOTALL)
MAX_METHOD = 32
#: How TLS begins (RFC 8446, section 5.1): a record of a handshake.
_TLS = b"\x16"
#: The absolute form of a target (RFC 9112, section 3.2.2): authority, and path with query.
_ABSOLUTE_FORM = re.compile(rb"https?://([^/?]+)(.*)", re.IGNORECASE)
#: What a Host may be (RFC 9112, section 3.2): no userinfo, no path.
_HOST = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]+(?:%[0-9A-Za-z._~-]+)?\]|[0-9A-Za-z._~!$&'()*+,;=%-]*)(?::[0-9]*)?"
)


class RequestBuffer:
    """What was read of a connection and is not used yet; `limit` is a head's most bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = bytearray()
        self._has_line = False  # whether the first line was seen, and is one
        self._scanned = 0  # where no end of a head was found before

    def __len__(self) -> int:
        """How many bytes there are."""
        return len(self._bytes)

    def append(self, data: bytes) -> None:
        """More was read."""
        self._bytes += data

    def prepend(self, data: bytes) -> None:
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
        scanned, self._scanned = self._scanned, len(self._bytes)
        end = self._bytes.find(b"\r\n\r\n", max(0, scanned - 3))
        if (end + 4 if end >= 0 else len(self._bytes)) > self._limit:
            raise RequestHeaderFieldsTooLarge(
                f"the request line and headers exceed {self._limit} bytes"
            )
        if end < 0:
            self._check_beginning(scanned)
            return None
        if self._bytes.count(b"\n", 0, end) > MAX_HEADERS:
            raise RequestHeaderFieldsTooLarge(f"there are more than {MAX_HEADERS} headers")
        head = bytes(self._bytes[: end + 4])
        del self._bytes[: end + 4]
        self._scanned = 0
        self._has_line = False
        return head

    def _check_beginning(self, scanned: int) -> None:
        """Raise BadRequest for what cannot become a head: its end would be awaited in vain."""
        begun = self._bytes
        if begun[:1] == _TLS:
            raise BadRequest("this is HTTP, and you speak TLS: the address begins with http://")
        if _BARE_LINE_FEED.search(begun, max(0, scanned - 1)):
            raise BadRequest("a head with bare line feeds")
        if begun and not self._has_line:
            if b"\r\n" in begun:
                self._has_line = True
                split_target(bytes(begun))
            elif not _METHOD.fullmatch(begun[:MAX_METHOD]) and begun != b"\r":
                raise BadRequest("this does not begin with a request line of HTTP/1.1")


def discard_body(connection: h11.Connection, unread: RequestBuffer) -> None:
    """Take what has come of a body that nobody wanted, so that its connection may go on."""
    try:
        for _ in range(MAX_DISCARDED_EVENTS):
            if connection.their_state is not h11.SEND_BODY:
                return
            if connection.next_event() is h11.NEED_DATA:
                if not unread:
                    return
                connection.receive_data(unread.take_all())
    except h11.RemoteProtocolError:
        return  # then it does not go on


def split_target(raw: bytes) -> tuple[bytes, bytes]:
    """The target of the head `raw`, and the same head with ``/`` in its place.

    h11 takes targets in ASCII only, and does nothing with them. Raises BadRequest where there is
    no request line.
    """
    line = _REQUEST_LINE.match(raw)
    if line is None:
        raise BadRequest("this does not begin with a request line of HTTP/1.1")
    method, target, version = line.groups()
    return target, b"%b / %b\r\n%b" % (method, version, raw[line.end() :])


def check_request_head(event: h11.Request, target: bytes, raw: bytes) -> RequestHead:
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
    head = _origin_form(event.method, target, headers)
    if not _HOST.fullmatch(head.authority):
        raise BadRequest("a host that is none, or with a user's name before it")
    return head


def _origin_form(method: bytes, target: bytes, headers: Headers) -> RequestHead:
    """A head whose target is a path with its query, or ``*``.

    Of a target in absolute form the authority takes the place of Host, which a server must
    ignore beside it (RFC 9112, section 3.2.2): whoever judges the host judges what was asked for.
    """
    if target.startswith(b"/") or target == b"*":
        return RequestHead(method, target, headers)
    absolute = _ABSOLUTE_FORM.fullmatch(target)
    if absolute is None:
        raise BadRequest("a request target that is neither a path nor a URL")
    authority, rest = absolute.groups()
    path = rest if rest.startswith(b"/") else b"/" + rest
    return RequestHead(method, path, ((b"Host", authority), *without_headers(headers, (b"host",))))


#: What Python makes of bytes, at the end of some of h11's messages.
_REPR = re.compile(r":? ?\(?(?:bytearray\()?b['\"].*", re.DOTALL)


def describe_error(error: h11.ProtocolError) -> str:
    """What is wrong, for people: h11's words, without the bytes that it quotes as Python does."""
    return _REPR.sub("", str(error))
