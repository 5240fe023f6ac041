"""A request that a server received: its body is sent to a `RequestSink`, it is a `ResponseSink`."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, Protocol

import msgspec
from twisted.internet.defer import Deferred

from ctllm.errors import BadGateway, ContentTooLarge, CtllmError
from ctllm.http.interfaces import RequestSink
from ctllm.http.message.head import Headers, RequestHead, ResponseHead, encode_field_value
from ctllm.http.message.request_parser import describe_error
from ctllm.http.server.codec import MalformedResponse
from ctllm.http.server.response_writer import (
    JSON,
    ResponseHeaders,
    ResponseTransport,
    ResponseWriter,
    no_headers,
)
from ctllm.reactor.interfaces import Transport


class Outcome(StrEnum):
    """How a request ended."""

    COMPLETED = "completed"
    REFUSED = "refused"  # the response is an error
    FAILED = "failed"  # the response broke off
    CLIENT_DISCONNECTED = "client_disconnected"
    UPGRADED = "upgraded"  # the connection speaks another protocol from here on


Observer = Callable[[Outcome], None]


class RequestTransport(ResponseTransport, Protocol):
    """What a request needs of the connection that it came on."""

    def find_client_address(self, head: RequestHead) -> str:
        """Return the IP address of the client that sent `head`, or "" if it is not known."""

    def resume_reading(self) -> None:
        """Pass on what was received of the request body."""

    def mark_authenticated(self) -> None:
        """Protect the connection from eviction during this request; raises ServiceUnavailable."""

    def reserve_memory(self) -> None:
        """Reserve the memory that a request takes; raises TooManyRequests."""

    def response_finished(self) -> None:
        """Read the next request, or close."""

    def response_broken(self, last_data: bytes) -> None:
        """Send `last_data` and close, in such a way that the response does not look complete."""

    def response_unwritable(self) -> None:
        """Send a fixed error and close: writing the response raised an exception."""

    def hijack(self) -> tuple[Transport, bytes]:
        """Give up the connection: return its transport, and what was received after the head."""

    def release(self) -> None:
        """Stop counting a hijacked connection towards the limit of connections."""


class ServerRequest:
    """A request of a client, which is a `ResponseSink`.

    A handler relays it (`relay_to`), or responds itself (`respond`, `fail`). `head` is as the
    client sent it, unless the handler replaces it; `raw_head` is what was received.
    """

    def __init__(
        self,
        transport: RequestTransport,
        head: RequestHead,
        raw_head: bytes,
        response_headers: ResponseHeaders = no_headers,
        is_internal: bool = False,
    ) -> None:
        self.head = head
        self.raw_head = raw_head
        self.is_disconnected = False
        self._transport = transport
        self._response_headers = response_headers
        self._response = ResponseWriter(transport, head.method, is_internal)
        #: Sends data of the response body: the writer's own method, as each token passes it.
        self.write: Callable[[bytes], None] = self._response.write
        self._sink: RequestSink | None = None
        self._observers: list[Observer] = []
        self._outcome: Outcome | None = None
        self._is_response_paused = False
        self._is_body_paused = False

    @property
    def client_address(self) -> str:
        """The client's IP address, as trusted reverse proxies report it; empty if not known."""
        return self._transport.find_client_address(self.head)

    @property
    def status(self) -> int:
        """The status of the response, or 0 if there is none."""
        return self._response.status

    def add_observer(self, observer: Observer) -> None:
        """Call `observer` once, when the request ends; at once if it has ended."""
        if self._outcome is None:
            self._observers.append(observer)
        else:
            observer(self._outcome)

    def mark_authenticated(self) -> None:
        """Protect the connection from eviction during this request; raises ServiceUnavailable."""
        self._transport.mark_authenticated()

    def reserve_memory(self) -> None:
        """Reserve the memory that a request takes at least; raises TooManyRequests."""
        self._transport.reserve_memory()

    # -- the request body

    def relay_to(self, request_sink: RequestSink) -> None:
        """Send the body to `request_sink`, pause and cancel it from now on. Raises nothing."""
        if self._has_ended:
            return
        self._sink = request_sink
        if self._is_response_paused:
            request_sink.pause_response()
        self._transport.resume_reading()

    async def read_body(self, limit: int) -> bytes:
        """Return the complete body; raises ContentTooLarge if it exceeds `limit` bytes."""
        collector = _BodyCollector(limit)
        self.relay_to(collector)
        try:
            return await collector.body
        finally:
            self._sink = None

    def pause_request_body(self) -> None:
        """Stop sending the body to the sink."""
        self._is_body_paused = True

    def resume_request_body(self) -> None:
        """Continue sending the body to the sink."""
        if self._is_body_paused:
            self._is_body_paused = False
            if not self.is_disconnected:
                self._transport.resume_reading()

    # -- events of the connection

    @property
    def wants_body(self) -> bool:
        """Whether data of the body can be passed on."""
        return self._sink is not None and not self._is_body_paused

    def body_data_received(self, data: bytes) -> None:
        """Pass on data of the body."""
        assert self._sink is not None
        self._sink.write(data)

    def body_finished(self) -> None:
        """Pass on the end of the body."""
        assert self._sink is not None
        self._sink.finish()

    def client_disconnected(self, error: CtllmError) -> None:
        """Cancel the request."""
        self.is_disconnected = True
        sink, self._sink = self._sink, None
        if self._outcome is not None:
            return
        self._set_outcome(Outcome.CLIENT_DISCONNECTED)
        if sink is not None:
            sink.cancel(error)

    def pause_response(self) -> None:
        """Pause the response: the client reads it slower than it comes."""
        if not self._is_response_paused:
            self._is_response_paused = True
            if self._sink is not None:
                self._sink.pause_response()

    def resume_response(self) -> None:
        """Resume the response."""
        if self._is_response_paused:
            self._is_response_paused = False
            if self._sink is not None:
                self._sink.resume_response()

    # -- a streamed response

    def write_head(self, head: ResponseHead) -> None:
        """Send status and headers. Without a Content-Length the body is sent in chunks."""
        try:
            self._response.write_head(head, self._response_headers(self.head))
        except MalformedResponse as error:
            self.fail_malformed(error)

    def splice(self, source: Transport) -> None:
        """Have whole chunks of `source` sent as they are, where the response is in chunks, too.

        `source` must be between two chunks. What it receives besides comes by `write`.
        """
        if not self._has_ended:
            self._response.splice(source)

    def finish(self) -> None:
        """End the response; one that is shorter than its Content-Length breaks off instead."""
        self._set_outcome(Outcome.COMPLETED)
        try:
            self._response.finish()
        except MalformedResponse:
            self._transport.response_broken(b"")
        else:
            self._transport.response_finished()

    def fail(self, error: CtllmError, headers: Headers = ()) -> None:
        """Respond with `error` and `headers`, or break off a response that has begun.

        The error is in the dialect of the path, also in a stream of lines.
        """
        if self._has_ended:
            return
        if not self._response.is_started:
            if self.write_error(error, headers):
                self._transport.response_finished()
            return
        self._set_outcome(Outcome.FAILED)
        self._transport.response_broken(self._response.last_data(self.head.path, error))

    def abort(self, error: CtllmError) -> None:
        """Cancel what answers the request, and fail with `error`."""
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.cancel(error)
        self.fail(error)

    def fail_malformed(self, error: MalformedResponse) -> None:
        """Fail where the response breaks the rules of HTTP: its source may be anything."""
        self.abort(BadGateway(f"The response is not valid HTTP/1.1: {describe_error(error)}."))

    # -- a complete response

    def respond(self, status: int, value: Any = None, headers: Headers = ()) -> None:
        """Respond with `value`: bytes as they are, None as an empty body, all else as JSON."""
        if self._has_ended:
            return
        if value is None or isinstance(value, bytes):
            body = value or b""
        else:
            body = msgspec.json.encode(value)
            headers = ((b"Content-Type", JSON), (b"Cache-Control", b"no-store"), *headers)
        self._response.write_response(status, headers, body, self._response_headers(self.head))
        self._set_outcome(Outcome.COMPLETED)
        self._transport.response_finished()

    def write_error(self, error: CtllmError, headers: Headers = ()) -> bool:
        """Send `error` as a complete response, and leave the connection as it is.

        Return False where that raised an exception: then the connection closes.
        """
        try:
            added = self._response_headers(self.head)
            self._response.write_error(self.head.path, error, headers, added)
        except Exception:  # what failed before may be in what is written here, too
            self._transport.response_unwritable()
            return False
        finally:
            self._set_outcome(Outcome.REFUSED)
        return True

    # -- another protocol

    def hijack(self) -> tuple[Transport, bytes]:
        """Take the connection out of HTTP: return its transport, and what follows the head.

        The connection counts towards the limit of connections until `release_connection`.
        """
        self._set_outcome(Outcome.UPGRADED)
        return self._transport.hijack()

    def release_connection(self) -> None:
        """Stop counting the hijacked connection: it is closed, or counted by another limit."""
        self._transport.release()

    # -- the end

    @property
    def _has_ended(self) -> bool:
        return self.is_disconnected or self._outcome is not None

    def _set_outcome(self, outcome: Outcome) -> None:
        self._sink = None
        if self._outcome is not None:
            return
        self._outcome = outcome
        observers, self._observers = self._observers, []
        for observer in observers:
            observer(outcome)


