"""JSON bodies of management calls: bounded, typed, refused clearly."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from ctllm.errors import BadRequest, UnsupportedMediaType
from ctllm.http.incoming import Incoming
from ctllm.wire.heads import first

T = TypeVar("T")


async def json_body(incoming: Incoming, limit: int) -> bytes:
    """The body of at most `limit` bytes; raises UnsupportedMediaType or TooLarge."""
    kind = first(incoming.asked.headers, b"content-type") or b""
    if kind.partition(b";")[0].strip().lower() != b"application/json":
        raise UnsupportedMediaType("the body must be JSON, with Content-Type: application/json")
    return await incoming.read(limit)


def decoded(raw: bytes, kind: type[T]) -> T:
    """`raw` as a `kind`; raises BadRequest with what is wrong, never with what was sent."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is not right: {error}") from None
