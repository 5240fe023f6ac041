"""Ollama's own dialect: generate, chat and embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from ctllm.demo.echo_model import Part, Prompt, Reply, Tool, split_words
from ctllm.demo.embeddings import embedding_of
from ctllm.demo.model_store import format_rfc3339, parse_keep_alive
from ctllm.demo.request_parser import OfferedTool, decode_request
from ctllm.demo.response import (
    ApiRequest,
    CompleteResponse,
    Response,
    ResponseFormat,
    UsedModel,
    durations,
    encode,
    generate_response,
)


class _Message(msgspec.Struct):
    role: str
    content: str | None = None
    images: list[bytes] | None = None


class _Request(msgspec.Struct, kw_only=True):
    model: str = ""
    stream: bool | None = None
    think: bool | str | None = None
    format: str | dict[str, Any] | None = None
    options: dict[str, Any] | None = None
    keep_alive: str | float | None = None


class _Chat(_Request, kw_only=True):
    messages: list[_Message] | None = None
    tools: list[OfferedTool] | None = None


class _Generate(_Request, kw_only=True):
    prompt: str | None = None
    images: list[bytes] | None = None


class _Embed(msgspec.Struct):
    model: str = ""
    input: str | list[str] | None = None
    prompt: str = ""
    dimensions: int | None = None


class OllamaFormat(ResponseFormat):
    """Lines of NDJSON, stamped as they are made. `shown` says how a word lies in a line."""

    def __init__(self, call: ApiRequest, model: str, shown: Callable[..., dict[str, Any]]) -> None:
        self._call = call
        self._model = model
        self._head = encode({"model": model})[:-1] + b',"created_at":"'
        self._shown = shown
        self._last: tuple[str, str] | None = None
        self._tail = b""

    def word_line(self, part: Part, word: str) -> bytes:
        """Give one line; what is the same as in the last one is not encoded again."""
        if self._last != (part.kind, word):
            self._last = (part.kind, word)
            self._tail = _tail(self._shown(part.kind, word, part.name) | {"done": False})
        return self._head + self._stamp() + self._tail

    def final_lines(self, said: Reply) -> Iterable[bytes]:
        """Give the line with `done` and the figures."""
        yield self._head + self._stamp() + _tail(self._shown("text", "", "") | self._end(said))

    def as_json(self, said: Reply) -> Any:
        """Give one object with everything."""
        shown = self._shown("text", said.text("text"), "")
        for part in said.parts:
            if part.kind != "text":
                _merge(shown, self._shown(part.kind, part.text, part.name))
        stamped = {"model": self._model, "created_at": format_rfc3339(self._call.now())}
        return stamped | shown | self._end(said)

    def error_line(self, message: str) -> bytes:
        """Give the line for an error in mid-stream."""
        return encode({"error": message}) + b"\n"

    def _stamp(self) -> bytes:
        return format_rfc3339(self._call.now()).encode()

    def _end(self, said: Reply) -> dict[str, Any]:
        return {"done": True, "done_reason": said.finish_reason} | durations(self._call, said)


def _tail(rest: dict[str, Any]) -> bytes:
    return b'",' + encode(rest)[1:] + b"\n"


def _merge(shown: dict[str, Any], more: dict[str, Any]) -> None:
    """Add the fields of another kind of part to an object, inside its message if it has one."""
    inner, added = shown.get("message", shown), more.get("message", more)
    inner.update({name: value for name, value in added.items() if name not in inner})


def _in_message(kind: str, word: str, name: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": word if kind == "text" else ""}
    if kind == "thinking":
        message["thinking"] = word
    if kind == "call":
        message["tool_calls"] = [_tool_call(name, word)]
    return {"message": message}


def _in_response(kind: str, word: str, name: str) -> dict[str, Any]:
    response = {"response": word if kind == "text" else ""}
    return response | ({"thinking": word} if kind == "thinking" else {})


def _tool_call(name: str, arguments: str) -> dict[str, Any]:
    function = {"index": 0, "name": name, "arguments": msgspec.Raw(arguments.encode())}
    return {"id": f"call_{name}", "function": function}


def chat(call: ApiRequest) -> Response:
    """POST /api/chat: streams unless told not to; without messages it only loads the model."""
    request = decode_request(call.body, _Chat)
    call.models.find(request.model)
    if not request.messages:
        return _only_loaded(call, request, _in_message("text", "", ""))
    last = request.messages[-1]
    tools = () if last.role == "tool" else _tools(request.tools)
    ask = _ask(request, last.content, last.images, tools)
    return _told(call, request, ask, _in_message)


def generate(call: ApiRequest) -> Response:
    """POST /api/generate: streams unless told not to; without a prompt it only loads the model."""
    request = decode_request(call.body, _Generate)
    call.models.find(request.model)
    if not request.prompt:
        return _only_loaded(call, request, {"response": ""})
    return _told(call, request, _ask(request, request.prompt, request.images), _in_response)


def _ask(
    request: _Request, text: str | None, images: list[bytes] | None, tools: tuple[Tool, ...] = ()
) -> Prompt:
    limit = (request.options or {}).get("num_predict")
    return Prompt(
        model=request.model,
        text=text or "",
        images=len(images or ()),
        tools=tools,
        think=bool(request.think),
        schema=request.format if isinstance(request.format, dict) else _json(request.format),
        keep_alive_seconds=parse_keep_alive(request.keep_alive),
        max_words=limit if isinstance(limit, int) and limit > 0 else None,
    )


def _json(form: str | None) -> dict[str, Any] | None:
    return {} if form == "json" else None


def _tools(given: list[OfferedTool] | None) -> tuple[Tool, ...]:
    return tuple(Tool(t.function.name, t.function.parameters or {}) for t in given or ())


def _told(
    call: ApiRequest, request: _Request, ask: Prompt, shown: Callable[..., dict[str, Any]]
) -> Response:
    return generate_response(
        call, ask, OllamaFormat(call, request.model, shown), stream=request.stream is not False
    )


def _only_loaded(call: ApiRequest, request: _Request, empty: dict[str, Any]) -> CompleteResponse:
    """Load, or with `keep_alive` 0 unload, and say nothing: one object even to who streams."""
    kept = parse_keep_alive(request.keep_alive)
    call.models.load(request.model, call.now() + kept)
    done = {"done": True, "done_reason": "load" if kept else "unload"}
    stamped = {"model": request.model, "created_at": format_rfc3339(call.now())}
    return CompleteResponse.json(stamped | empty | done)


def embed(call: ApiRequest) -> Response:
    """POST /api/embed: one vector a text."""
    request = decode_request(call.body, _Embed)
    call.models.find(request.model)
    given = request.input if isinstance(request.input, list) else [request.input or ""]
    texts = [] if request.input is None else given
    answer = {
        "model": request.model,
        "embeddings": [embedding_of(text, request.dimensions) for text in texts],
        "total_duration": int(call.elapsed() * 1e9),
        "load_duration": int(call.load_seconds * 1e9),
        "prompt_eval_count": sum(len(split_words(text)) for text in texts),
    }
    return CompleteResponse(encode(answer), used_model=UsedModel(request.model))


def embeddings(call: ApiRequest) -> Response:
    """POST /api/embeddings: the older way, one text and one vector."""
    request = decode_request(call.body, _Embed)
    call.models.find(request.model)
    return CompleteResponse(
        encode({"embedding": embedding_of(request.prompt)}), used_model=UsedModel(request.model)
    )
