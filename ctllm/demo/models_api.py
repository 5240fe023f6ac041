"""Ollama's own dialect: the models themselves, and the blobs that they are made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any

import msgspec

from ctllm.demo.model_store import (
    CAPABILITIES,
    CONTEXT_LENGTH,
    DESCRIPTION,
    Model,
    format_rfc3339,
    name_with_tag,
)
from ctllm.demo.request_parser import decode_request
from ctllm.demo.response import (
    PLAIN,
    WORD_PAUSE,
    ApiRequest,
    CompleteResponse,
    Response,
    StreamedResponse,
    encode,
)
from ctllm.errors import BadRequest, NotFound

VERSION = "0.12.6"
LAYER = 2_000_000_000


class _Named(msgspec.Struct):
    """Older clients say `name`."""

    model: str = ""
    name: str = ""
    stream: bool | None = None

    @property
    def wanted(self) -> str:
        if not (self.model or self.name):
            raise BadRequest("model is required")
        return self.model or self.name


class _Create(_Named):
    from_: str = msgspec.field(default="", name="from")
    files: dict[str, str] | None = None
    adapters: dict[str, str] | None = None
    system: str = ""
    template: str = "{{ .Prompt }}"
    parameters: dict[str, Any] | None = None
    license: str | list[str] = ""


class _Copy(msgspec.Struct):
    source: str = ""
    destination: str = ""


def root(call: ApiRequest) -> Response:
    """GET /: the sentence by which people see that it runs."""
    return CompleteResponse(b"Ollama is running", media_type="text/plain; charset=utf-8")


def version(call: ApiRequest) -> Response:
    """GET /api/version: the version whose wire this keeps to."""
    return CompleteResponse.json({"version": VERSION})


def tags(call: ApiRequest) -> Response:
    """GET /api/tags: all models."""
    models = [
        m.summary | {"modified_at": format_rfc3339(m.modified)} for m in call.models.models.values()
    ]
    return CompleteResponse.json({"models": models})


def ps(call: ApiRequest) -> Response:
    """GET /api/ps: the loaded models."""
    loaded = [
        m.summary
        | {"expires_at": format_rfc3339(until), "size_vram": 0, "context_length": CONTEXT_LENGTH}
        for m, until in call.models.loaded(call.now())
    ]
    return CompleteResponse.json({"models": loaded})


def show(call: ApiRequest) -> Response:
    """POST /api/show: all about one model."""
    model = call.models.find(decode_request(call.body, _Named).wanted)
    info = {"general.architecture": "demo", "demo.context_length": CONTEXT_LENGTH}
    return CompleteResponse.json(
        {
            "license": model.license,
            "modelfile": f"# {DESCRIPTION}\nFROM {model.parent or model.name}\n",
            "parameters": model.parameters,
            "template": model.template,
            "system": model.system,
            "details": model.details,
            "model_info": info | {"general.description": DESCRIPTION},
            "capabilities": CAPABILITIES,
            "modified_at": format_rfc3339(model.modified),
        }
    )


def copy(call: ApiRequest) -> Response:
    """POST /api/copy: 200 and no body."""
    request = decode_request(call.body, _Copy)
    call.models.copy(request.source, request.destination, call.now())
    return CompleteResponse(media_type=PLAIN)


def delete(call: ApiRequest) -> Response:
    """DELETE /api/delete, its name in a body: 200 and no body."""
    call.models.remove(decode_request(call.body, _Named).wanted)
    return CompleteResponse(media_type=PLAIN)


def create(call: ApiRequest) -> Response:
    """POST /api/create: a model from another or from uploaded blobs."""
    request = decode_request(call.body, _Create)
    name = request.wanted
    files = {**(request.files or {}), **(request.adapters or {})}
    if not request.from_ and not files:
        raise BadRequest("neither 'from' or 'files' was specified")
    if request.from_:
        call.models.find(request.from_)
    missing = next((each for each in files.values() if each not in call.models.blobs), None)
    if missing is not None:
        raise BadRequest(f"blob {missing} not found")
    return _statuses(call, request, _creating(call, request, name))


def _creating(call: ApiRequest, request: _Create, name: str) -> Iterator[dict[str, Any]]:
    model = _made(request, name, call.now())
    yield {"status": f"using existing layer sha256:{model.digest}"}
    yield {"status": "writing manifest"}
    call.models.put(model)


def _made(request: _Create, name: str, now: float) -> Model:
    parameters = (request.parameters or {}).items()
    licenses = request.license if isinstance(request.license, list) else [request.license]
    return Model(
        name_with_tag(name),
        now,
        parent=request.from_,
        system=request.system,
        template=request.template,
        parameters="\n".join(f"{key} {value}" for key, value in parameters),
        license="\n".join(licenses),
    )


def pull(call: ApiRequest) -> Response:
    """POST /api/pull: any name can be pulled; the model is there once all lines were sent."""
    request = decode_request(call.body, _Named)
    return _statuses(call, request, _pulling(call, request.wanted))


def _pulling(call: ApiRequest, name: str) -> Iterator[dict[str, Any]]:
    yield {"status": "pulling manifest"}
    digest = sha256(name.encode()).hexdigest()
    yield from _progress("pulling", digest, call)
    yield {"status": "verifying sha256 digest"}
    yield {"status": "writing manifest"}
    call.models.put(Model(name_with_tag(name), call.now()))


def push(call: ApiRequest) -> Response:
    """POST /api/push: goes nowhere, and says that it went."""
    request = decode_request(call.body, _Named)
    return _statuses(call, request, _pushing(call, call.models.find(request.wanted)))


def _pushing(call: ApiRequest, model: Model) -> Iterator[dict[str, Any]]:
    yield {"status": "retrieving manifest"}
    yield from _progress("pushing", model.digest, call)
    yield {"status": "pushing manifest"}


def _progress(verb: str, digest: str, call: ApiRequest) -> Iterator[dict[str, Any]]:
    """Report the transfer of one layer, in as many steps as the request says."""
    steps = call.progress_steps
    for step in range(1, steps + 1):
        yield {
            "status": f"{verb} {digest[:12]}",
            "digest": f"sha256:{digest}",
            "total": LAYER,
            "completed": LAYER * step // steps,
        }


def _statuses(call: ApiRequest, request: _Named, steps: Iterable[dict[str, Any]]) -> Response:
    if request.stream is not False:
        return StreamedResponse(
            _as_lines(steps), lambda message: encode({"error": message}) + b"\n"
        )

    def finish() -> bytes:
        for _ in steps:
            pass
        return encode({"status": "success"})

    return CompleteResponse(finish, words=call.progress_steps)


def _as_lines(steps: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    for step in steps:
        yield encode(step) + b"\n"
        yield WORD_PAUSE
    yield encode({"status": "success"}) + b"\n"


def blob(call: ApiRequest) -> Response:
    """HEAD and POST /api/blobs/sha256:…: is it there; take it in if its hash is right."""
    if not re.fullmatch(r"sha256[:-][0-9a-f]{64}", call.path_argument):
        raise BadRequest("invalid digest format")
    digest = call.path_argument.replace("-", ":")
    if call.method == "HEAD":
        if digest not in call.models.blobs:
            raise NotFound(f'blob "{digest}" not found')
        return CompleteResponse()
    return _taken_in(call, digest)


def _taken_in(call: ApiRequest, digest: str) -> Response:
    if digest in call.models.blobs:
        return CompleteResponse(media_type=PLAIN)
    got = f"sha256:{call.body_sha256}"
    if got != digest:
        raise BadRequest(f'digest mismatch, expected "{digest}", got "{got}"')
    call.models.blobs.add(digest)
    return CompleteResponse(status=201, media_type=PLAIN)
