"""A table of the endpoints of Ollama's HTTP API: the scope that each needs, and its model fields.

Cloud and desktop authorize requests by this table. A method and path that are not in it are refused
unless `desktop.allowed_requests` lists them. Paths are interpreted as Ollama's server does it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote_from_bytes, unquote, unquote_to_bytes

from ctllm.errors import CtllmError, Forbidden, MethodNotAllowed
from ctllm.http.message.head import RequestHead


class Scope(StrEnum):
    """The scope that an endpoint needs; CLOSED ones must be listed in the configuration."""

    USE = "use"
    MANAGE = "manage"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A method of a path.

    `model_fields` are the fields of the body that name a required model, in order of precedence.
    `changes_models` is true if the request may change the list of models, `names_registry` if the
    body can make Ollama connect to a registry, `leaves_machine` if Ollama forwards the request to
    ollama.com, `may_search_web` if a tool in the body can make Ollama do a search there, and
    `accepts_form` if the body may be `multipart/form-data` instead of JSON.
    """

    scope: Scope
    model_fields: tuple[str, ...] = ()
    changes_models: bool = False
    names_registry: bool = False
    leaves_machine: bool = False
    may_search_web: bool = False
    accepts_form: bool = False


_MODEL_FIELD = ("model",)
_MODEL_OR_NAME = ("model", "name")
_READ = Endpoint(Scope.USE)
_INFERENCE = Endpoint(Scope.USE, _MODEL_FIELD)
_WITH_WEB_SEARCH = Endpoint(Scope.USE, _MODEL_FIELD, may_search_web=True)
_FORM = Endpoint(Scope.USE, _MODEL_FIELD, accepts_form=True)
_OLLAMA_COM = Endpoint(Scope.USE, leaves_machine=True)
_BLOB = Endpoint(Scope.MANAGE)
_CLOSED = Endpoint(Scope.CLOSED)

#: A path that ends with a slash stands for all paths with one parameter after it.
ENDPOINTS: dict[bytes, dict[bytes, Endpoint]] = {
    b"/": {b"GET": _READ},
    b"/api/version": {b"GET": _READ},
    b"/api/status": {b"GET": _READ},
    b"/api/tags": {b"GET": _READ},
    b"/api/ps": {b"GET": _READ},
    b"/api/show": {b"POST": Endpoint(Scope.USE, _MODEL_OR_NAME)},
    b"/api/generate": {b"POST": _INFERENCE},
    b"/api/chat": {b"POST": _INFERENCE},
    b"/api/embed": {b"POST": _INFERENCE},
    b"/api/embeddings": {b"POST": _INFERENCE},
    b"/v1/models": {b"GET": _READ},
    b"/v1/models/": {b"GET": _READ},
    b"/v1/chat/completions": {b"POST": _INFERENCE},
    b"/v1/completions": {b"POST": _INFERENCE},
    b"/v1/embeddings": {b"POST": _INFERENCE},
    b"/v1/responses": {b"POST": _WITH_WEB_SEARCH},
    b"/v1/images/generations": {b"POST": _INFERENCE},
    b"/v1/images/edits": {b"POST": _FORM},
    b"/v1/audio/transcriptions": {b"POST": _FORM},
    b"/v1/messages": {b"POST": _WITH_WEB_SEARCH},
    b"/v1/messages/count_tokens": {b"POST": _INFERENCE},
    # These query ollama.com with the account of the machine's owner, as `:cloud` models do.
    b"/api/experimental/web_search": {b"POST": _OLLAMA_COM},
    b"/api/experimental/web_fetch": {b"POST": _OLLAMA_COM},
    b"/api/experimental/model-recommendations": {b"GET": _READ},
    # These redirect names of models (Ollama 0.15 to 0.17), also those that keys are restricted to.
    b"/api/experimental/aliases": {b"GET": _CLOSED, b"POST": _CLOSED, b"DELETE": _CLOSED},
    b"/api/pull": {b"POST": Endpoint(Scope.MANAGE, (), True, True)},
    b"/api/push": {b"POST": Endpoint(Scope.MANAGE, _MODEL_OR_NAME, names_registry=True)},
    b"/api/create": {b"POST": Endpoint(Scope.MANAGE, (), True, True)},
    b"/api/copy": {b"POST": Endpoint(Scope.MANAGE, ("source",), True)},
    b"/api/delete": {b"DELETE": Endpoint(Scope.MANAGE, _MODEL_OR_NAME, True)},
    b"/api/blobs/": {b"HEAD": _BLOB, b"POST": _BLOB},
    # These concern the account of the machine's owner at ollama.com.
    b"/api/me": {b"POST": _CLOSED},
    b"/api/signout": {b"POST": _CLOSED},
    b"/api/user/keys/": {b"DELETE": _CLOSED},
}
_MODEL_PREFIX = b"/v1/models/"
#: Paths with one parameter, which may contain slashes as names of models do.
_PREFIXES = tuple(path for path in ENDPOINTS if path.endswith(b"/") and path != b"/")
#: Paths of ctllm itself.
_CTLLM_PREFIXES = (b"/ctllm/", b"/ws/")
#: Characters of a path that are not percent-encoded (RFC 3986, section 3.3).
_PATH_SAFE = "/:@!$&'()*+,;=~"


# -- paths


