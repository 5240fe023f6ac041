"""The endpoint for each method and path, and the error responses of each dialect."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote

from ctllm.common.json_decoder import JsonObject
from ctllm.demo import anthropic_api, generate_api, models_api, openai_api, responses_api
from ctllm.demo.response import PLAIN, ApiRequest, CompleteResponse, Response
from ctllm.errors import CtllmError, MethodNotAllowed, NotFound

Endpoint = Callable[[ApiRequest], Response]

_EXACT: dict[str, dict[str, Endpoint]] = {
    "/": {"GET": models_api.root, "HEAD": models_api.root},
    "/api/version": {"GET": models_api.version, "HEAD": models_api.version},
    "/api/tags": {"GET": models_api.tags, "HEAD": models_api.tags},
    "/api/ps": {"GET": models_api.ps},
    "/api/show": {"POST": models_api.show},
    "/api/create": {"POST": models_api.create},
    "/api/copy": {"POST": models_api.copy},
    "/api/pull": {"POST": models_api.pull},
    "/api/push": {"POST": models_api.push},
    "/api/delete": {"DELETE": models_api.delete},
    "/api/generate": {"POST": generate_api.generate},
    "/api/chat": {"POST": generate_api.chat},
    "/api/embed": {"POST": generate_api.embed},
    "/api/embeddings": {"POST": generate_api.embeddings},
    "/v1/chat/completions": {"POST": openai_api.chat_completions},
    "/v1/completions": {"POST": openai_api.completions},
    "/v1/embeddings": {"POST": openai_api.embeddings},
    "/v1/audio/transcriptions": {"POST": openai_api.transcriptions},
    "/v1/models": {"GET": openai_api.models},
    "/v1/responses": {"POST": responses_api.responses},
    "/v1/messages": {"POST": anthropic_api.messages},
}
_UNDER: dict[str, dict[str, Endpoint]] = {
    "/api/blobs/": {"HEAD": models_api.blob, "POST": models_api.blob},
    "/v1/models/": {"GET": openai_api.model},
}
BLOBS = "/api/blobs/"


class UnknownPath(NotFound):
    """Ollama has no endpoint at this path."""


def find_endpoint(method: str, path: str) -> tuple[Endpoint, str]:
    """Return the endpoint and the variable part of the path.

    Raises UnknownPath or MethodNotAllowed.
    """
    methods, argument = _methods_of(path)
    if method not in methods:
        raise MethodNotAllowed("405 method not allowed", allow=", ".join(methods))
    return methods[method], argument


def _methods_of(path: str) -> tuple[dict[str, Endpoint], str]:
    if path in _EXACT:
        return _EXACT[path], ""
    for prefix, methods in _UNDER.items():
        if path.startswith(prefix) and len(path) > len(prefix):
            return methods, unquote(path[len(prefix) :])
    raise UnknownPath("404 page not found")


def error_response(path: str, error: CtllmError) -> CompleteResponse:
    """Return an error in the dialect of the path, or in plain text if no endpoint matches."""
    if isinstance(error, UnknownPath):
        return CompleteResponse(error.message.encode(), error.status, PLAIN)
    if isinstance(error, MethodNotAllowed):
        allow = (("Allow", error.allow),)
        return CompleteResponse(error.message.encode(), error.status, PLAIN, allow)
    body = error_json(path, error.message, error.status)
    if path.startswith("/v1/") and error.status != 400:
        return CompleteResponse.json_line(body, error.status)
    return CompleteResponse.json(body, error.status)


def error_json(path: str, message: str, status: int) -> JsonObject:
    """Return the JSON of an error in the dialect of the path."""
    if path.startswith("/v1/messages"):
        return anthropic_api.error_json(message, status)
    return openai_api.error_json(message, status) if path.startswith("/v1/") else {"error": message}
