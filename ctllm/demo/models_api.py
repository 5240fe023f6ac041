"""Ollama's own dialect: the models themselves, and the blobs that they are made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any

import msgspec

from ctllm.demo.answer import PLAIN, REST, Answer, Call, Stream, Whole, encode
from ctllm.demo.model_store import (
    CAPABILITIES,
    CONTEXT_LENGTH,
    DESCRIPTION,
    Model,
    full_name,
    rfc3339,
)
from ctllm.demo.request_parser import read
from ctllm.errors import BadRequest, NotFound

VERSION = "0.12.6"
LAYER = 2_000_000_000
_STEPS = 10


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


def root(call: Call) -> Answer:
    """GET /: the sentence by which people see that it runs."""
    return Whole(b"Ollama is running", kind="text/plain; charset=utf-8")


def version(call: Call) -> Answer:
    """GET /api/version: the version whose wire this keeps to."""
    return Whole.of({"version": VERSION})


def tags(call: Call) -> Answer:
    """GET /api/tags: all models."""
    models = [m.summary | {"modified_at": rfc3339(m.modified)} for m in call.shelf.models.values()]
    return Whole.of({"models": models})


def ps(call: Call) -> Answer:
    """GET /api/ps: the loaded models."""
    loaded = [
        m.summary | {"expires_at": rfc3339(until), "size_vram": 0, "context_length": CONTEXT_LENGTH}
        for m, until in call.shelf.loaded(call.now())
    ]
    return Whole.of({"models": loaded})


def show(call: Call) -> Answer:
    """POST /api/show: all about one model."""
    model = call.shelf.find(read(call.body, _Named).wanted)
    info = {"general.architecture": "demo", "demo.context_length": CONTEXT_LENGTH}
    return Whole.of(
        {
            "license": model.license,
            "modelfile": f"# {DESCRIPTION}\nFROM {model.parent or model.name}\n",
            "parameters": model.parameters,
            "template": model.template,
            "system": model.system,
            "details": model.details,
            "model_info": info | {"general.description": DESCRIPTION},
            "capabilities": CAPABILITIES,
            "modified_at": rfc3339(model.modified),
        }
    )


def copy(call: Call) -> Answer:
    """POST /api/copy: 200 and no body."""
    request = read(call.body, _Copy)
    call.shelf.copy(request.source, request.destination, call.now())
    return Whole(kind=PLAIN)


def delete(call: Call) -> Answer:
    """DELETE /api/delete, its name in a body: 200 and no body."""
    call.shelf.remove(read(call.body, _Named).wanted)
    return Whole(kind=PLAIN)


def create(call: Call) -> Answer:
    """POST /api/create: a model from another or from uploaded blobs."""
    request = read(call.body, _Create)
    name = request.wanted
    files = {**(request.files or {}), **(request.adapters or {})}
    if not request.from_ and not files:
        raise BadRequest("neither 'from' or 'files' was specified")
    if request.from_:
        call.shelf.find(request.from_)
    missing = next((each for each in files.values() if each not in call.shelf.blobs), None)
    if missing is not None:
        raise BadRequest(f"blob {missing} not found")
    return _statuses(call, request, _creating(call, request, name))


def _creating(call: Call, request: _Create, name: str) -> Iterator[dict[str, Any]]:
    model = _made(request, name, call.now())
    yield {"status": f"using existing layer sha256:{model.digest}"}
    yield {"status": "writing manifest"}
    call.shelf.put(model)


def _made(request: _Create, name: str, now: float) -> Model:
    parameters = (request.parameters or {}).items()
    licenses = request.license if isinstance(request.license, list) else [request.license]
    return Model(
        full_name(name),
        now,
        parent=request.from_,
        system=request.system,
        template=request.template,
        parameters="\n".join(f"{key} {value}" for key, value in parameters),
        license="\n".join(licenses),
    )


def pull(call: Call) -> Answer:
    """POST /api/pull: any name can be pulled; the model is there once all lines were sent."""
    request = read(call.body, _Named)
    return _statuses(call, request, _pulling(call, request.wanted))


def _pulling(call: Call, name: str) -> Iterator[dict[str, Any]]:
    yield {"status": "pulling manifest"}
    digest = sha256(name.encode()).hexdigest()
    yield from _progress("pulling", digest, call)
    yield {"status": "verifying sha256 digest"}
    yield {"status": "writing manifest"}
    call.shelf.put(Model(full_name(name), call.now()))


def push(call: Call) -> Answer:
    """POST /api/push: goes nowhere, and says that it went."""
    request = read(call.body, _Named)
    return _statuses(call, request, _pushing(call, call.shelf.find(request.wanted)))


def _pushing(call: Call, model: Model) -> Iterator[dict[str, Any]]:
    yield {"status": "retrieving manifest"}
    yield from _progress("pushing", model.digest, call)
    yield {"status": "pushing manifest"}


def _progress(verb: str, digest: str, call: Call) -> Iterator[dict[str, Any]]:
    """Report the transfer of one layer, in as many steps as the call's script has lines."""
    steps = call.script.count or _STEPS
    for step in range(1, steps + 1):
        yield {
            "status": f"{verb} {digest[:12]}",
            "digest": f"sha256:{digest}",
            "total": LAYER,
            "completed": LAYER * step // steps,
        }


def _statuses(call: Call, request: _Named, steps: Iterable[dict[str, Any]]) -> Answer:
    if request.stream is not False:
        return Stream(_as_lines(steps), lambda message: encode({"error": message}) + b"\n")

    def finish() -> bytes:
        for _ in steps:
            pass
        return encode({"status": "success"})

    return Whole(finish, words=_STEPS)


def _as_lines(steps: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    for step in steps:
        yield encode(step) + b"\n"
        yield REST
    yield encode({"status": "success"}) + b"\n"


def blob(call: Call) -> Answer:
    """HEAD and POST /api/blobs/sha256:…: is it there; take it in if its hash is right."""
    if not re.fullmatch(r"sha256[:-][0-9a-f]{64}", call.argument):
        raise BadRequest("invalid digest format")
    digest = call.argument.replace("-", ":")
    if call.method == "HEAD":
        if digest not in call.shelf.blobs:
            raise NotFound(f'blob "{digest}" not found')
        return Whole()
    return _taken_in(call, digest)


def _taken_in(call: Call, digest: str) -> Answer:
    if digest in call.shelf.blobs:
        return Whole(kind=PLAIN)
    got = f"sha256:{call.sha256}"
    if got != digest:
        raise BadRequest(f'digest mismatch, expected "{digest}", got "{got}"')
    call.shelf.blobs.add(digest)
    return Whole(status=201, kind=PLAIN)
