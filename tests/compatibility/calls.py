"""The calls that a client may support: the rows of the table."""

from __future__ import annotations

#: Endpoints and their variants; an only variant has no name.
_VARIANTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("POST /api/chat", ("whole", "streamed", "tools", "images", "thinking", "structured")),
    ("POST /api/generate", ("whole", "streamed", "images", "thinking", "structured")),
    ("POST /api/embed", ("",)),
    ("POST /api/embeddings", ("",)),
    ("GET /api/tags", ("",)),
    ("GET /api/ps", ("",)),
    ("POST /api/show", ("",)),
    ("GET /api/version", ("",)),
    ("POST /api/create", ("whole", "streamed")),
    ("POST /api/copy", ("",)),
    ("POST /api/pull", ("whole", "streamed")),
    ("POST /api/push", ("whole", "streamed")),
    ("DELETE /api/delete", ("",)),
    ("POST /api/blobs/sha256:…", ("",)),
    (
        "POST /v1/chat/completions",
        ("whole", "streamed", "tools", "images", "thinking", "structured"),
    ),
    ("POST /v1/completions", ("whole", "streamed")),
    ("POST /v1/embeddings", ("",)),
    ("GET /v1/models", ("",)),
    ("GET /v1/models/…", ("",)),
    ("POST /v1/responses", ("whole", "streamed", "tools", "images", "thinking", "structured")),
    ("POST /v1/messages", ("whole", "streamed", "tools", "images", "thinking", "structured")),
)
#: The rows: an endpoint and, if it has several, the variant.
CALLS = tuple(f"{path} {variant}".strip() for path, variants in _VARIANTS for variant in variants)


def endpoint(call: str) -> tuple[str, str]:
    """Return a call's method and its path, or the start of a variable path."""
    method, path, *_ = call.split(" ")
    return method, path.rstrip("…")
