"""Anthropic's dialect as Ollama implements it: messages of content blocks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from ctllm.common.json_decoder import JsonObject
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
    tools: list[JsonObject] | None = None
    tool_choice: JsonObject | None = None
    thinking: JsonObject | None = None
    output_config: JsonObject | None = None


def error_json(message: str, status: int) -> JsonObject:
    """Return the body of an error in this dialect."""
    kinds = {400: "invalid_request_error", 404: "not_found_error", 503: "overloaded_error"}
    return {"type": "error", "error": {"type": kinds.get(status, "api_error"), "message": message}}


class MessagesFormat(ResponseFormat):
    """The events of one message and its content blocks."""

    media_type = SSE

    def __init__(self, request: ApiRequest, body: _Request, prompt: Prompt) -> None:
        self._key = request.body_sha256[:12]
        self._model = body.model
        self._prompt_tokens = max(1, len(prompt.text.split()))
        self._index = 0

    def preamble_lines(self) -> Iterable[bytes]:
        """Return the event that starts the message."""
        usage = {"input_tokens": self._prompt_tokens, "output_tokens": 0}
        yield _event("message_start", message=self._message([], None, usage))

    def part_start_lines(self, part: Part) -> Iterable[bytes]:
        """Return the event that starts a block."""
        block = self._block(part, "") | ({"input": {}} if part.kind == "call" else {})
        yield _event("content_block_start", index=self._index, content_block=block)

    def word_line(self, part: Part, word: str) -> bytes:
        """Return the event that adds a word to the block."""
        name, field = _DELTA[part.kind]
        return _event("content_block_delta", index=self._index, delta={"type": name, field: word})

    def part_end_lines(self, part: Part) -> Iterable[bytes]:
        """Return the events that stop the block. A thinking block is signed first."""
        if part.kind == "thinking":
            signed = {"type": "signature_delta", "signature": _SIGNATURE}
            yield _event("content_block_delta", index=self._index, delta=signed)
        yield _event("content_block_stop", index=self._index)
        self._index += 1

    def final_lines(self, reply: Reply) -> Iterable[bytes]:
        """Return the events that give the stop reason and stop the message."""
        delta = {"stop_reason": _finish_reason(reply), "stop_sequence": None}
        yield _event("message_delta", delta=delta, usage=_usage(reply))
        yield _event("message_stop")

    def as_json(self, reply: Reply) -> JsonObject:
        """Return the complete message."""
        blocks = [self._block(part, part.text) for part in reply.parts]
        return self._message(blocks, _finish_reason(reply), _usage(reply))

    def _message(
        self, blocks: list[JsonObject], reason: str | None, usage: JsonObject
    ) -> JsonObject:
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

    def _block(self, part: Part, text: str) -> JsonObject:
        if part.kind == "thinking":
            return {"type": "thinking", "thinking": text, "signature": _SIGNATURE if text else ""}
        if part.kind == "text":
            return {"type": "text", "text": text}
        offered = msgspec.Raw((text or "{}").encode())
        return {"type": "tool_use", "id": f"toolu_{self._key}", "name": part.name, "input": offered}


_SIGNATURE = "demo"
_DELTA = {
    "thinking": ("thinking_delta", "thinking"),
    "text": ("text_delta", "text"),
    "call": ("input_json_delta", "partial_json"),
}


def _event(name: str, **fields: object) -> bytes:
    return event(name, {"type": name} | fields)


def _finish_reason(reply: Reply) -> str:
    return (
        "tool_use"
        if reply.tool_call
        else {"stop": "end_turn", "length": "max_tokens"}[reply.finish_reason]
    )


def _usage(reply: Reply) -> dict[str, int]:
    return {"input_tokens": reply.prompt_tokens, "output_tokens": reply.completion_tokens}


def messages(request: ApiRequest) -> Response:
    """POST /v1/messages."""
    body = decode_request(request.body, _Request)
    request.models.find(body.model)
    if body.max_tokens <= 0:
        raise BadRequest("max_tokens is required and must be positive")
    if not body.messages:
        raise BadRequest("messages is required")
    prompt = _prompt(body)
    return generate_response(
        request, prompt, MessagesFormat(request, body, prompt), stream=bool(body.stream)
    )


def _prompt(body: _Request) -> Prompt:
    content = body.messages[-1].content
    parts = content if isinstance(content, list) else []
    answered = any(isinstance(p, dict) and p.get("type") == "tool_result" for p in parts)
    silent = answered or (body.tool_choice or {}).get("type") == "none"
    offered = () if silent else body.tools or ()
    return Prompt(
        model=body.model,
        text=text_of(content),
        images=sum(count_images(message.content) for message in body.messages),
        tools=tuple(Tool(str(t.get("name", "")), t.get("input_schema") or {}) for t in offered),
        think=(body.thinking or {}).get("type") in ("enabled", "adaptive"),
        schema=_schema(body.output_config),
        max_words=body.max_tokens,
    )


def _schema(config: JsonObject | None) -> JsonObject | None:
    match config:
        case {"format": {"type": "json_schema", "schema": dict(schema)}}:
            return schema
    return None
