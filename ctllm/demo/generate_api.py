"""Ollama's dialect: generate, chat and embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from ctllm.common.json_decoder import JsonObject
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
    format: str | JsonObject | None = None
    options: JsonObject | None = None
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
    """Lines of NDJSON with the time of each. `render` returns the fields of a word."""

    def __init__(self, request: ApiRequest, model: str, render: Callable[..., JsonObject]) -> None:
        self._request = request
        self._model = model
        self._head = encode({"model": model})[:-1] + b',"created_at":"'
        self._delta_of = render
        self._last: tuple[str, str] | None = None
        self._tail = b""

    def word_line(self, part: Part, word: str) -> bytes:
        """Return one line. Fields that equal those of the last line are not encoded again."""
        if self._last != (part.kind, word):
            self._last = (part.kind, word)
            self._tail = _tail(self._delta_of(part.kind, word, part.name) | {"done": False})
        return self._head + self._stamp() + self._tail

    def final_lines(self, reply: Reply) -> Iterable[bytes]:
        """Return the line with `done` and the durations."""
        yield self._head + self._stamp() + _tail(self._delta_of("text", "", "") | self._end(reply))

    def as_json(self, reply: Reply) -> JsonObject:
        """Return the complete reply."""
        render = self._delta_of("text", reply.text("text"), "")
        for part in reply.parts:
            if part.kind != "text":
                _merge(render, self._delta_of(part.kind, part.text, part.name))
        stamped = {"model": self._model, "created_at": format_rfc3339(self._request.now())}
        return stamped | render | self._end(reply)

    def error_line(self, message: str) -> bytes:
        """Return the line for an error within a stream."""
        return encode({"error": message}) + b"\n"

    def _stamp(self) -> bytes:
        return format_rfc3339(self._request.now()).encode()

    def _end(self, reply: Reply) -> JsonObject:
        return {"done": True, "done_reason": reply.finish_reason} | durations(self._request, reply)


def _tail(rest: JsonObject) -> bytes:
    return b'",' + encode(rest)[1:] + b"\n"


def _merge(render: JsonObject, more: JsonObject) -> None:
    """Add the fields of another part to an object, or to its message if it has one."""
    inner, added = render.get("message", render), more.get("message", more)
    inner.update({name: value for name, value in added.items() if name not in inner})


def _in_message(kind: str, word: str, name: str) -> JsonObject:
    message: JsonObject = {"role": "assistant", "content": word if kind == "text" else ""}
    if kind == "thinking":
        message["thinking"] = word
    if kind == "call":
        message["tool_calls"] = [_tool_call(name, word)]
    return {"message": message}


def _in_response(kind: str, word: str, name: str) -> JsonObject:
    response = {"response": word if kind == "text" else ""}
    return response | ({"thinking": word} if kind == "thinking" else {})


def _tool_call(name: str, arguments: str) -> JsonObject:
    function = {"index": 0, "name": name, "arguments": msgspec.Raw(arguments.encode())}
    return {"id": f"call_{name}", "function": function}


def chat(request: ApiRequest) -> Response:
    """POST /api/chat: reply to the last message, or load the model if there is none."""
    body = decode_request(request.body, _Chat)
    request.models.find(body.model)
    if not body.messages:
        return _load_only(request, body, _in_message("text", "", ""))
    last = body.messages[-1]
    tools = () if last.role == "tool" else _tools(body.tools)
    prompt = _prompt(body, last.content, last.images, tools)
    return _generate(request, body, prompt, _in_message)


def generate(request: ApiRequest) -> Response:
    """POST /api/generate: reply to the prompt, or load the model if there is none."""
    body = decode_request(request.body, _Generate)
    request.models.find(body.model)
    if not body.prompt:
        return _load_only(request, body, {"response": ""})
    return _generate(request, body, _prompt(body, body.prompt, body.images), _in_response)


def _prompt(
    body: _Request, text: str | None, images: list[bytes] | None, tools: tuple[Tool, ...] = ()
) -> Prompt:
    limit = (body.options or {}).get("num_predict")
    return Prompt(
        model=body.model,
        text=text or "",
        images=len(images or ()),
        tools=tools,
        think=bool(body.think),
        schema=body.format if isinstance(body.format, dict) else _json(body.format),
        keep_alive_seconds=parse_keep_alive(body.keep_alive),
        max_words=limit if isinstance(limit, int) and limit > 0 else None,
    )


def _json(form: str | None) -> JsonObject | None:
    return {} if form == "json" else None


def _tools(offered: list[OfferedTool] | None) -> tuple[Tool, ...]:
    return tuple(Tool(t.function.name, t.function.parameters or {}) for t in offered or ())


def _generate(
    request: ApiRequest, body: _Request, prompt: Prompt, render: Callable[..., JsonObject]
) -> Response:
    return generate_response(
        request, prompt, OllamaFormat(request, body.model, render), stream=body.stream is not False
    )


def _load_only(request: ApiRequest, body: _Request, empty: JsonObject) -> CompleteResponse:
    """Load the model, or unload it if `keep_alive` is 0. The response is never streamed."""
    kept = parse_keep_alive(body.keep_alive)
    request.models.load(body.model, request.now() + kept)
    done = {"done": True, "done_reason": "load" if kept else "unload"}
    stamped = {"model": body.model, "created_at": format_rfc3339(request.now())}
    return CompleteResponse.json(stamped | empty | done)


def embed(request: ApiRequest) -> Response:
    """POST /api/embed: one vector for each text."""
    body = decode_request(request.body, _Embed)
    request.models.find(body.model)
    offered = body.input if isinstance(body.input, list) else [body.input or ""]
    texts = [] if body.input is None else offered
    answer = {
        "model": body.model,
        "embeddings": [embedding_of(text, body.dimensions) for text in texts],
        "total_duration": int(request.elapsed() * 1e9),
        "load_duration": int(request.load_seconds * 1e9),
        "prompt_eval_count": sum(len(split_words(text)) for text in texts),
    }
    return CompleteResponse(encode(answer), used_model=UsedModel(body.model))


def embeddings(request: ApiRequest) -> Response:
    """POST /api/embeddings, the older endpoint: one text and one vector."""
    body = decode_request(request.body, _Embed)
    request.models.find(body.model)
    return CompleteResponse(
        encode({"embedding": embedding_of(body.prompt)}), used_model=UsedModel(body.model)
    )
