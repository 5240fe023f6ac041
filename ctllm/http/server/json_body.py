"""JSON bodies of management calls: bounded, typed, refused clearly."""

from __future__ import annotations

from typing import Any, TypeVar

from twisted.internet.defer import Deferred, TimeoutError

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.errors import BadRequest, RequestTimeout, UnsupportedMediaType
from ctllm.http.message.head import get_header
from ctllm.http.server.request import ServerRequest
from ctllm.http.timeouts import SMALL_BODY_TIMEOUT

T = TypeVar("T")


async def read_json_body(incoming: ServerRequest, limit: int, clock: Any) -> bytes:
    """The body of at most `limit` bytes; raises UnsupportedMediaType, TooLarge or TooSlow."""
    kind = get_header(incoming.head.headers, b"content-type") or b""
    if kind.partition(b";")[0].strip().lower() != b"application/json":
        raise UnsupportedMediaType("the body must be JSON, with Content-Type: application/json")
    reading = Deferred.fromCoroutine(incoming.read_body(limit)).addTimeout(
        SMALL_BODY_TIMEOUT, clock
    )
    try:
        return await reading
    except TimeoutError:
        raise RequestTimeout(
            f"the body did not arrive within {SMALL_BODY_TIMEOUT:g} seconds"
        ) from None


def decode_json_body(raw: bytes, kind: type[T]) -> T:
    """`raw` as a `kind`; raises BadRequest with what is wrong, never with what was sent."""
    try:
        return decode_json(raw, kind)
    except InvalidJson as error:
        raise BadRequest(f"the body is not right: {error}") from None
