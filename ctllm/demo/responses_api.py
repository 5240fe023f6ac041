"""OpenAI's Responses API as Ollama implements it: named and numbered events about items."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from ctllm.common.json_decoder import JsonObject
from ctllm.demo.echo_model import Part, Prompt, Reply, Tool
from ctllm.demo.request_parser import count_images, decode_request, text_of
from ctllm.demo.response import SSE, ApiRequest, Response, ResponseFormat, encode, generate_response


class _Request(msgspec.Struct, kw_only=True):
    model: str = ""
    input: Any = ""
    stream: bool | None = None
    tools: list[JsonObject] | None = None
    tool_choice: Any = None
    reasoning: JsonObject | None = None
    text: JsonObject | None = None
    max_output_tokens: int | None = None
    instructions: Any = None
    metadata: JsonObject | None = None


class ResponsesFormat(ResponseFormat):
    """The events of one response. An item is reasoning, a message or a tool call.

    The events that end a part repeat its text.
    """

    media_type = SSE

    def __init__(self, request: ApiRequest, body: _Request) -> None:
        self._request = request
        self._body = body
        self._key = request.body_sha256[:12]
        self._number = -1
        self._items: list[JsonObject] = []

    def preamble_lines(self) -> Iterable[bytes]:
        """Return the events that create the response."""
        yield self._event("response.created", response=self._response("in_progress"))
        yield self._event("response.in_progress", response=self._response("in_progress"))

    def part_start_lines(self, part: Part) -> Iterable[bytes]:
        """Return the events that add an item, and a part within it."""
        at = len(self._items)
        yield self._event("response.output_item.added", output_index=at, item=self._item(part, at))
        if part.kind == "thinking":
            yield self._part_event(part, "response.reasoning_summary_part.added", part=_summary(""))
        if part.kind == "text":
            yield self._part_event(part, "response.content_part.added", part=_output_text(""))

    def word_line(self, part: Part, word: str) -> bytes:
        """Return the event that adds a word to the item."""
        more: JsonObject = {"logprobs": []} if part.kind == "text" else {}
        return self._part_event(part, f"response.{_STEM[part.kind]}.delta", delta=word, **more)

    def part_end_lines(self, part: Part) -> Iterable[bytes]:
        """Return the events that finish the text, the part and the item."""
        text, at = part.text, len(self._items)
        yield self._part_event(
            part, f"response.{_STEM[part.kind]}.done", **_done_fields(part, text)
        )
        if part.kind == "thinking":
            yield self._part_event(
                part, "response.reasoning_summary_part.done", part=_summary(text)
            )
        if part.kind == "text":
            yield self._part_event(part, "response.content_part.done", part=_output_text(text))
        item = self._item(part, at, text)
        yield self._event("response.output_item.done", output_index=at, item=item)
        self._items.append(item)

    def final_lines(self, reply: Reply) -> Iterable[bytes]:
        """Return the event that completes the response."""
        status = _status(reply)
        yield self._event(f"response.{status}", response=self._response(status, reply))

    def as_json(self, reply: Reply) -> JsonObject:
        """Return the completed response."""
        for part in reply.parts:
            self._items.append(self._item(part, len(self._items), part.text))
        return self._response(_status(reply), reply)

    def _event(self, name: str, /, **fields: object) -> bytes:
        self._number += 1
        return event(name, {"type": name, "sequence_number": self._number} | fields)

    def _part_event(self, of: Part, name: str, /, **fields: object) -> bytes:
        """Return an event about a part of the current item."""
        at = len(self._items)
        index = {"thinking": {"summary_index": 0}, "text": {"content_index": 0}, "call": {}}
        where = {"item_id": self._id(of, at), "output_index": at}
        return self._event(name, **where, **index[of.kind], **fields)

    def _id(self, part: Part, at: int) -> str:
        return f"{_PREFIX[part.kind]}_{self._key}_{at}"

    def _item(self, part: Part, at: int, text: str | None = None) -> JsonObject:
        """Return an item: in progress, or completed with all its text."""
        status = "in_progress" if text is None else "completed"
        item: JsonObject = {"id": self._id(part, at), "status": status}
        if part.kind == "thinking":
            return item | {"type": "reasoning", "summary": [] if text is None else [_summary(text)]}
        if part.kind == "call":
            called = {"call_id": f"call_{self._key}", "name": part.name, "arguments": text or ""}
            return item | {"type": "function_call"} | called
        content = [] if text is None else [_output_text(text)]
        return item | {"type": "message", "role": "assistant", "content": content}

    def _response(self, status: str, reply: Reply | None = None) -> JsonObject:
        body, now = self._body, int(self._request.now())
        return {
            "id": f"resp_{self._key}",
            "object": "response",
            "created_at": int(self._request.now() - self._request.elapsed()),
            "completed_at": None if reply is None else now,
            "status": status,
            "error": None,
            "incomplete_details": _incomplete(status),
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": body.model,
            "output": list(self._items),
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "store": False,
            "text": body.text or {"format": {"type": "text"}},
            "tool_choice": body.tool_choice or "auto",
            "tools": body.tools or [],
            "usage": None if reply is None else _usage(reply),
        }


_STEM = {
    "thinking": "reasoning_summary_text",
    "text": "output_text",
    "call": "function_call_arguments",
}
_PREFIX = {"thinking": "rs", "text": "msg", "call": "fc"}


def event(name: str, value: JsonObject) -> bytes:
    """Return one named server-sent event."""
    return b"event: " + name.encode() + b"\ndata: " + encode(value) + b"\n\n"


def _summary(text: str) -> JsonObject:
    return {"type": "summary_text", "text": text}


def _output_text(text: str) -> JsonObject:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _done_fields(part: Part, text: str) -> JsonObject:
    if part.kind == "call":
        return {"name": part.name, "arguments": text}
    return {"text": text} | ({"logprobs": []} if part.kind == "text" else {})


def _status(reply: Reply) -> str:
    return "incomplete" if reply.finish_reason == "length" else "completed"


def _incomplete(status: str) -> dict[str, str] | None:
    return {"reason": "max_output_tokens"} if status == "incomplete" else None


def _usage(reply: Reply) -> JsonObject:
    return {
        "input_tokens": reply.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": reply.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": reply.prompt_tokens + reply.completion_tokens,
    }


def responses(request: ApiRequest) -> Response:
    """POST /v1/responses."""
    body = decode_request(request.body, _Request)
    request.models.find(body.model)
    return generate_response(
        request, _prompt(body), ResponsesFormat(request, body), stream=bool(body.stream)
    )


def _prompt(body: _Request) -> Prompt:
    items = body.input if isinstance(body.input, list) else [{"content": body.input}]
    last = items[-1] if items and isinstance(items[-1], dict) else {}
    answered = last.get("type") == "function_call_output"
    silent = answered or body.tool_choice == "none"
    return Prompt(
        model=body.model,
        text=text_of(last.get("output") if answered else last.get("content")),
        images=sum(count_images(each.get("content")) for each in items if isinstance(each, dict)),
        tools=() if silent else _tools(body.tools or []),
        think=(body.reasoning or {}).get("effort") not in (None, "none"),
        schema=_schema(body.text),
        max_words=body.max_output_tokens,
    )


def _tools(offered: list[JsonObject]) -> tuple[Tool, ...]:
    functions = (tool for tool in offered if tool.get("type") == "function")
    return tuple(Tool(str(f.get("name", "")), f.get("parameters") or {}) for f in functions)


def _schema(text: JsonObject | None) -> JsonObject | None:
    match text:
        case {"format": {"type": "json_schema", "schema": dict(schema)}}:
            return schema
        case {"format": {"type": "json_object"}}:
            return {}
    return None
