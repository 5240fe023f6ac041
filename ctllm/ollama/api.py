"""Ollama's HTTP API as a table: which endpoints there are, what each needs, where it names a model.

The table is the policy: what a caller may ask follows from the method and the path, and what is
not in it is refused unless the machine with Ollama opens it (`desktop.allowed_requests`). The cloud and the
desktop read the same table, and both read a path the way that Ollama's server reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote_from_bytes, unquote, unquote_to_bytes

from ctllm.errors import CtllmError, Forbidden, MethodNotAllowed
from ctllm.http.message.head import RequestHead


class Scope(StrEnum):
    """What an endpoint needs: inference and lists, changes of any kind, or opening by name."""

    USE = "use"
    MANAGE = "manage"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method of one path.

    `model_fields` are the fields of the body that name the model which must be there, the one
    that counts first in front; with `form`, the body may be `multipart/form-data` instead of JSON.
    `changes_models` says whether the list of models may differ
    afterwards, `names_registry` whether the body can make Ollama connect to a registry, and
    `leaves_machine` whether Ollama sends the request on to ollama.com.
    """

    scope: Scope
    model_fields: tuple[str, ...] = ()
    changes_models: bool = False
    names_registry: bool = False
    leaves_machine: bool = False
    accepts_form: bool = False


_MODEL_FIELD = ("model",)
_MODEL_OR_NAME = ("model", "name")
_READ = Endpoint(Scope.USE)
_INFERENCE = Endpoint(Scope.USE, _MODEL_FIELD)
_FORM = Endpoint(Scope.USE, _MODEL_FIELD, accepts_form=True)
_OLLAMA_COM = Endpoint(Scope.USE, leaves_machine=True)
_BLOB = Endpoint(Scope.MANAGE)
_CLOSED = Endpoint(Scope.CLOSED)

#: A path that ends with a slash stands for every path with one parameter behind it.
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
    b"/v1/responses": {b"POST": _INFERENCE},
    b"/v1/images/generations": {b"POST": _INFERENCE},
    b"/v1/images/edits": {b"POST": _FORM},
    b"/v1/audio/transcriptions": {b"POST": _FORM},
    b"/v1/messages": {b"POST": _INFERENCE},
    b"/v1/messages/count_tokens": {b"POST": _INFERENCE},
    # These ask ollama.com, with the account of the machine's owner, as `:cloud` models do.
    b"/api/experimental/web_search": {b"POST": _OLLAMA_COM},
    b"/api/experimental/web_fetch": {b"POST": _OLLAMA_COM},
    b"/api/experimental/model-recommendations": {b"GET": _READ},
    b"/api/pull": {b"POST": Endpoint(Scope.MANAGE, (), True, True)},
    b"/api/push": {b"POST": Endpoint(Scope.MANAGE, _MODEL_OR_NAME, names_registry=True)},
    b"/api/create": {b"POST": Endpoint(Scope.MANAGE, (), True, True)},
    b"/api/copy": {b"POST": Endpoint(Scope.MANAGE, ("source",), True)},
    b"/api/delete": {b"DELETE": Endpoint(Scope.MANAGE, _MODEL_OR_NAME, True)},
    b"/api/blobs/": {b"HEAD": _BLOB, b"POST": _BLOB},
    # The machine's account at ollama.com is its owner's alone.
    b"/api/me": {b"POST": _CLOSED},
    b"/api/signout": {b"POST": _CLOSED},
    b"/api/user/keys/": {b"DELETE": _CLOSED},
}
_MODEL_PREFIX = b"/v1/models/"
#: Where one parameter follows; models of registries have slashes in their names.
_PREFIXES = tuple(path for path in ENDPOINTS if path.endswith(b"/") and path != b"/")
#: What is the cloud's own and not Ollama's.
_CTLLM_PREFIXES = (b"/ctllm/", b"/ws/")
#: What a path may contain as it is (RFC 3986, section 3.3).
_PATH_SAFE = "/:@!$&'()*+,;=~"


