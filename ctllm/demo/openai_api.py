"""OpenAI's dialect as Ollama implements it: chat completions, completions, embeddings, models."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from dataclasses import replace
from struct import pack
from typing import Any

import msgspec

from ctllm.common.json_decoder import JsonObject
from ctllm.demo.echo_model import Part, Prompt, Reply, Tool, split_words
from ctllm.demo.embeddings import embedding_of
from ctllm.demo.model_store import DESCRIPTION, Model
from ctllm.demo.request_parser import OfferedTool, count_images, decode_request, text_of
from ctllm.demo.response import (
    SSE,
    ApiRequest,
    CompleteResponse,
    Response,
    ResponseFormat,
    UsedModel,
    encode,
    generate_response,
)
from ctllm.errors import BadRequest
from ctllm.http.message.form_field_scanner import FormFieldScanner, get_boundary


class _Message(msgspec.Struct):
    role: str
    content: Any = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _Request(msgspec.Struct, kw_only=True):
    model: str = ""
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None


class _Chat(_Request, kw_only=True):
    messages: list[_Message] = []
    tools: list[OfferedTool] | None = None
    tool_choice: Any = None
    reasoning_effort: str | None = None
    response_format: JsonObject | None = None
    max_completion_tokens: int | None = None


class _Completion(_Request, kw_only=True):
    prompt: str | list[str] = ""


class _Embeddings(msgspec.Struct):
    model: str = ""
    input: str | list[str] | None = None
    dimensions: int | None = None
    encoding_format: str = "float"


def error_json(message: str, status: int) -> JsonObject:
    """Return the body of an error in this dialect: a missing model is an `api_error`, too."""
    kind = "invalid_request_error" if status == 400 else "api_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def sse_event(value: object) -> bytes:
    """Return one unnamed server-sent event."""
    return b"data: " + encode(value) + b"\n\n"


def usage(reply: Reply) -> dict[str, int]:
    """Return the token counts of a reply."""
    return {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "total_tokens": reply.prompt_tokens + reply.completion_tokens,
    }


class _ChunkFormat(ResponseFormat):
    """Unnamed events with one choice in each, and `[DONE]` at the end."""

    media_type = SSE

    def __init__(self, request: ApiRequest, body: _Request, key: str, object_: str) -> None:
        options = body.stream_options
        self._usage = options is not None and options.include_usage
        created = int(request.now())
        self._id = {
            "id": f"{key}-{request.body_sha256[:12]}",
            "object": object_,
            "created": created,
        }
        self._model_fields = {"model": body.model, "system_fingerprint": "fp_ollama"}

    def _chunk(self, choices: list[JsonObject], **more: object) -> bytes:
        return sse_event(self._id | self._model_fields | {"choices": choices} | more)

    def _last(self, reply: Reply, choice: JsonObject) -> Iterable[bytes]:
        yield self._chunk([choice])
        if self._usage:
            yield self._chunk([], usage=usage(reply))
        yield b"data: [DONE]\n\n"

    def error_line(self, message: str) -> bytes:
        """Return a chunk without a word or a model: Ollama does not send the message."""
        return self._chunk([self._choice], model="")

    @property
    def _choice(self) -> JsonObject:
        """The choice of a chunk without a word."""
        raise NotImplementedError


class ChatFormat(_ChunkFormat):
    """The format of chat completions."""

    def __init__(self, request: ApiRequest, body: _Request) -> None:
        super().__init__(request, body, "chatcmpl", "chat.completion.chunk")

    @property
    def _choice(self) -> JsonObject:
        delta = {"role": "assistant", "content": ""}
        return {"index": 0, "delta": delta, "finish_reason": None}

    def word_line(self, part: Part, word: str) -> bytes:
        """Return the chunk for one word."""
        delta: JsonObject = {"role": "assistant"} | _delta_of(part, word, self._id["id"])
        if part.kind == "call":
            delta["tool_calls"][0]["index"] = 0
        return self._chunk([{"index": 0, "delta": delta, "finish_reason": None}])

    def final_lines(self, reply: Reply) -> Iterable[bytes]:
        """Return the chunk with the finish reason, the usage if requested, and `[DONE]`."""
        return self._last(reply, self._choice | {"finish_reason": _finish_reason(reply)})

    def as_json(self, reply: Reply) -> JsonObject:
        """Return the complete reply."""
        message: JsonObject = {"role": "assistant", "content": ""}
        for part in reply.parts:
            message |= _delta_of(part, part.text, self._id["id"])
        choice = {"index": 0, "message": message, "finish_reason": _finish_reason(reply)}
        head = self._id | {"object": "chat.completion"} | self._model_fields
        return head | {"choices": [choice], "usage": usage(reply)}


class CompletionFormat(_ChunkFormat):
    """The format of the older completions: text without roles."""

    def __init__(self, request: ApiRequest, body: _Request) -> None:
        super().__init__(request, body, "cmpl", "text_completion")

    @property
    def _choice(self) -> JsonObject:
        return {"text": "", "index": 0, "finish_reason": None}

    def word_line(self, part: Part, word: str) -> bytes:
        """Return the chunk for one word."""
        return self._chunk([self._choice | {"text": word}])

    def final_lines(self, reply: Reply) -> Iterable[bytes]:
        """Return the chunk with the finish reason, the usage if requested, and `[DONE]`."""
        return self._last(reply, self._choice | {"finish_reason": _finish_reason(reply)})

    def as_json(self, reply: Reply) -> JsonObject:
        """Return the complete reply."""
        choice = {"text": reply.text("text"), "index": 0, "finish_reason": _finish_reason(reply)}
        return self._id | self._model_fields | {"choices": [choice], "usage": usage(reply)}


def _delta_of(part: Part, text: str, key: object) -> JsonObject:
    if part.kind == "thinking":
        return {"content": "", "reasoning": text}
    if part.kind == "text":
        return {"content": text}
    function = {"name": part.name, "arguments": text}
    request = {
        "id": f"call_{str(key).rpartition('-')[2]}",
        "type": "function",
        "function": function,
    }
    return {"content": "", "tool_calls": [request]}


def _finish_reason(reply: Reply) -> str:
    return "tool_calls" if reply.tool_call else reply.finish_reason


def chat_completions(request: ApiRequest) -> Response:
    """POST /v1/chat/completions."""
    body = decode_request(request.body, _Chat)
    request.models.find(body.model)
    if not body.messages:
        raise BadRequest("[] is too short - 'messages'")
    return generate_response(
        request, _prompt(body), ChatFormat(request, body), stream=bool(body.stream)
    )


def _prompt(body: _Chat) -> Prompt:
    last = body.messages[-1]
    silent = last.role == "tool" or body.tool_choice == "none"
    offered = () if silent else body.tools or ()
    return Prompt(
        model=body.model,
        text=text_of(last.content),
        images=sum(count_images(message.content) for message in body.messages),
        tools=tuple(Tool(t.function.name, t.function.parameters or {}) for t in offered),
        think=body.reasoning_effort not in (None, "none"),
        schema=_schema(body.response_format),
        max_words=body.max_completion_tokens or body.max_tokens,
    )


def _schema(wanted: JsonObject | None) -> JsonObject | None:
    match wanted:
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return schema
        case {"type": "json_object" | "json_schema"}:
            return {}
    return None


def completions(request: ApiRequest) -> Response:
    """POST /v1/completions: reply to the first prompt."""
    body = decode_request(request.body, _Completion)
    request.models.find(body.model)
    text = body.prompt if isinstance(body.prompt, str) else "".join(body.prompt[:1])
    prompt = Prompt(body.model, text, max_words=body.max_tokens)
    return generate_response(
        request, prompt, CompletionFormat(request, body), stream=bool(body.stream)
    )


def embeddings(request: ApiRequest) -> Response:
    """POST /v1/embeddings: vectors as numbers or, as OpenAI's client prefers, in base64."""
    body = decode_request(request.body, _Embeddings)
    request.models.find(body.model)
    if not body.input:
        raise BadRequest("invalid input")
    texts = [body.input] if isinstance(body.input, str) else body.input
    encoded = body.encoding_format == "base64"
    vectors = [embedding_of(text, body.dimensions) for text in texts]
    render = [_base64(each) if encoded else each for each in vectors]
    count = sum(len(split_words(text)) for text in texts)
    answer = {
        "object": "list",
        "data": [
            {"object": "embedding", "embedding": each, "index": index}
            for index, each in enumerate(render)
        ],
        "model": body.model,
        "usage": {"prompt_tokens": count, "total_tokens": count},
    }
    return replace(CompleteResponse.json_line(answer), used_model=UsedModel(body.model))


def transcriptions(request: ApiRequest) -> Response:
    """POST /v1/audio/transcriptions: report the size of the audio, in bytes."""
    boundary = get_boundary(request.content_type.encode("latin-1"))
    if boundary is None:
        raise BadRequest("failed to parse multipart form: request Content-Type isn't multipart")
    field = FormFieldScanner("model", boundary)
    field.feed(request.body)
    if not field.value:
        raise BadRequest("model is required")
    request.models.find(field.value)
    return CompleteResponse.json({"text": f"{len(request.body)} bytes"})


def _base64(numbers: list[float]) -> str:
    return b64encode(pack(f"<{len(numbers)}f", *numbers)).decode()


def models(request: ApiRequest) -> Response:
    """GET /v1/models."""
    return CompleteResponse.json_line(
        {"object": "list", "data": [_entry(m) for m in request.models.models.values()]}
    )


def model(request: ApiRequest) -> Response:
    """GET /v1/models/{name}."""
    return CompleteResponse.json_line(_entry(request.models.find(request.path_argument)))


def _entry(model: Model) -> JsonObject:
    about = {"owned_by": "ctllm-demo", "description": DESCRIPTION}
    return {"id": model.name, "object": "model", "created": int(model.modified)} | about
