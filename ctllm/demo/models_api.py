"""Ollama's dialect: endpoints for models and for the blobs that models are made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from hashlib import sha256

import msgspec

from ctllm.common.json_decoder import JsonObject
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
    JSON_WITHOUT_CHARSET,
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
#: The size that a transfer reports, in bytes.
LAYER_BYTES = 2_000_000_000


class _ModelRequest(msgspec.Struct):
    """A request that names a model. Older clients use the key `name`."""

    model: str = ""
    name: str = ""
    stream: bool | None = None

    @property
    def model_name(self) -> str:
        if not (self.model or self.name):
            raise BadRequest("model is required")
        return self.model or self.name


class _Create(_ModelRequest):
    from_: str = msgspec.field(default="", name="from")
    files: dict[str, str] | None = None
    adapters: dict[str, str] | None = None
    system: str = ""
    template: str = "{{ .Prompt }}"
    parameters: JsonObject | None = None
    license: str | list[str] = ""


class _Copy(msgspec.Struct):
    source: str = ""
    destination: str = ""


def root(request: ApiRequest) -> Response:
    """GET /: a sentence that says that the server runs."""
    return CompleteResponse(b"Ollama is running", media_type="text/plain; charset=utf-8")


def version(request: ApiRequest) -> Response:
    """GET /api/version: the version of Ollama that this server is compatible with."""
    return CompleteResponse.json({"version": VERSION})


def tags(request: ApiRequest) -> Response:
    """GET /api/tags: all models."""
    models = [
        m.summary | {"modified_at": format_rfc3339(m.modified)}
        for m in request.models.models.values()
    ]
    return CompleteResponse.json({"models": models})


def ps(request: ApiRequest) -> Response:
    """GET /api/ps: the loaded models."""
    loaded = [
        m.summary
        | {"expires_at": format_rfc3339(until), "size_vram": 0, "context_length": CONTEXT_LENGTH}
        for m, until in request.models.loaded(request.now())
    ]
    return CompleteResponse.json({"models": loaded})


def show(request: ApiRequest) -> Response:
    """POST /api/show: the details of one model."""
    model = request.models.find(decode_request(request.body, _ModelRequest).model_name)
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


def copy(request: ApiRequest) -> Response:
    """POST /api/copy: status 200 without a body."""
    body = decode_request(request.body, _Copy)
    request.models.copy(body.source, body.destination, request.now())
    return CompleteResponse(media_type=PLAIN)


def delete(request: ApiRequest) -> Response:
    """DELETE /api/delete, with the name in a body: status 200 without a body."""
    request.models.remove(decode_request(request.body, _ModelRequest).model_name)
    return CompleteResponse(media_type=PLAIN)


def create(request: ApiRequest) -> Response:
    """POST /api/create: make a model from another model or from uploaded blobs."""
    body = decode_request(request.body, _Create)
    name = body.model_name
    files = {**(body.files or {}), **(body.adapters or {})}
    if not body.from_ and not files:
        raise BadRequest("neither 'from' or 'files' was specified")
    if body.from_:
        request.models.find(body.from_)
    missing = next((each for each in files.values() if each not in request.models.blobs), None)
    if missing is not None:
        raise BadRequest(f"blob {missing} not found")
    return _status_response(request, body, _creation_steps(request, body, name))


def _creation_steps(request: ApiRequest, body: _Create, name: str) -> Iterator[JsonObject]:
    model = _new_model(body, name, request.now())
    yield {"status": f"using existing layer sha256:{model.digest}"}
    yield {"status": "writing manifest"}
    request.models.put(model)


def _new_model(body: _Create, name: str, now: float) -> Model:
    parameters = (body.parameters or {}).items()
    licenses = body.license if isinstance(body.license, list) else [body.license]
    return Model(
        name_with_tag(name),
        now,
        parent=body.from_,
        system=body.system,
        template=body.template,
        parameters="\n".join(f"{key} {value}" for key, value in parameters),
        license="\n".join(licenses),
    )


def pull(request: ApiRequest) -> Response:
    """POST /api/pull: pull any name. The model exists once all lines are sent."""
    body = decode_request(request.body, _ModelRequest)
    return _status_response(request, body, _pull_steps(request, body.model_name))


def _pull_steps(request: ApiRequest, name: str) -> Iterator[JsonObject]:
    yield {"status": "pulling manifest"}
    digest = sha256(name.encode()).hexdigest()
    yield from _transfer_steps("pulling", digest, request)
    yield {"status": "verifying sha256 digest"}
    yield {"status": "writing manifest"}
    request.models.put(Model(name_with_tag(name), request.now()))


def push(request: ApiRequest) -> Response:
    """POST /api/push: report a transfer, and send nothing."""
    body = decode_request(request.body, _ModelRequest)
    return _status_response(
        request, body, _push_steps(request, request.models.find(body.model_name))
    )


def _push_steps(request: ApiRequest, model: Model) -> Iterator[JsonObject]:
    yield {"status": "retrieving manifest"}
    yield from _transfer_steps("pushing", model.digest, request)
    yield {"status": "pushing manifest"}


def _transfer_steps(verb: str, digest: str, request: ApiRequest) -> Iterator[JsonObject]:
    """Yield the progress of the transfer of one layer."""
    steps = request.progress_steps
    for step in range(1, steps + 1):
        yield {
            "status": f"{verb} {digest[:12]}",
            "digest": f"sha256:{digest}",
            "total": LAYER_BYTES,
            "completed": LAYER_BYTES * step // steps,
        }


def _status_response(
    request: ApiRequest, body: _ModelRequest, steps: Iterable[JsonObject]
) -> Response:
    if body.stream is not False:
        return StreamedResponse(
            _as_lines(steps), lambda message: encode({"error": message}) + b"\n"
        )

    def finish() -> bytes:
        for _ in steps:
            pass
        return encode({"status": "success"})

    return CompleteResponse(finish, media_type=JSON_WITHOUT_CHARSET, words=request.progress_steps)


def _as_lines(steps: Iterable[JsonObject]) -> Iterator[bytes]:
    for step in steps:
        yield encode(step) + b"\n"
        yield WORD_PAUSE
    yield encode({"status": "success"}) + b"\n"


def blob(request: ApiRequest) -> Response:
    """HEAD and POST /api/blobs/sha256:…: look a blob up, or add it if its hash is right."""
    if not re.fullmatch(r"sha256[:-][0-9a-f]{64}", request.path_argument):
        raise BadRequest("invalid digest format")
    digest = request.path_argument.replace("-", ":")
    if request.method == "HEAD":
        if digest not in request.models.blobs:
            raise NotFound(f'blob "{digest}" not found')
        return CompleteResponse()
    return _upload_blob(request, digest)


def _upload_blob(request: ApiRequest, digest: str) -> Response:
    if digest in request.models.blobs:
        return CompleteResponse(media_type=PLAIN)
    got = f"sha256:{request.body_sha256}"
    if got != digest:
        raise BadRequest(f'digest mismatch, expected "{digest}", got "{got}"')
    request.models.blobs.add(digest)
    return CompleteResponse(status=201, media_type=PLAIN)
