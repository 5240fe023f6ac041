"""The heads of HTTP requests and responses, as values.

All fields are bytes as they were received: header names keep their case, headers their order. In a
tunnel a head is JSON, in which each byte is the character of the same number (Latin-1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus

import msgspec

from ctllm.common.json_decoder import decode_json

Headers = tuple[tuple[bytes, bytes], ...]

#: RFC 9110, section 9.1. Which methods mean something is up to Ollama.
_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class RequestHead(msgspec.Struct, frozen=True):
    """The head of a request. `target` is path and query as sent, for example ``/api/chat``.

    Of a target in absolute form it is path and query only; the authority is in the Host header.
    """

    method: bytes
    target: bytes
    headers: Headers = ()

    @property
    def path(self) -> bytes:
        """The target without its query."""
        return self.target.partition(b"?")[0]

    @property
    def authority(self) -> bytes:
        """The Host, with its port if any; empty without one."""
        return get_header(self.headers, b"host") or b""


class ResponseHead(msgspec.Struct, frozen=True):
    """The head of a response. `status` is 200 to 599."""

    status: int
    reason: bytes = b""
    headers: Headers = ()


#: The reason phrases of RFC 9110, section 15, and those of other statuses.
_REASONS = {
    **{status.value: status.phrase.encode() for status in HTTPStatus},
    413: b"Content Too Large",
    422: b"Unprocessable Content",
    499: b"Client Closed Request",
}
_FIELD_VALUE = re.compile(rb"(?:[!-~](?:[\t -~]*[!-~])?)?")
_NOT_IN_FIELD_VALUE = re.compile(rb"^[\t ]+|[\t ]+$|[^\t -~]+")


def reason_phrase(status: int) -> bytes:
    """Return the standard reason phrase of `status`, or nothing for an unknown one."""
    return _REASONS.get(status, b"")


def encode_field_value(value: bytes) -> bytes:
    """Encode `value` as a header's value (RFC 9110, section 5.5).

    Control characters, bytes beyond ASCII, and space at either end are percent-encoded.
    """
    if _FIELD_VALUE.fullmatch(value):
        return value
    return _NOT_IN_FIELD_VALUE.sub(_percent_encode, value)


def _percent_encode(match: re.Match[bytes]) -> bytes:
    return b"".join(b"%%%02X" % byte for byte in match[0])


def get_header(headers: Headers, name: bytes) -> bytes | None:
    """Return the value of the first header called `name` (lower case), or None."""
    for key, value in headers:
        if key.lower() == name:
            return value
    return None


def without_headers(headers: Headers, names: Iterable[bytes]) -> Headers:
    """Return `headers` without those whose lower-case name is in `names`."""
    removed = frozenset(names)
    return tuple(header for header in headers if header[0].lower() not in removed)


class _RequestJson(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    resume: int = 0


class _ResponseJson(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]


def _to_text(headers: Headers) -> tuple[tuple[str, str], ...]:
    return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers)


def _to_bytes(headers: tuple[tuple[str, str], ...]) -> Headers:
    return tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in headers)


def encode_request(head: RequestHead, resume: int) -> bytes:
    """Encode the payload of an OPEN frame.

    `resume` is how many seconds the client may be disconnected (0: it cancels the request).
    """
    json = _RequestJson(
        head.method.decode("latin-1"), head.target.decode("latin-1"), _to_text(head.headers), resume
    )
    return msgspec.json.encode(json)


def decode_request(payload: bytes) -> tuple[RequestHead, int]:
    """Decode the payload of an OPEN frame; raises ValueError."""
    decoded = decode_json(payload, _RequestJson)
    method, target = decoded.method.encode("latin-1"), decoded.target.encode("latin-1")
    if not _METHOD.fullmatch(method) or not target.startswith(b"/") or decoded.resume < 0:
        raise ValueError("a request head with an invalid method, target or resume time")
    if any(byte <= 0x20 or byte == 0x7F for byte in target):
        raise ValueError("a request target with characters that are not allowed in a URL")
    return RequestHead(method, target, check_headers(_to_bytes(decoded.headers))), decoded.resume


def encode_request_head(head: RequestHead) -> bytes:
    """Return `head` as a client of HTTP/1.1 would send it."""
    lines = [b"%b: %b\r\n" % header for header in head.headers]
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (head.method, head.target, b"".join(lines))


def encode_response(head: ResponseHead) -> bytes:
    """Encode the payload of a HEAD frame."""
    json = _ResponseJson(head.status, head.reason.decode("latin-1"), _to_text(head.headers))
    return msgspec.json.encode(json)


def decode_response(payload: bytes) -> ResponseHead:
    """Decode the payload of a HEAD frame; raises ValueError."""
    decoded = decode_json(payload, _ResponseJson)
    if not 200 <= decoded.status <= 599:
        raise ValueError("a response with an invalid status")
    reason = decoded.reason.encode("latin-1")
    check_headers(((b"reason", reason),))
    return ResponseHead(decoded.status, reason, check_headers(_to_bytes(decoded.headers)))


def check_headers(headers: Headers) -> Headers:
    """Return `headers`; raises ValueError if a name is invalid or a value has a line break."""
    for name, value in headers:
        if not name or any(byte <= 0x20 or byte >= 0x7F or byte == 0x3A for byte in name):
            raise ValueError("an invalid header name")
        if value.translate(None, b"\r\n\0") != value:
            raise ValueError("a header value with a line break or a NUL")
    return headers
