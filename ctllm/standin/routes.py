"""Which endpoint answers a method and a path, and how each dialect says no."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from ctllm.errors import CtllmError, MethodNotAllowed, NotFound
from ctllm.standin import anthropic, library, native, openai, responses
from ctllm.standin.answer import PLAIN, Answer, Call, Whole

Endpoint = Callable[[Call], Answer]

_EXACT: dict[str, dict[str, Endpoint]] = {
    "/": {"GET": library.root, "HEAD": library.root},
    "/api/version": {"GET": library.version, "HEAD": library.version},
    "/api/tags": {"GET": library.tags, "HEAD": library.tags},
    "/api/ps": {"GET": library.ps},
    "/api/show": {"POST": library.show},
    "/api/create": {"POST": library.create},
    "/api/copy": {"POST": library.copy},
    "/api/pull": {"POST": library.pull},
    "/api/push": {"POST": library.push},
    "/api/delete": {"DELETE": library.delete},
    "/api/generate": {"POST": native.generate},
    "/api/chat": {"POST": native.chat},
    "/api/embed": {"POST": native.embed},
    "/api/embeddings": {"POST": native.embeddings},
    "/v1/chat/completions": {"POST": openai.chat_completions},
    "/v1/completions": {"POST": openai.completions},
    "/v1/embeddings": {"POST": openai.embeddings},
    "/v1/audio/transcriptions": {"POST": openai.transcriptions},
    "/v1/models": {"GET": openai.models},
    "/v1/responses": {"POST": responses.responses},
    "/v1/messages": {"POST": anthropic.messages},
}
_UNDER: dict[str, dict[str, Endpoint]] = {
    "/api/blobs/": {"HEAD": library.blob, "POST": library.blob},
    "/v1/models/": {"GET": openai.model},
}
BLOBS = "/api/blobs/"


class NoSuchPage(NotFound):
    """Nothing of Ollama's is at this path."""


def find(method: str, path: str) -> tuple[Endpoint, str]:
    """Give the endpoint and the rest of the path; raises NoSuchPage or MethodNotAllowed."""
    methods, argument = _at(path)
    if method not in methods:
        raise MethodNotAllowed("405 method not allowed", allow=", ".join(methods))
    return methods[method], argument


def _at(path: str) -> tuple[dict[str, Endpoint], str]:
    if path in _EXACT:
        return _EXACT[path], ""
    for prefix, methods in _UNDER.items():
        if path.startswith(prefix) and len(path) > len(prefix):
            return methods, unquote(path[len(prefix) :])
    raise NoSuchPage("404 page not found")


def refusal(path: str, error: CtllmError) -> Whole:
    """Say no in the dialect of the path; what no endpoint has seen is refused in plain text."""
    if isinstance(error, NoSuchPage):
        return Whole(error.message.encode(), error.status, PLAIN)
    if isinstance(error, MethodNotAllowed):
        allow = (("Allow", error.allow),)
        return Whole(error.message.encode(), error.status, PLAIN, allow)
    return Whole.of(failure(path, error.message, error.status), error.status)


def failure(path: str, message: str, status: int) -> dict[str, Any]:
    """Give the JSON of an error in the dialect of the path."""
    if path.startswith("/v1/messages"):
        return anthropic.failure(message, status)
    return openai.failure(message, status) if path.startswith("/v1/") else {"error": message}
