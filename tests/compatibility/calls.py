"""What a client may be able to call: the rows of the table."""

from __future__ import annotations

#: An endpoint, and in how many ways a client may call it. One way alone has no name.
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
#: Every row: an endpoint and, where there are several, the way of calling it.
CALLS = tuple(f"{at} {way}".strip() for at, ways in _VARIANTS for way in ways)


def endpoint(call: str) -> tuple[str, str]:
    """The method of a row, and the path or, where that goes on, its beginning."""
    method, path, *_ = call.split(" ")
    return method, path.rstrip("…")