# -- paths, as Ollama's server reads them


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
    """Give `head` with the path that it means, if that is one of Ollama's or of the cloud's.

    So `//api/chat`, `/api/chat/` and `/api/%63hat` become `/api/chat`: what is judged is what is
    passed on. A path that means neither stays as it was sent, and is not in the table either.
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
        return head  # only its parameter is quoted
    query = head.target[len(path) :]
    target = quote_from_bytes(cleaned, safe=_PATH_SAFE).encode() + query
    return RequestHead(head.method, target, head.headers)


def _find_methods(path: bytes) -> dict[bytes, Endpoint] | None:
    found = ENDPOINTS.get(path)
    if found is not None and (path == b"/" or not path.endswith(b"/")):
        return found
    for prefix in _PREFIXES:
        if path.startswith(prefix) and len(path) > len(prefix):
            # A parameter with empty or dot segments would name another path behind a server that
            # resolves them.
            return ENDPOINTS[prefix] if clean_path(path) == unquote_to_bytes(path) else None
    return None


def find_endpoint(head: RequestHead) -> Endpoint | None:
    """Give the endpoint that `head` asks, whose path is canonical; None if the table has none.

    HEAD and OPTIONS change nothing, so they may be asked wherever something can be read.
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


def refusal_error(head: RequestHead, message: str) -> CtllmError:
    """Make the error for what the table lacks or has closed: 405 where only the method differs."""
    methods = _find_methods(head.path)
    if methods and head.method not in methods:
        allow = ", ".join(sorted(method.decode() for method in methods))
        return MethodNotAllowed(
            f"{describe_request(head)} is no endpoint of Ollama's.", allow=allow
        )
    return Forbidden(message + base_url_hint(head))


def base_url_hint(head: RequestHead) -> str:
    """Say what is wrong with a client's base URL, where that explains `head`; else nothing."""
    path = head.path
    if path.startswith(b"/v1/") and _find_methods(path[3:]):
        return " The base URL of your client has one /v1 too many."
    if not path.startswith(b"/v1/") and _find_methods(b"/v1" + path):
        return " The base URL of your client lacks /v1 at its end."
    return ""


def describe_request(head: RequestHead) -> str:
    """Method and path, for sentences; a long path is shortened."""
    path = head.path.decode("latin-1")
    return f"{head.method.decode('latin-1')} {path if len(path) <= 100 else f'{path[:100]}…'}"


# -- models


def model_fields(head: RequestHead) -> tuple[str, ...]:
    """The top-level fields of the body that name a model, the first that counts first, or none."""
    found = find_endpoint(head)
    return () if found is None else found.model_fields


def accepts_form(head: RequestHead) -> bool:
    """Whether the body may be `multipart/form-data`."""
    found = find_endpoint(head)
    return found is not None and found.accepts_form


def model_in_path(head: RequestHead) -> str | None:
    """The model that the path names, or None."""
    found = head.path.removeprefix(_MODEL_PREFIX)
    return unquote(found) if found and found != head.path else None


def changes_models(head: RequestHead) -> bool:
    """Whether there may be other models when this has been answered."""
    found = find_endpoint(head)
    return found is not None and found.changes_models


def can_any_ollama_answer(head: RequestHead) -> bool:
    """Whether any Ollama may answer: what only asks, and changes nothing of the machine's."""
    found = find_endpoint(head)
    return found is not None and found.scope is Scope.USE


def can_remote_ollama_answer(head: RequestHead) -> bool:
    """Whether another machine's Ollama may be asked: only what its own API has."""
    return can_any_ollama_answer(head) and head.path.startswith((b"/api/", b"/v1/"))


def is_remote_name(model: str) -> bool:
    """Whether the name says that Ollama asks ollama.com for the model."""
    tag = canonical_model(model).rpartition(":")[2]
    return tag == "cloud" or tag.endswith("-cloud")


def canonical_model(model: str) -> str:
    """One name for all names of a model: Ollama minds neither case nor what it adds by itself."""
    name = model.lower().removeprefix("http://").removeprefix("https://")
    name = name.removeprefix("registry.ollama.ai/").removeprefix("library/")
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"
