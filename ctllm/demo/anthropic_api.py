"""Anthropic's dialect as Ollama speaks it: messages, made of blocks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from ctllm.demo.echo_model import Part, Prompt, Reply, Tool
from ctllm.demo.request_parser import count_images, decode_request, text_of
from ctllm.demo.response import SSE, ApiRequest, Response, ResponseFormat, generate_response
from ctllm.demo.responses_api import event
from ctllm.errors import BadRequest


class _Message(msgspec.Struct):
    role: str
    content: Any = None


class _Request(msgspec.Struct, kw_only=True):
    model: str = ""
    max_tokens: int = 0
    messages: list[_Message] = []
    stream: bool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None


def error_json(message: str, status: int) -> dict[str, Any]:
    """Give the body of an error in this dialect."""
    kinds = {400: "invalid_request_error", 404: "not_found_error", 503: "overloaded_error"}
    return {"type": "error", "error": {"type": kinds.get(status, "api_error"), "message": message}}


class MessagesFormat(ResponseFormat):
    """The life of one message: its blocks begin, grow and stop, then the message does."""

    media_type = SSE

    def __init__(self, call: ApiRequest, request: _Request, ask: Prompt) -> None:
        self._key = call.body_sha256[:12]
        self._model = request.model
        self._prompt_tokens = max(1, len(ask.text.split()))
        self._index = 0

    def preamble_lines(self) -> Iterable[bytes]:
        """Start the message."""
        usage = {"input_tokens": self._prompt_tokens, "output_tokens": 0}
        yield _event("message_start", message=self._message([], None, usage))

    def part_start_lines(self, part: Part) -> Iterable[bytes]:
        """Start a block."""
        block = self._block(part, "") | ({"input": {}} if part.kind == "call" else {})
        yield _event("content_block_start", index=self._index, content_block=block)

    def word_line(self, part: Part, word: str) -> bytes:
        """Add to the block."""
        name, field = _DELTA[part.kind]
        return _event("content_block_delta", index=self._index, delta={"type": name, field: word})

    def part_end_lines(self, part: Part) -> Iterable[bytes]:
        """Stop the block; thinking is signed first."""
        if part.kind == "thinking":
            signed = {"type": "signature_delta", "signature": _SIGNATURE}
            yield _event("content_block_delta", index=self._index, delta=signed)
        yield _event("content_block_stop", index=self._index)
        self._index += 1

    def final_lines(self, said: Reply) -> Iterable[bytes]:
        """Say why it stopped, and stop the message."""
        delta = {"stop_reason": _reason(said), "stop_sequence": None}
        yield _event("message_delta", delta=delta, usage=_usage(said))
        yield _event("message_stop")

    def as_json(self, said: Reply) -> Any:
        """Give the message with all its blocks."""
        blocks = [self._block(part, part.text) for part in said.parts]
        return self._message(blocks, _reason(said), _usage(said))

    def error_line(self, message: str) -> bytes:
        """Give the event for an error."""
        return event("error", error_json(message, 500))

    def _message(self, blocks: list[Any], reason: str | None, usage: Any) -> dict[str, Any]:
        return {
            "id": f"msg_{self._key}",
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": blocks,
            "stop_reason": reason,
            "stop_sequence": None,
            "usage": usage,
        }

    def _block(self, part: Part, text: str) -> dict[str, Any]:
        if part.kind == "thinking":
            return {"type": "thinking", "thinking": text, "signature": _SIGNATURE if text else ""}
        if part.kind == "text":
            return {"type": "text", "text": text}
        given = msgspec.Raw((text or "{}").encode())
        return {"type": "tool_use", "id": f"toolu_{self._key}", "name": part.name, "input": given}


_SIGNATURE = "demo"
_DELTA = {
    "thinking": ("thinking_delta", "thinking"),
    "text": ("text_delta", "text"),
    "call": ("input_json_delta", "partial_json"),
}


def _event(name: str, **fields: Any) -> bytes:
    return event(name, {"type": name} | fields)


def _reason(said: Reply) -> str:
    return (
        "tool_use"
        if said.tool_call
        else {"stop": "end_turn", "length": "max_tokens"}[said.finish_reason]
    )


def _usage(said: Reply) -> dict[str, int]:
    return {"input_tokens": said.prompt_tokens, "output_tokens": said.completion_tokens}


def messages(call: ApiRequest) -> Response:
    """POST /v1/messages."""
    request = decode_request(call.body, _Request)
    call.models.find(request.model)
    if request.max_tokens <= 0:
        raise BadRequest("max_tokens is required and must be positive")
    if not request.messages:
        raise BadRequest("messages is required")
    ask = _ask(request)
    return generate_response(
        call, ask, MessagesFormat(call, request, ask), stream=bool(request.stream)
    )


def _ask(request: _Request) -> Prompt:
    content = request.messages[-1].content
    parts = content if isinstance(content, list) else []
    answered = any(isinstance(p, dict) and p.get("type") == "tool_result" for p in parts)
    silent = answered or (request.tool_choice or {}).get("type") == "none"
    given = () if silent else request.tools or ()
    return Prompt(
        model=request.model,
        text=text_of(content),
        images=sum(count_images(message.content) for message in request.messages),
        tools=tuple(Tool(str(t.get("name", "")), t.get("input_schema") or {}) for t in given),
        think=(request.thinking or {}).get("type") in ("enabled", "adaptive"),
        schema=_schema(request.output_config),
        max_words=request.max_tokens,
    )


def _schema(config: dict[str, Any] | None) -> dict[str, Any] | None:
    match config:
        case {"format": {"type": "json_schema", "schema": dict(schema)}}:
            return schema
    return None
