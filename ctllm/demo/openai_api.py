"""OpenAI's dialect as Ollama speaks it: chat completions, completions, embeddings, models."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from struct import pack
from typing import Any

import msgspec

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
from ctllm.http.message.multipart import FormFieldScanner, get_boundary


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
    response_format: dict[str, Any] | None = None
    max_completion_tokens: int | None = None


class _Completion(_Request, kw_only=True):
    prompt: str | list[str] = ""


class _Embeddings(msgspec.Struct):
    model: str = ""
    input: str | list[str] | None = None
    dimensions: int | None = None
    encoding_format: str = "float"


def error_json(message: str, status: int) -> dict[str, Any]:
    """Give the body of an error in this dialect."""
    kind = {400: "invalid_request_error", 404: "not_found_error"}.get(status, "api_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def data(value: Any) -> bytes:
    """Write one event of SSE that has no name."""
    return b"data: " + encode(value) + b"\n\n"


def usage(said: Reply) -> dict[str, int]:
    """Count the tokens as this dialect does."""
    return {
        "prompt_tokens": said.prompt_tokens,
        "completion_tokens": said.completion_tokens,
        "total_tokens": said.prompt_tokens + said.completion_tokens,
    }


class _ChunkFormat(ResponseFormat):
    """Events without names, one choice in each, `[DONE]` at the end."""

    media_type = SSE

    def __init__(self, call: ApiRequest, request: _Request, key: str, object_: str) -> None:
        options = request.stream_options
        self._usage = options is not None and options.include_usage
        created = int(call.now())
        self._id = {"id": f"{key}-{call.body_sha256[:12]}", "object": object_, "created": created}
        self._of = {"model": request.model, "system_fingerprint": "fp_ollama"}

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        return data(self._id | self._of | {"choices": choices} | more)

    def _last(self, said: Reply, choice: dict[str, Any]) -> Iterable[bytes]:
        yield self._chunk([choice])
        if self._usage:
            yield self._chunk([], usage=usage(said))
        yield b"data: [DONE]\n\n"

    def error_line(self, message: str) -> bytes:
        """Give the event for an error."""
        return data(error_json(message, 500))


class ChatFormat(_ChunkFormat):
    """Chat completions."""

    def __init__(self, call: ApiRequest, request: _Request) -> None:
        super().__init__(call, request, "chatcmpl", "chat.completion.chunk")

    def word_line(self, part: Part, word: str) -> bytes:
        """Give the chunk for one word."""
        delta = {"role": "assistant"} | _shown(part, word, self._id["id"])
        if part.kind == "call":
            delta["tool_calls"][0]["index"] = 0
        return self._chunk([{"index": 0, "delta": delta, "finish_reason": None}])

    def final_lines(self, said: Reply) -> Iterable[bytes]:
        """Give the chunk with the reason, usage if asked for, and `[DONE]`."""
        delta = {"role": "assistant", "content": ""}
        return self._last(said, {"index": 0, "delta": delta, "finish_reason": _reason(said)})

    def as_json(self, said: Reply) -> Any:
        """Give one object with everything."""
        message: dict[str, Any] = {"role": "assistant", "content": ""}
        for part in said.parts:
            message |= _shown(part, part.text, self._id["id"])
        choice = {"index": 0, "message": message, "finish_reason": _reason(said)}
        head = self._id | {"object": "chat.completion"} | self._of
        return head | {"choices": [choice], "usage": usage(said)}


class CompletionFormat(_ChunkFormat):
    """The older completions: text without roles."""

    def __init__(self, call: ApiRequest, request: _Request) -> None:
        super().__init__(call, request, "cmpl", "text_completion")

    def word_line(self, part: Part, word: str) -> bytes:
        """Give the chunk for one word."""
        return self._chunk([{"text": word, "index": 0, "finish_reason": None}])

    def final_lines(self, said: Reply) -> Iterable[bytes]:
        """Give the chunk with the reason, usage if asked for, and `[DONE]`."""
        return self._last(said, {"text": "", "index": 0, "finish_reason": _reason(said)})

    def as_json(self, said: Reply) -> Any:
        """Give one object with everything."""
        choice = {"text": said.text("text"), "index": 0, "finish_reason": _reason(said)}
        return self._id | self._of | {"choices": [choice], "usage": usage(said)}


def _shown(part: Part, text: str, key: Any) -> dict[str, Any]:
    if part.kind == "thinking":
        return {"content": "", "reasoning": text}
    if part.kind == "text":
        return {"content": text}
    function = {"name": part.name, "arguments": text}
    call = {"id": f"call_{str(key).rpartition('-')[2]}", "type": "function", "function": function}
    return {"content": "", "tool_calls": [call]}


def _reason(said: Reply) -> str:
    return "tool_calls" if said.tool_call else said.finish_reason


def chat_completions(call: ApiRequest) -> Response:
    """POST /v1/chat/completions."""
    request = decode_request(call.body, _Chat)
    call.models.find(request.model)
    if not request.messages:
        raise BadRequest("[] is too short - 'messages'")
    return generate_response(
        call, _ask(request), ChatFormat(call, request), stream=bool(request.stream)
    )


def _ask(request: _Chat) -> Prompt:
    last = request.messages[-1]
    silent = last.role == "tool" or request.tool_choice == "none"
    given = () if silent else request.tools or ()
    return Prompt(
        model=request.model,
        text=text_of(last.content),
        images=sum(count_images(message.content) for message in request.messages),
        tools=tuple(Tool(t.function.name, t.function.parameters or {}) for t in given),
        think=request.reasoning_effort not in (None, "none"),
        schema=_schema(request.response_format),
        max_words=request.max_completion_tokens or request.max_tokens,
    )


def _schema(wanted: dict[str, Any] | None) -> dict[str, Any] | None:
    match wanted:
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return schema
        case {"type": "json_object" | "json_schema"}:
            return {}
    return None


def completions(call: ApiRequest) -> Response:
    """POST /v1/completions: of several prompts, the first."""
    request = decode_request(call.body, _Completion)
    call.models.find(request.model)
    prompt = request.prompt if isinstance(request.prompt, str) else "".join(request.prompt[:1])
    ask = Prompt(request.model, prompt, max_words=request.max_tokens)
    return generate_response(
        call, ask, CompletionFormat(call, request), stream=bool(request.stream)
    )


def embeddings(call: ApiRequest) -> Response:
    """POST /v1/embeddings: as numbers or, as this dialect's own client prefers, in base64."""
    request = decode_request(call.body, _Embeddings)
    call.models.find(request.model)
    if not request.input:
        raise BadRequest("invalid input")
    texts = [request.input] if isinstance(request.input, str) else request.input
    encoded = request.encoding_format == "base64"
    vectors = [embedding_of(text, request.dimensions) for text in texts]
    shown = [_base64(each) if encoded else each for each in vectors]
    count = sum(len(split_words(text)) for text in texts)
    answer = {
        "object": "list",
        "data": [
            {"object": "embedding", "embedding": each, "index": index}
            for index, each in enumerate(shown)
        ],
        "model": request.model,
        "usage": {"prompt_tokens": count, "total_tokens": count},
    }
    return CompleteResponse(encode(answer), used_model=UsedModel(request.model))


def transcriptions(call: ApiRequest) -> Response:
    """POST /v1/audio/transcriptions: how many bytes there were to hear."""
    boundary = get_boundary(call.content_type.encode("latin-1"))
    if boundary is None:
        raise BadRequest("failed to parse multipart form: request Content-Type isn't multipart")
    field = FormFieldScanner("model", boundary)
    field.feed(call.body)
    if not field.value:
        raise BadRequest("model is required")
    call.models.find(field.value)
    return CompleteResponse.json({"text": f"{len(call.body)} bytes"})


def _base64(numbers: list[float]) -> str:
    return b64encode(pack(f"<{len(numbers)}f", *numbers)).decode()


def models(call: ApiRequest) -> Response:
    """GET /v1/models."""
    return CompleteResponse.json(
        {"object": "list", "data": [_entry(m) for m in call.models.models.values()]}
    )


def model(call: ApiRequest) -> Response:
    """GET /v1/models/{name}."""
    return CompleteResponse.json(_entry(call.models.find(call.path_argument)))


def _entry(model: Model) -> dict[str, Any]:
    about = {"owned_by": "ctllm-demo", "description": DESCRIPTION}
    return {"id": model.name, "object": "model", "created": int(model.modified)} | about