def clean_path(path: bytes) -> bytes:
    """Decode `path` and resolve its empty and dot segments, as Go's ServeMux and gin do."""
    segments: list[bytes] = []
    for segment in unquote_to_bytes(path).split(b"/"):
        if segment == b"..":
            del segments[-1:]
        elif segment not in (b"", b"."):
            segments.append(segment)
    return b"/" + b"/".join(segments)


def canonical_request(head: RequestHead) -> RequestHead:
    """Return `head` with its path normalized, if that gives a path of Ollama or ctllm.

    `//api/chat`, `/api/chat/` and `/api/%63hat` become `/api/chat`, so that the path which is
    authorized is the path that is sent. Any other path is unchanged, and is not in the table.
    """
    path = head.path
    if path in ENDPOINTS and not path.endswith(b"/"):
        return head
    cleaned = clean_path(path)
    if cleaned == path or not (
        cleaned == b"/health"
        or cleaned.startswith(_CTLLM_PREFIXES)
        or _find_methods(cleaned) is not None
    ):
        return head
    if cleaned == unquote_to_bytes(path) and path.startswith(_PREFIXES):
        return head  # only its parameter is percent-encoded
    query = head.target[len(path) :]
    target = quote_from_bytes(cleaned, safe=_PATH_SAFE).encode() + query
    return RequestHead(head.method, target, head.headers)


def _find_methods(path: bytes) -> dict[bytes, Endpoint] | None:
    found = ENDPOINTS.get(path)
    if found is not None and (path == b"/" or not path.endswith(b"/")):
        return found
    for prefix in _PREFIXES:
        if path.startswith(prefix) and len(path) > len(prefix):
            # A server that resolves empty and dot segments would see another path.
            return ENDPOINTS[prefix] if clean_path(path) == unquote_to_bytes(path) else None
    return None


def find_endpoint(head: RequestHead) -> Endpoint | None:
    """Return the endpoint of `head`, whose path is canonical, or None if the table has none.

    HEAD is allowed wherever GET is, and OPTIONS on every path.
    """
    methods = _find_methods(head.path)
    if methods is None:
        return None
    found = methods.get(head.method)
    if found is None and head.method == b"HEAD":
        found = methods.get(b"GET")
    if found is None and head.method == b"OPTIONS":
        return _READ
    return found


def is_known_path(path: bytes) -> bool:
    """Return whether the table has `path`, which is canonical."""
    return _find_methods(path) is not None


def refusal_error(head: RequestHead, message: str) -> CtllmError:
    """Return the error for a refused request: 405 if the path has other methods, else 403."""
    methods = _find_methods(head.path)
    if methods and head.method not in methods:
        allow = ", ".join(sorted(method.decode() for method in methods))
        return MethodNotAllowed(
            f"{describe_request(head)} is not an endpoint of Ollama.", allow=allow
        )
    return Forbidden(message + base_url_hint(head))


def base_url_hint(head: RequestHead) -> str:
    """Return a sentence about a wrong base URL if that explains the path; else an empty string."""
    path = head.path
    if path.startswith(b"/v1/") and _find_methods(path[3:]):
        return " The base URL of your client has one /v1 too many."
    if not path.startswith(b"/v1/") and _find_methods(b"/v1" + path):
        return " The base URL of your client lacks /v1 at its end."
    return ""


def describe_request(head: RequestHead) -> str:
    """Return the method and the path, shortened to 100 characters, for a message."""
    path = head.path.decode("latin-1")
    return f"{head.method.decode('latin-1')} {path if len(path) <= 100 else f'{path[:100]}…'}"


# -- models


def model_fields(head: RequestHead) -> tuple[str, ...]:
    """Return the top-level fields of the body that name a model, in order of precedence."""
    found = find_endpoint(head)
    return () if found is None else found.model_fields


def accepts_form(head: RequestHead) -> bool:
    """Return whether the body may be `multipart/form-data`."""
    found = find_endpoint(head)
    return found is not None and found.accepts_form


def model_in_path(head: RequestHead) -> str | None:
    """Return the model that the path names, or None."""
    found = head.path.removeprefix(_MODEL_PREFIX)
    return unquote(found) if found and found != head.path else None


def changes_models(head: RequestHead) -> bool:
    """Return whether the request may change the list of models."""
    found = find_endpoint(head)
    return found is not None and found.changes_models


def can_any_ollama_answer(head: RequestHead) -> bool:
    """Return whether any Ollama can respond, because the request changes nothing."""
    found = find_endpoint(head)
    return found is not None and found.scope is Scope.USE


def can_remote_ollama_answer(head: RequestHead) -> bool:
    """Return whether the Ollama of another machine can respond: only its API is relayed."""
    return can_any_ollama_answer(head) and head.path.startswith((b"/api/", b"/v1/"))


def is_remote_name(model: str) -> bool:
    """Return whether the name is that of a model which runs at ollama.com."""
    tag = canonical_model(model).rpartition(":")[2]
    return tag == "cloud" or tag.endswith("-cloud")


def canonical_model(model: str) -> str:
    """Return one name for all names of a model: in lower case, without defaults, with a tag.

    Ollama ignores space around a name and its tag.
    """
    base, _, tag = model.lower().rpartition(":")
    name = f"{base.strip()}:{tag.strip()}".removeprefix(":")
    name = name.removeprefix("http://").removeprefix("https://")
    name = name.removeprefix("registry.ollama.ai/").removeprefix("library/")
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"
