"""JSON request bodies of the cloud's API: limited in size and time, and decoded to a type."""

from __future__ import annotations

from typing import TypeVar, cast

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.errors import BadRequest, RequestTimeout, UnsupportedMediaType
from ctllm.http.message.head import get_header
from ctllm.http.server.request import ServerRequest
from ctllm.http.timeouts import SMALL_BODY_TIMEOUT
from ctllm.reactor.interfaces import Clock

T = TypeVar("T")


async def read_json_body(
    request: ServerRequest, limit: int, clock: Clock, timeout: float = SMALL_BODY_TIMEOUT
) -> bytes:
    """Return the body, undecoded, of at most `limit` bytes.

    Raises UnsupportedMediaType, ContentTooLarge, or RequestTimeout after `timeout` seconds.
    """
    content_type = get_header(request.head.headers, b"content-type") or b""
    if content_type.partition(b";")[0].strip().lower() != b"application/json":
        raise UnsupportedMediaType("The body must be JSON, with Content-Type: application/json.")
    body = Deferred.fromCoroutine(request.read_body(limit))
    body.addTimeout(timeout, cast(IReactorTime, clock))
    try:
        return await body
    except TimeoutError:
        raise RequestTimeout(f"The body did not arrive within {timeout:g} seconds.") from None


def decode_json_body(body: bytes, kind: type[T]) -> T:
    """Decode `body` as a `kind`; raises BadRequest, whose message does not quote the body."""
    try:
        return decode_json(body, kind)
    except InvalidJson as error:
        raise BadRequest(f"The body is invalid: {error}") from None
