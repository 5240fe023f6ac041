"""The head of a request and of an answer, as values.

Everything is bytes as it was on the wire: names keep their case, values their order. In tunnels
heads travel as JSON, in which each byte is the character of the same number (Latin-1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus

import msgspec

from ctllm.common.json_decoder import decode_json

Headers = tuple[tuple[bytes, bytes], ...]

#: RFC 9110, section 9.1: whatever the serving side lets in; what it means is for Ollama to say.
_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class RequestHead(msgspec.Struct, frozen=True):
    """What is asked: `target` is path and query as sent, for example ``/api/chat``.

    Of a target in absolute form, path and query alone; its authority is the Host then.
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
        """The host, with its port if any, that the request is for; empty where none is named."""
        return get_header(self.headers, b"host") or b""


class ResponseHead(msgspec.Struct, frozen=True):
    """How it is answered: `status` from 200 to 599."""

    status: int
    reason: bytes = b""
    headers: Headers = ()


#: The standard reason phrases (RFC 9110, section 15), and those of statuses that it lacks.
_REASONS = {
    **{status.value: status.phrase.encode() for status in HTTPStatus},
    413: b"Content Too Large",
    422: b"Unprocessable Content",
    499: b"Client Closed Request",
}
_FIELD_VALUE = re.compile(rb"(?:[!-~](?:[\t -~]*[!-~])?)?")
_NOT_IN_FIELD_VALUE = re.compile(rb"^[\t ]+|[\t ]+$|[^\t -~]+")


def reason_phrase(status: int) -> bytes:
    """The standard reason phrase of `status`; nothing where there is none."""
    return _REASONS.get(status, b"")


def encode_field_value(value: bytes) -> bytes:
    """`value` as the value of a header of our own (RFC 9110, section 5.5).

    What cannot stand there is percent-encoded: control characters, bytes beyond ASCII, and space
    at either end.
    """
    if _FIELD_VALUE.fullmatch(value):
        return value
    return _NOT_IN_FIELD_VALUE.sub(_percent_encoded, value)


def _percent_encoded(found: re.Match[bytes]) -> bytes:
    return b"".join(b"%%%02X" % byte for byte in found[0])


def get_header(headers: Headers, name: bytes) -> bytes | None:
    """The value of the first header called `name` (lower case), or None."""
    for key, value in headers:
        if key.lower() == name:
            return value
    return None


def without_headers(headers: Headers, names: Iterable[bytes]) -> Headers:
    """The `headers` less those whose lower-case name is in `names`."""
    dropped = frozenset(names)
    return tuple(header for header in headers if header[0].lower() not in dropped)


class _RequestText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    resume: int = 0


class _AnswerText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]


def _text(headers: Headers) -> tuple[tuple[str, str], ...]:
    return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers)


def _bytes(headers: tuple[tuple[str, str], ...]) -> Headers:
    return tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in headers)


def encode_request(head: RequestHead, resume: int) -> bytes:
    """An OPEN frame's payload; `resume` is how many seconds a client may stay away (0: none)."""
    text = _RequestText(
        head.method.decode("latin-1"), head.target.decode("latin-1"), _text(head.headers), resume
    )
    return msgspec.json.encode(text)


def decode_request(payload: bytes) -> tuple[RequestHead, int]:
    """The reverse of `encode_request`; raises ValueError."""
    text = decode_json(payload, _RequestText)
    method, target = text.method.encode("latin-1"), text.target.encode("latin-1")
    if not _METHOD.fullmatch(method) or not target.startswith(b"/") or text.resume < 0:
        raise ValueError("a request head with an impossible method, target or resume time")
    if any(byte <= 0x20 or byte == 0x7F for byte in target):
        raise ValueError("a request target with characters that no URL has")
    return RequestHead(method, target, check_headers(_bytes(text.headers))), text.resume


def encode_response(head: ResponseHead) -> bytes:
    """A HEAD frame's payload."""
    text = _AnswerText(head.status, head.reason.decode("latin-1"), _text(head.headers))
    return msgspec.json.encode(text)


def decode_response(payload: bytes) -> ResponseHead:
    """The reverse of `encode_answer`; raises ValueError."""
    text = decode_json(payload, _AnswerText)
    if not 200 <= text.status <= 599:
        raise ValueError("an answer with an impossible status")
    reason = text.reason.encode("latin-1")
    check_headers(((b"reason", reason),))
    return ResponseHead(text.status, reason, check_headers(_bytes(text.headers)))


def check_headers(headers: Headers) -> Headers:
    """The same headers; raises ValueError where one would break out of its line."""
    for name, value in headers:
        if not name or any(byte <= 0x20 or byte >= 0x7F or byte == 0x3A for byte in name):
            raise ValueError("a header with an impossible name")
        if value.translate(None, b"\r\n\0") != value:
            raise ValueError("a header value with a line break or a NUL")
    return headers
