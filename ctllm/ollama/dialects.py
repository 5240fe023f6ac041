"""Errors in the dialects of Ollama's API: as a whole response, and within a streamed one.

Ollama's own dialect is under ``/api``, OpenAI's under ``/v1`` (``/v1/responses`` streams typed
events) and Anthropic's at ``/v1/messages``. Clients only recognize errors of their dialect, and may
take a response that merely ends for a complete one.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.errors import CtllmError, SignInRequired
from ctllm.ollama.json_completion import missing_suffix

_OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_ANTHROPIC_TYPES = {
    **_OPENAI_TYPES,
    413: "request_too_large",
    503: "overloaded_error",
}


_NDJSON = b"application/x-ndjson"
_EVENTS = b"text/event-stream"


class Dialect(Enum):
    """The dialect that determines the format of errors."""

    OLLAMA = "ollama"
    OPENAI = "openai"
    RESPONSES = "responses"
    ANTHROPIC = "anthropic"
    CTLLM = "ctllm"


def dialect_of(path: bytes) -> Dialect:
    """Return the dialect of `path`, which has no query."""
    if path.startswith(b"/v1/messages"):
        return Dialect.ANTHROPIC
    if path.startswith(b"/v1/responses"):
        return Dialect.RESPONSES
    if path.startswith(b"/v1/"):
        return Dialect.OPENAI
    if path.startswith((b"/ctllm/", b"/ws/", b"/health")):
        return Dialect.CTLLM
    return Dialect.OLLAMA


def _openai_error(error: CtllmError) -> dict[str, object]:
    fallback = "invalid_request_error" if error.status < 500 else "api_error"
    kind = _OPENAI_TYPES.get(error.status, fallback)
    return {"message": error.message, "type": kind, "param": None, "code": error.code}


def _anthropic_error(error: CtllmError) -> dict[str, object]:
    fallback = "invalid_request_error" if error.status < 500 else "api_error"
    kind = _ANTHROPIC_TYPES.get(error.status, fallback)
    return {"type": "error", "error": {"type": kind, "message": error.message}}


def _ollama_error(error: CtllmError) -> dict[str, object]:
    link = {"signin_url": error.signin_url} if isinstance(error, SignInRequired) else {}
    return {"error": error.message, **link}


def error_body(dialect: Dialect, error: CtllmError) -> bytes:
    """Return the JSON body of a response with an error status."""
    if dialect is Dialect.OLLAMA:
        return msgspec.json.encode(_ollama_error(error))
    if dialect is Dialect.ANTHROPIC:
        return msgspec.json.encode(_anthropic_error(error))
    if dialect is Dialect.CTLLM:
        return msgspec.json.encode({"error": {"code": error.code, "message": error.message}})
    return msgspec.json.encode({"error": _openai_error(error)})


def is_line_stream(content_type: bytes) -> bool:
    """Return whether a stream of this type has lines or events, so that an error can be added."""
    return _media_type(content_type) in (_NDJSON, _EVENTS)


def _media_type(content_type: bytes) -> bytes:
    return content_type.partition(b";")[0].strip().lower()


def error_in_stream(
    dialect: Dialect, content_type: bytes, error: CtllmError, last: bytes = b""
) -> bytes:
    """Return what to add to an incomplete response to report `error`, possibly nothing.

    `last` is the end of what was sent, from the start of a line. An incomplete line is completed
    first, because a client that cannot parse it does not read on. A response that already ends
    with an error gets no second one.
    """
    kind = _media_type(content_type)
    line = last.rstrip(b"\n").rpartition(b"\n")[2]
    if kind == _NDJSON:
        return b"" if _is_error(line) else _ndjson_error(dialect, error, last)
    if kind != _EVENTS:
        return b""
    ended = last.endswith(b"\n")
    return b"" if ended and _is_error(line.partition(b":")[2]) else _sse_error(dialect, error, last)


def _ndjson_error(dialect: Dialect, error: CtllmError, last: bytes) -> bytes:
    """Return the error as a line of NDJSON, or as a member of the incomplete line in `last`."""
    body = error_body(dialect, error)
    line = last.rpartition(b"\n")[2]
    if not line:
        return body + b"\n"
    completed = missing_suffix(line, body[1:-1])
    return completed + b"\n" if completed else b"\n" + body + b"\n"


def _sse_error(dialect: Dialect, error: CtllmError, last: bytes) -> bytes:
    """Return the error as a server-sent event after `last`.

    If `last` ends within the data of an event, that event gets the error as well, so that it does
    not pass for a complete one. An incomplete event without data is replaced by the error.
    """
    body = data = error_body(dialect, error)
    if dialect is Dialect.RESPONSES:
        fields = {"type": "error", "code": error.code, "message": error.message, "param": None}
        data = msgspec.json.encode(fields)
    has_name = dialect in (Dialect.ANTHROPIC, Dialect.RESPONSES)
    event = (b"event: error\n" if has_name else b"") + b"data: " + data + b"\n\n"
    *lines, line = last.rpartition(b"\n\n")[2].split(b"\n")
    rest = b"data:"[len(line) :] if line and b"data:".startswith(line) else b""
    field, _, value = (line + rest).partition(b":")
    if field != b"data":
        has_data = any(each.startswith(b"data:") for each in lines)
        return (b"\n" if line else b"") + (b"\n" if has_data else b"") + event
    completed = missing_suffix(value, body[1:-1]) if value.strip() else data
    if completed and not has_name:
        return rest + completed + b"\n\n"
    return rest + (completed or b"") + b"\n\n" + event


def _is_error(line: bytes) -> bool:
    """Return whether a line of a stream is an error in any dialect."""
    try:
        fields = decode_json(line, dict[str, msgspec.Raw])
    except InvalidJson:
        return False
    error, kind = (bytes(fields.get(name, b"null")) for name in ("error", "type"))
    return error != b"null" or kind == b'"error"'
