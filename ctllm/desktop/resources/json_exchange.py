"""A request with a small body and its complete response, between the sinks of the relay."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ctllm.common.memory_budget import BufferBudget
from ctllm.errors import ContentTooLarge, CtllmError, MethodNotAllowed, ServiceUnavailable
from ctllm.http.interfaces import ResponseSink
from ctllm.http.message.head import Headers, ResponseHead
from ctllm.ollama.dialects import Dialect, error_body

#: The bytes that are written at once; between two pieces the reader may pause the response.
PIECE = 64 * 1024
_BUSY = ServiceUnavailable(
    "Too many large requests are in progress on this desktop. Try again when they have ended."
)
_JSON: Headers = ((b"Content-Type", b"application/json"), (b"Cache-Control", b"no-store"))


@dataclass(frozen=True, slots=True)
class Response:
    """A complete response."""

    status: int
    body: bytes = b""
    headers: Headers = ()


def json_response(status: int, value: Any, headers: Headers = ()) -> Response:
    """Return a response with `value` as JSON; bytes are JSON already."""
    body = value if isinstance(value, bytes) else msgspec.json.encode(value)
    return Response(status, body, (*_JSON, *headers))


def error_response(
    error: CtllmError, headers: Headers = (), dialect: Dialect = Dialect.CTLLM
) -> Response:
    """Return `error` as a response. It passes every proxy, whatever errors that knows."""
    retry = () if error.retry_after is None else ((b"Retry-After", b"%d" % error.retry_after),)
    allow = ((b"Allow", error.allow.encode()),) if isinstance(error, MethodNotAllowed) else ()
    more = (*retry, *allow, *headers)
    return Response(error.status, error_body(dialect, error), (*_JSON, *more))


#: Returns the response to a request with this body; raises CtllmError.
Handler = Callable[[bytes], Awaitable[Response]]


class JsonExchange:
    """A RequestSink that collects a body of at most `limit` bytes, and writes a response.

    `handler` returns the response. A cancelled request cancels the handler. While `budget` is full,
    bodies and responses are refused with 503. `over_limit` is the error of a larger body. Errors
    are in `dialect`.
    """

    _log = Logger()

    def __init__(
        self,
        sink: ResponseSink,
        limit: int,
        handler: Handler,
        budget: BufferBudget | None = None,
        over_limit: CtllmError | None = None,
        dialect: Dialect = Dialect.CTLLM,
    ) -> None:
        self._sink = sink
        self._dialect = dialect
        self._over_limit = over_limit or ContentTooLarge(
            f"This request takes at most {limit:,} bytes."
        )
        self._budget = budget
        self._reserved = 0
        self._limit = limit
        self._handler = handler
        self._received = bytearray()
        self._unsent: memoryview | None = None
        self._handling: Deferred[None] | None = None
        self._is_paused = False
        self._has_ended = False

    def write(self, data: bytes) -> None:
        """Receive data of the body; beyond the limit the request is refused."""
        if self._has_ended or self._unsent is not None:
            return
        if len(self._received) + len(data) > self._limit:
            self._refuse(self._over_limit)
        elif self._reserve(len(data)):
            self._received += data
        else:
            self._refuse(_BUSY)

    def _refuse(self, error: CtllmError) -> None:
        self._received.clear()
        self._release()
        self._respond(self._render(error))

    def _reserve(self, count: int) -> bool:
        """Count `count` bytes as held, unless the budget is full."""
        if self._budget is None:
            return True
        if self._budget.is_full:
            return False
        self._budget.reserve(count)
        self._reserved += count
        return True

    def _release(self) -> None:
        if self._budget is not None:
            self._budget.release(self._reserved)
        self._reserved = 0

    def finish(self) -> None:
        """Handle the request: its body is complete."""
        if self._has_ended or self._unsent is not None:
            return
        body = bytes(self._received)
        self._received.clear()
        self._handling = Deferred.fromCoroutine(self._handle(body))
        self._handling.addErrback(self._handling_failed)

    def cancel(self, error: CtllmError) -> None:
        """Cancel the handler; nothing more is written."""
        self._has_ended = True
        self._unsent = None
        self._received.clear()
        self._release()
        if self._handling is not None:
            self._handling.cancel()

    def pause_response(self) -> None:
        """Stop writing."""
        self._is_paused = True

    def resume_response(self) -> None:
        """Continue writing."""
        self._is_paused = False
        if self._unsent is not None:
            self._send()

    async def _handle(self, body: bytes) -> None:
        try:
            response = await self._handler(body)
        except CtllmError as error:
            response = self._render(error)
        self._release()  # the body was handled
        if not self._has_ended and not self._reserve(len(response.body)):
            response = self._render(_BUSY)
        self._respond(response)

    def _handling_failed(self, reason: Failure) -> None:
        if self._has_ended and isinstance(reason.value, CancelledError):
            return
        self._log.failure("A request for a resource of this desktop failed", reason)
        self._respond(self._render(CtllmError("An internal error occurred on this desktop.")))

    def _render(self, error: CtllmError) -> Response:
        return error_response(error, dialect=self._dialect)

    def _respond(self, response: Response) -> None:
        if self._has_ended or self._unsent is not None:
            return
        headers = response.headers
        if response.status != 204:
            headers = (*headers, (b"Content-Length", b"%d" % len(response.body)))
        self._unsent = memoryview(response.body)
        self._sink.write_head(ResponseHead(response.status, b"", headers))
        self._send()

    def _send(self) -> None:
        while self._unsent and not self._is_paused:
            piece, self._unsent = self._unsent[:PIECE], self._unsent[PIECE:]
            self._sink.write(bytes(piece))
        if self._unsent is not None and not self._unsent and not self._has_ended:
            self._has_ended = True
            self._unsent = None
            self._release()
            self._sink.finish()


def refuse(sink: ResponseSink, error: CtllmError, dialect: Dialect = Dialect.CTLLM) -> JsonExchange:
    """Return the RequestSink of a request that is refused, whatever its body is."""

    async def handler(_: bytes) -> Response:
        raise error

    return JsonExchange(sink, 0, handler, over_limit=error, dialect=dialect)
