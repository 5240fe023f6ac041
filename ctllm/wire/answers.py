"""The API dialects: how each one says that something went wrong, before an answer and inside it.

Three dialects share one port: Ollama's own under ``/api``, OpenAI's under ``/v1`` (of which
``/v1/responses`` streams typed events), Anthropic's at ``/v1/messages``. A client raises its own
error only for its own dialect; an answer that merely stops may pass for a whole one.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from ctllm.errors import CtllmError

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


def _openai(error: CtllmError) -> dict[str, object]:
    fallback = "invalid_request_error" if error.status < 500 else "api_error"
    kind = _OPENAI_TYPES.get(error.status, fallback)
    return {"message": error.message, "type": kind, "param": None, "code": error.code}


def _anthropic(error: CtllmError) -> dict[str, object]:
    fallback = "invalid_request_error" if error.status < 500 else "api_error"
    kind = _ANTHROPIC_TYPES.get(error.status, fallback)
    return {"type": "error", "error": {"type": kind, "message": error.message}}


def error_body(dialect: Dialect, error: CtllmError) -> bytes:
    """The JSON body of an answer that is an error from the start."""
    if dialect is Dialect.OLLAMA:
        return msgspec.json.encode({"error": error.message})
    if dialect is Dialect.ANTHROPIC:
        return msgspec.json.encode(_anthropic(error))
    if dialect is Dialect.CTLLM:
        return msgspec.json.encode({"error": {"code": error.code, "message": error.message}})
    return msgspec.json.encode({"error": _openai(error)})


def error_in_stream(
    dialect: Dialect, content_type: bytes, error: CtllmError, last: bytes = b""
) -> bytes:
    """What to write into an answer that breaks off, or nothing where no words would be heard.

    `last` is the last piece that was sent: an answer may have stopped inside a line, and a line
    that is both half an object and an error would be neither, so such a line is ended first. One
    that ends with an error already needs no second: the stage before this one said what happened.
    """
    kind = content_type.partition(b";")[0].strip().lower()
    if _tells_error(last):
        return b""
    if kind == b"application/x-ndjson":
        return _line_end(last, b"\n") + error_body(dialect, error) + b"\n"
    if kind != b"text/event-stream":
        return b""
    start = _line_end(last, b"\n\n")
    if dialect is Dialect.ANTHROPIC:
        return start + b"event: error\ndata: " + msgspec.json.encode(_anthropic(error)) + b"\n\n"
    if dialect is Dialect.RESPONSES:
        told = {"type": "error", "code": error.code, "message": error.message, "param": None}
        return start + b"event: error\ndata: " + msgspec.json.encode(told) + b"\n\n"
    return start + b"data: " + error_body(dialect, error) + b"\n\n"


def _tells_error(last: bytes) -> bool:
    """Whether a piece of a stream ends with an error, in any dialect."""
    line = last.rstrip(b"\n").rpartition(b"\n")[2].removeprefix(b"data: ")
    return line.startswith((b'{"error":', b'{"type":"error",'))


def _line_end(last: bytes, end: bytes) -> bytes:
    return b"" if not last or last.endswith(end) else end
