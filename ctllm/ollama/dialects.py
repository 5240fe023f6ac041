"""The API dialects: how each one says that something went wrong, before an answer and inside it.

Three dialects share one port: Ollama's own under ``/api``, OpenAI's under ``/v1`` (of which
``/v1/responses`` streams typed events), Anthropic's at ``/v1/messages``. A client raises its own
error only for its own dialect; an answer that merely stops may pass for a whole one.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.errors import CtllmError
from ctllm.ollama.truncated_json import missing_suffix

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
    """Whose words a client understands."""

    OLLAMA = "ollama"
    OPENAI = "openai"
    RESPONSES = "responses"
    ANTHROPIC = "anthropic"
    CTLLM = "ctllm"


def dialect_of(path: bytes) -> Dialect:
    """The dialect spoken at `path` (without query)."""
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


def error_body(dialect: Dialect, error: CtllmError) -> bytes:
    """The JSON body of an answer that is an error from the start."""
    if dialect is Dialect.OLLAMA:
        return msgspec.json.encode({"error": error.message})
    if dialect is Dialect.ANTHROPIC:
        return msgspec.json.encode(_anthropic_error(error))
    if dialect is Dialect.CTLLM:
        return msgspec.json.encode({"error": {"code": error.code, "message": error.message}})
    return msgspec.json.encode({"error": _openai_error(error)})


def is_line_stream(content_type: bytes) -> bool:
    """Whether clients read a stream of this type line by line, and so hear an error in it."""
    return _media_type(content_type) in (_NDJSON, _EVENTS)


def _media_type(content_type: bytes) -> bytes:
    return content_type.partition(b";")[0].strip().lower()


def error_in_stream(
    dialect: Dialect, content_type: bytes, error: CtllmError, last: bytes = b""
) -> bytes:
    """What to write into an answer that breaks off, or nothing where no words would be heard.

    `last` is what was sent last, from the beginning of a line on. A line that is cut off is
    completed first, for a client that could not read it would not hear what follows it. An answer
    that ends with an error already needs no second: the stage before this one said what happened.
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
    """The error as a line of NDJSON after `last`, or as a member of the line that is cut off."""
    body = error_body(dialect, error)
    line = last.rpartition(b"\n")[2]
    if not line:
        return body + b"\n"
    completed = missing_suffix(line, body[1:-1])
    return completed + b"\n" if completed else b"\n" + body + b"\n"


def _sse_error(dialect: Dialect, error: CtllmError, last: bytes) -> bytes:
    """The error as a server-sent event after `last`.

    Where `last` breaks off in an event's data, that has the error, too: nobody takes what is there
    of an event for the whole. An event without data is not ended; the error takes its place.
    """
    body = told = error_body(dialect, error)
    if dialect is Dialect.RESPONSES:
        fields = {"type": "error", "code": error.code, "message": error.message, "param": None}
        told = msgspec.json.encode(fields)
    has_name = dialect in (Dialect.ANTHROPIC, Dialect.RESPONSES)
    event = (b"event: error\n" if has_name else b"") + b"data: " + told + b"\n\n"
    *lines, line = last.rpartition(b"\n\n")[2].split(b"\n")
    rest = b"data:"[len(line) :] if line and b"data:".startswith(line) else b""
    field, _, value = (line + rest).partition(b":")
    if field != b"data":
        has_data = any(each.startswith(b"data:") for each in lines)
        return (b"\n" if line else b"") + (b"\n" if has_data else b"") + event
    completed = missing_suffix(value, body[1:-1]) if value.strip() else told
    if completed and not has_name:
        return rest + completed + b"\n\n"
    return rest + (completed or b"") + b"\n\n" + event


def _is_error(line: bytes) -> bool:
    """Whether a line of a stream is an error, in any dialect."""
    try:
        said = decode_json(line, dict[str, msgspec.Raw])
    except InvalidJson:
        return False
    error, kind = (bytes(said.get(name, b"null")) for name in ("error", "type"))
    return error != b"null" or kind == b'"error"'
