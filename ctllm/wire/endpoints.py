"""Ollama's endpoints, as far as a relay must tell one from another.

Whatever is not named here passes like everything else: this is no list of what is allowed.
"""

from __future__ import annotations

from urllib.parse import unquote

from ctllm.wire.heads import RequestHead

_MODEL = ("model",)
#: By method and path: where the body, JSON or a form, names the model that must be there, the field
#: that counts first before the one that older clients use.
_FIELDS: dict[tuple[bytes, bytes], tuple[str, ...]] = {
    (b"POST", b"/api/generate"): _MODEL,
    (b"POST", b"/api/chat"): _MODEL,
    (b"POST", b"/api/embed"): _MODEL,
    (b"POST", b"/api/embeddings"): _MODEL,
    (b"POST", b"/api/show"): ("model", "name"),
    (b"POST", b"/api/push"): ("model", "name"),
    (b"POST", b"/api/copy"): ("source",),
    (b"DELETE", b"/api/delete"): ("model", "name"),
    (b"POST", b"/v1/chat/completions"): _MODEL,
    (b"POST", b"/v1/completions"): _MODEL,
    (b"POST", b"/v1/embeddings"): _MODEL,
    (b"POST", b"/v1/responses"): _MODEL,
    (b"POST", b"/v1/images/generations"): _MODEL,
    (b"POST", b"/v1/images/edits"): _MODEL,
    (b"POST", b"/v1/audio/transcriptions"): _MODEL,
    (b"POST", b"/v1/messages"): _MODEL,
    (b"POST", b"/v1/messages/count_tokens"): _MODEL,
}
#: Whose body may be a form, in which the model is a field.
_FORMS = frozenset(((b"POST", b"/v1/images/edits"), (b"POST", b"/v1/audio/transcriptions")))
_ONE_MODEL = b"/v1/models/"
_CHANGES = frozenset(
    (
        (b"POST", b"/api/pull"),
        (b"POST", b"/api/create"),
        (b"POST", b"/api/copy"),
        (b"DELETE", b"/api/delete"),
    )
)


def model_fields(head: RequestHead) -> tuple[str, ...]:
    """The top-level fields of the body that name a model, the first that counts first, or none."""
    return _FIELDS.get((head.method, head.path), ())


def is_form(head: RequestHead) -> bool:
    """Whether the body may be `multipart/form-data`."""
    return (head.method, head.path) in _FORMS


def model_in_path(head: RequestHead) -> str | None:
    """The model that the path names, or None."""
    found = head.path.removeprefix(_ONE_MODEL)
    return unquote(found) if found and found != head.path else None


def changes_models(head: RequestHead) -> bool:
    """Whether there may be other models when this has been answered."""
    return (head.method, head.path) in _CHANGES


def is_anywhere(head: RequestHead) -> bool:
    """Whether any Ollama may answer: what only asks, and changes nothing of the machine's."""
    if head.method in (b"GET", b"HEAD"):
        return not head.path.startswith(b"/api/blobs/")
    return bool(model_fields(head)) and not changes_models(head) and head.path != b"/api/push"


def canonical(model: str) -> str:
    """One name for all names of a model: Ollama minds neither case nor what it adds by itself."""
    name = model.lower().removeprefix("http://").removeprefix("https://")
    name = name.removeprefix("registry.ollama.ai/").removeprefix("library/")
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"