class HeaderAddingSink:
    """A `ResponseSink` that adds headers to the response of `request`, errors included."""

    def __init__(self, request: ServerRequest) -> None:
        self._request = request
        self._headers: Headers = ()
        self.write = request.write
        self.finish = request.finish
        self.pause_request_body = request.pause_request_body
        self.resume_request_body = request.resume_request_body

    def add_headers(self, headers: Headers) -> None:
        """Add `headers` to a response that has not begun."""
        self._headers += headers

    def write_head(self, head: ResponseHead) -> None:
        """Send status and headers, with those that were added."""
        added = ((name, encode_field_value(value)) for name, value in self._headers)
        self._request.write_head(ResponseHead(head.status, head.reason, (*head.headers, *added)))

    def fail(self, error: CtllmError) -> None:
        """End the response with `error`."""
        self._request.fail(error, self._headers)


class _BodyCollector:
    """A `RequestSink` that collects the body."""

    def __init__(self, limit: int) -> None:
        self.body: Deferred[bytes] = Deferred()
        self._limit = limit
        self._collected = bytearray()

    def write(self, data: bytes) -> None:
        self._collected += data
        if len(self._collected) > self._limit and not self.body.called:
            self.body.errback(ContentTooLarge(f"The body exceeds {self._limit} bytes."))

    def finish(self) -> None:
        if not self.body.called:
            self.body.callback(bytes(self._collected))

    def cancel(self, error: CtllmError) -> None:
        if not self.body.called:
            self.body.errback(error)

    def pause_response(self) -> None:
        """Do nothing: no response is sent meanwhile."""

    def resume_response(self) -> None:
        """Do nothing: no response is sent meanwhile."""
