"""OpenAI's newer dialect, responses: events with names and numbers, and items inside items."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from ctllm.demo.echo_model import Part, Prompt, Reply, Tool
from ctllm.demo.request_parser import count_images, decode_request, text_of
from ctllm.demo.response import SSE, ApiRequest, Response, ResponseFormat, encode, generate_response


class _Request(msgspec.Struct, kw_only=True):
    model: str = ""
    input: Any = ""
    stream: bool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    reasoning: dict[str, Any] | None = None
    text: dict[str, Any] | None = None
    max_output_tokens: int | None = None
    instructions: Any = None
    metadata: dict[str, Any] | None = None


class ResponsesFormat(ResponseFormat):
    """The life of one response. Items are thinking, a message or the call of a tool.

    The events that end a part repeat its text: of a very long answer that is much.
    """

    media_type = SSE

    def __init__(self, call: ApiRequest, request: _Request) -> None:
        self._call = call
        self._request = request
        self._key = call.body_sha256[:12]
        self._number = -1
        self._items: list[dict[str, Any]] = []

    def preamble_lines(self) -> Iterable[bytes]:
        """Create the response."""
        yield self._event("response.created", response=self._response("in_progress"))
        yield self._event("response.in_progress", response=self._response("in_progress"))

    def part_start_lines(self, part: Part) -> Iterable[bytes]:
        """Add an item, and in it a part."""
        at = len(self._items)
        yield self._event("response.output_item.added", output_index=at, item=self._item(part, at))
        if part.kind == "thinking":
            yield self._inside(part, "response.reasoning_summary_part.added", part=_summary(""))
        if part.kind == "text":
            yield self._inside(part, "response.content_part.added", part=_output_text(""))

    def word_line(self, part: Part, word: str) -> bytes:
        """Add to the item."""
        more: dict[str, Any] = {"logprobs": []} if part.kind == "text" else {}
        return self._inside(part, f"response.{_STEM[part.kind]}.delta", delta=word, **more)

    def part_end_lines(self, part: Part) -> Iterable[bytes]:
        """Finish the item: its text, its part and itself."""
        text, at = part.text, len(self._items)
        yield self._inside(part, f"response.{_STEM[part.kind]}.done", **_whole(part, text))
        if part.kind == "thinking":
            yield self._inside(part, "response.reasoning_summary_part.done", part=_summary(text))
        if part.kind == "text":
            yield self._inside(part, "response.content_part.done", part=_output_text(text))
        item = self._item(part, at, text)
        yield self._event("response.output_item.done", output_index=at, item=item)
        self._items.append(item)

    def final_lines(self, said: Reply) -> Iterable[bytes]:
        """Complete the response."""
        status = _status(said)
        yield self._event(f"response.{status}", response=self._response(status, said))

    def as_json(self, said: Reply) -> Any:
        """Give the completed response."""
        for part in said.parts:
            self._items.append(self._item(part, len(self._items), part.text))
        return self._response(_status(said), said)

    def error_line(self, message: str) -> bytes:
        """Give the event for an error."""
        about = {"code": "server_error", "message": message, "param": None}
        return self._event("error", **about)

    def _event(self, name: str, /, **fields: Any) -> bytes:
        self._number += 1
        return event(name, {"type": name, "sequence_number": self._number} | fields)

    def _inside(self, of: Part, name: str, /, **fields: Any) -> bytes:
        """Write an event about a part of the item that is being told."""
        at = len(self._items)
        index = {"thinking": {"summary_index": 0}, "text": {"content_index": 0}, "call": {}}
        where = {"item_id": self._id(of, at), "output_index": at}
        return self._event(name, **where, **index[of.kind], **fields)

    def _id(self, part: Part, at: int) -> str:
        return f"{_PREFIX[part.kind]}_{self._key}_{at}"

    def _item(self, part: Part, at: int, text: str | None = None) -> dict[str, Any]:
        """Give an item as it stands: just begun, or done with all its text."""
        status = "in_progress" if text is None else "completed"
        item: dict[str, Any] = {"id": self._id(part, at), "status": status}
        if part.kind == "thinking":
            return item | {"type": "reasoning", "summary": [] if text is None else [_summary(text)]}
        if part.kind == "call":
            called = {"call_id": f"call_{self._key}", "name": part.name, "arguments": text or ""}
            return item | {"type": "function_call"} | called
        content = [] if text is None else [_output_text(text)]
        return item | {"type": "message", "role": "assistant", "content": content}

    def _response(self, status: str, said: Reply | None = None) -> dict[str, Any]:
        request, now = self._request, int(self._call.now())
        return {
            "id": f"resp_{self._key}",
            "object": "response",
            "created_at": int(self._call.now() - self._call.elapsed()),
            "completed_at": None if said is None else now,
            "status": status,
            "error": None,
            "incomplete_details": _incomplete(status),
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "metadata": request.metadata or {},
            "model": request.model,
            "output": list(self._items),
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "store": False,
            "text": request.text or {"format": {"type": "text"}},
            "tool_choice": request.tool_choice or "auto",
            "tools": request.tools or [],
            "usage": None if said is None else _usage(said),
        }


_STEM = {
    "thinking": "reasoning_summary_text",
    "text": "output_text",
    "call": "function_call_arguments",
}
_PREFIX = {"thinking": "rs", "text": "msg", "call": "fc"}


def event(name: str, value: dict[str, Any]) -> bytes:
    """Write one event of SSE with its name."""
    return b"event: " + name.encode() + b"\ndata: " + encode(value) + b"\n\n"


def _summary(text: str) -> dict[str, Any]:
    return {"type": "summary_text", "text": text}


def _output_text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _whole(part: Part, text: str) -> dict[str, Any]:
    if part.kind == "call":
        return {"name": part.name, "arguments": text}
    return {"text": text} | ({"logprobs": []} if part.kind == "text" else {})


def _status(said: Reply) -> str:
    return "incomplete" if said.finish_reason == "length" else "completed"


def _incomplete(status: str) -> dict[str, str] | None:
    return {"reason": "max_output_tokens"} if status == "incomplete" else None


def _usage(said: Reply) -> dict[str, Any]:
    return {
        "input_tokens": said.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": said.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": said.prompt_tokens + said.completion_tokens,
    }


def responses(call: ApiRequest) -> Response:
    """POST /v1/responses."""
    request = decode_request(call.body, _Request)
    call.models.find(request.model)
    return generate_response(
        call, _ask(request), ResponsesFormat(call, request), stream=bool(request.stream)
    )


def _ask(request: _Request) -> Prompt:
    items = request.input if isinstance(request.input, list) else [{"content": request.input}]
    last = items[-1] if items and isinstance(items[-1], dict) else {}
    answered = last.get("type") == "function_call_output"
    silent = answered or request.tool_choice == "none"
    return Prompt(
        model=request.model,
        text=text_of(last.get("output") if answered else last.get("content")),
        images=sum(count_images(each.get("content")) for each in items if isinstance(each, dict)),
        tools=() if silent else _tools(request.tools or []),
        think=(request.reasoning or {}).get("effort") not in (None, "none"),
        schema=_schema(request.text),
        max_words=request.max_output_tokens,
    )


def _tools(given: list[dict[str, Any]]) -> tuple[Tool, ...]:
    functions = (tool for tool in given if tool.get("type") == "function")
    return tuple(Tool(str(f.get("name", "")), f.get("parameters") or {}) for f in functions)


def _schema(text: dict[str, Any] | None) -> dict[str, Any] | None:
    match text:
        case {"format": {"type": "json_schema", "schema": dict(schema)}}:
            return schema
        case {"format": {"type": "json_object"}}:
            return {}
    return None
