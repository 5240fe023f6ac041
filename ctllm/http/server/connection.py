"""The server's end of an HTTP/1.1 connection, and the factory that makes one for each client.

A request is handled as soon as its head is complete. Its body and its response are streamed with
backpressure, a client that disconnects is noticed at once, and a response that breaks off does not
end like a complete one.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IProtocolNegotiationFactory, ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ctllm.errors import (
    BadRequest,
    ClientDisconnected,
    CtllmError,
    RequestTimeout,
    ServiceUnavailable,
)
from ctllm.fastpath.direct_write import write_now
from ctllm.http.hangup_monitor import enable_tcp_keepalive
from ctllm.http.message.head import RequestHead, ResponseHead
from ctllm.http.message.request_parser import describe_error
from ctllm.http.server.body_idle_timeout import BodyIdleTimeout
from ctllm.http.server.burst_limiter import RequestThrottle, StartRequest
from ctllm.http.server.codec import (
    BodyEvent,
    MalformedRequest,
    MalformedResponse,
    ServerCodec,
)
from ctllm.http.server.connection_lifecycle import ConnectionLifecycle
from ctllm.http.server.connection_limits import ConnectionLimiter
from ctllm.http.server.connection_state import Event, State
from ctllm.http.server.memory_limiter import SOCKET_BUFFER_SIZE, ConnectionMemory, MemoryLimiter
from ctllm.http.server.request import ServerRequest
from ctllm.http.server.response_writer import ResponseHeaders, error_message, no_headers
from ctllm.http.timeouts import DEFAULT_TIMEOUTS, ServerTimeouts
from ctllm.reactor.interfaces import Clock, Transport

#: How many bytes are read before they are wanted.
READ_AHEAD = 64 * 1024
#: The connections of a listener at a time, unless it has a limiter of its own.
MAX_CONNECTIONS = 4096

RequestHandler = Callable[[ServerRequest], Coroutine[Any, Any, None]]
ClientAddressOf = Callable[[str, RequestHead], str]

_INTERNAL_ERROR = "An internal error occurred in ctllm. Its log has the details."
_EVICTED = error_message(
    ServiceUnavailable(
        "Too many connections wait here without a request. Send the request at once.",
        retry_after=10,
    )
)
_UNWRITABLE = error_message(
    CtllmError("The response could not be written. The log of ctllm has the details.")
)


class _Settings(NamedTuple):
    """What the connections of a listener share."""

    handler: RequestHandler
    clock: Clock
    max_head_bytes: int
    submit: Callable[[StartRequest], None]
    connection_limiter: ConnectionLimiter
    memory_limiter: MemoryLimiter | None
    response_headers: ResponseHeaders
    is_internal: bool
    timeouts: ServerTimeouts
    client_address_of: ClientAddressOf


class ServerConnection(Protocol):
    """One client's connection.

    It reads requests and hands each to the handler as a `ServerRequest`, whose `ResponseTransport`
    it is. Its `ServerCodec` has the protocol, its `ConnectionLifecycle` the states.
    """

    transport: Any
    _log = Logger()

    def __init__(self, settings: _Settings) -> None:
        self._settings = settings
        self._codec = ServerCodec(settings.max_head_bytes)
        self._lifecycle = ConnectionLifecycle(
            settings.clock, settings.timeouts, self._head_timed_out
        )
        self._body_timeout = BodyIdleTimeout(
            settings.clock, settings.timeouts.body_idle, self._wants_body, self._body_timed_out
        )
        self._request: ServerRequest | None = None
        self._handling: Deferred[None] | None = None
        self._is_reading = False  # whether `resume_reading` runs
        limiter = settings.memory_limiter
        self._memory = ConnectionMemory() if limiter is None else limiter.add_connection(self)

    # -- events of the transport

    def connectionMade(self) -> None:
        """Wait for the first request."""
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
            enable_tcp_keepalive(self.transport)
        self.transport.registerProducer(self, True)
        self._lifecycle.connected(self.transport)
        self._settings.connection_limiter.add_anonymous(self)

    def dataReceived(self, data: bytes) -> None:
        """Decode `data` as far as it is wanted."""
        if not self._lifecycle.is_open:
            self._lifecycle.discarded(len(data))
            return
        self._body_timeout.data_received = True
        self._codec.receive_data(data)
        self.resume_reading()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Cancel the request that is being handled."""
        self._lifecycle.apply_event(Event.CONNECTION_LOST)
        self._settings.connection_limiter.remove(self)
        self._body_timeout.cancel()
        self._memory.release_all()
        request, self._request = self._request, None
        if request is not None:
            request.client_disconnected(ClientDisconnected("The client disconnected."))
        if self._handling is not None:
            self._handling.cancel()

    def pauseProducing(self) -> None:
        """Pause the response: the write buffer is full."""
        self._lifecycle.is_write_buffer_full = True
        self._memory.add_unsent(SOCKET_BUFFER_SIZE)
        if self._request is not None:
            self._request.pause_response()

    def resumeProducing(self) -> None:
        """Resume the response, or read the next request: the write buffer is empty."""
        self._lifecycle.is_write_buffer_full = False
        self._memory.clear_unsent()
        if self._request is not None:
            self._request.resume_response()
        elif self._lifecycle.is_open:
            self._lifecycle.apply_event(Event.WRITE_RESUMED)
            self.resume_reading()

    def stopProducing(self) -> None:
        """Do nothing: the transport is closing, and `connectionLost` follows."""

    # -- reading requests

    def resume_reading(self) -> None:
        """Pass on what was received, as far as it is wanted."""
        if self._is_reading:
            return
        self._is_reading = True
        try:
            while self._lifecycle.is_open and self._read_next():
                pass
        finally:
            self._is_reading = False
        if self._lifecycle.is_open:
            self._read_ahead()

    def _read_next(self) -> bool:
        """Read a head or a part of a body; return False where there is nothing to read for now."""
        if self._request is None:
            return self._refuse_on_error(self._read_head)
        return self._request.wants_body and self._refuse_on_error(self._read_body)

    def _refuse_on_error(self, step: Callable[[], bool]) -> bool:
        try:
            return step()
        except MalformedRequest as error:
            self._refuse(BadRequest(f"This is not valid HTTP/1.1: {describe_error(error)}."))
        except CtllmError as error:
            self._refuse(error)
        except Exception:
            self._log.failure("Serving a connection failed.")
            self._refuse(CtllmError(_INTERNAL_ERROR))
        return False

    def _read_head(self) -> bool:
        """Submit the next request to the throttle once its head is complete."""
        lifecycle = self._lifecycle
        if lifecycle.state not in _READS_HEAD:
            return False
        # A client that does not read its responses has no other request started.
        raw_head = None if lifecycle.is_write_buffer_full else self._codec.take_head()
        if raw_head is None:
            if self._codec.buffered_bytes:
                lifecycle.apply_event(Event.HEAD_STARTED)
            return False
        lifecycle.apply_event(Event.HEAD_COMPLETED)
        self._settings.connection_limiter.remove(self)  # it is our turn now, not the client's
        self._settings.submit(lambda: self._start_request(raw_head))
        return lifecycle.state is not State.QUEUED

    def _start_request(self, raw_head: bytes) -> bool:
        """Start the request that was queued; return False if the client has disconnected."""
        if self._lifecycle.state is not State.QUEUED:
            return False
        self._lifecycle.apply_event(Event.REQUEST_STARTED)
        self._settings.connection_limiter.add_anonymous(self)
        if self._refuse_on_error(lambda: self._handle(raw_head)):
            self.resume_reading()
            if self._request is not None and self._codec.is_body_pending:
                self._body_timeout.start()
        return True

    def _handle(self, raw_head: bytes) -> bool:
        settings = self._settings
        self._request = request = ServerRequest(
            self,
            self._codec.parse_head(raw_head),
            raw_head,
            settings.response_headers,
            settings.is_internal,
        )
        if request.head.target == b"*":
            if request.head.method != b"OPTIONS":
                raise BadRequest("The target * is for OPTIONS only.")
            request.respond(200, b"")
            return True
        self._handling = Deferred.fromCoroutine(settings.handler(request))
        self._handling.addErrback(self._handler_failed, request)
        return True

    def _handler_failed(self, reason: Failure, request: ServerRequest) -> None:
        error = reason.value
        if isinstance(error, CancelledError) and request.is_disconnected:
            return
        if isinstance(error, CtllmError):
            request.fail(error)
            return
        self._log.failure("Handling {path} failed.", reason, path=request.head.path)
        request.fail(CtllmError(_INTERNAL_ERROR))

    def _read_body(self) -> bool:
        """Pass on a part of the request body."""
        request, codec = self._request, self._codec
        assert request is not None
        if not codec.is_body_pending:
            return False  # what follows is the next request, which waits for this response
        event = codec.next_body_event()
        if event is BodyEvent.NEED_DATA:
            if codec.is_continue_expected:
                self._write(codec.encode_continue())
            return codec.feed_body()
        if event is BodyEvent.END:
            request.body_finished()
        else:
            assert isinstance(event, bytes)
            request.body_data_received(event)
        return True

    def _wants_body(self) -> bool:
        """Whether the request waits for the client to send more of its body."""
        request = self._request
        return request is not None and request.wants_body and self._codec.is_body_pending

    def _read_ahead(self) -> None:
        """Read a limited amount beyond what is wanted, so that a disconnect is noticed."""
        codec, lifecycle = self._codec, self._lifecycle
        is_busy = (
            self._request is not None
            or lifecycle.state is State.QUEUED
            or lifecycle.is_write_buffer_full
        )
        # A head has a limit of its own.
        is_reading = codec.buffered_bytes < READ_AHEAD or not is_busy
        self._memory.set_unread(codec.unread_bytes)
        if is_reading and codec.is_body_pending:
            is_reading = self._memory.try_reserve_read()
        else:
            self._memory.release_read()
        lifecycle.set_reading(is_reading)

    # -- refusing requests

    def _head_timed_out(self) -> None:
        if self._codec.buffered_bytes:
            seconds = self._settings.timeouts.head
            self._refuse(
                RequestTimeout(f"The request's head did not arrive within {seconds:g} seconds.")
            )
        else:
            self._lifecycle.apply_event(Event.CLOSE)

    def _body_timed_out(self) -> None:
        seconds = self._settings.timeouts.body_idle
        self._refuse(RequestTimeout(f"No data of the body arrived for {seconds:g} seconds."))

    def _refuse(self, error: CtllmError) -> None:
        """Respond with `error` if that is still possible, and close."""
        request, self._request = self._request, None
        if request is None:
            request = ServerRequest(self, RequestHead(self._codec.method, b"/"), b"")
        if self._handling is not None:
            request.client_disconnected(error)
        if self._codec.can_start_response and not request.write_error(error):
            return
        self._close_for_reading(Event.REQUEST_REFUSED)

    def _close_for_reading(self, event: Event) -> None:
        self._codec.take_buffer()
        self._memory.set_unread(0)
        self._memory.release_request()
        self._lifecycle.apply_event(event)

    def evict(self) -> None:
        """Close, with an error if no response is under way: there are too many connections."""
        if self._lifecycle.state in _IS_EVICTED_WITH_ERROR and (
            not self._lifecycle.is_write_buffer_full
        ):
            write_now(self.transport, _EVICTED)
            self._lifecycle.apply_event(Event.CLOSE)
        else:
            self.abort()

    def abort(self) -> None:
        """Close at once."""
        self._lifecycle.apply_event(Event.ABORT)

    # -- the ResponseTransport of the request

    def _write(self, data: bytes) -> None:
        if data:
            if self._lifecycle.is_write_buffer_full:
                self._memory.add_unsent(len(data))
            write_now(self.transport, data)

    def write_head(self, head: ResponseHead) -> None:
        """Send the head of the response; raises MalformedResponse."""
        self._write(self._codec.encode_head(head.status, head.reason, head.headers))

    def write_data(self, data: bytes) -> None:
        """Send a part of a body that is not chunked; raises MalformedResponse."""
        self._write(self._codec.encode_data(data))

    def write_chunk(self, data: bytes) -> None:
        """Send a chunk of a chunked body, without h11, which would write the same."""
        if self._lifecycle.is_write_buffer_full:
            self._memory.add_unsent(len(data))
        write_now(self.transport, b"%x\r\n%b\r\n" % (len(data), data))

    def write_end(self) -> None:
        """Send the end of the response; raises MalformedResponse if the body is too short."""
        self._write(self._codec.encode_end())

    @property
    def has_chunked_responses(self) -> bool:
        """Whether a response without a length is sent in chunks."""
        return self._codec.has_chunked_responses

    def delimit_by_close(self) -> None:
        """Have the response end with the connection, as in HTTP/1.0."""
        self._codec.delimit_by_close()

    def find_client_address(self, head: RequestHead) -> str:
        """Return the IP address of the client that sent `head`, or "" if it is not known."""
        peer = getattr(self.transport.getPeer(), "host", "")
        return self._settings.client_address_of(peer, head)

    def has_unread_body(self) -> bool:
        """Whether the client still sends the request's body, so that the connection will close."""
        self._codec.discard_body()
        return self._codec.is_body_pending

    def mark_authenticated(self) -> None:
        """Protect the connection from eviction during this request; raises ServiceUnavailable."""
        self._settings.connection_limiter.mark_authenticated(self)

    def reserve_memory(self) -> None:
        """Reserve the memory that a request takes; raises TooManyRequests."""
        self._memory.reserve_request()

    def response_finished(self) -> None:
        """Read the next request, or close."""
        self._request = self._handling = None
        self._memory.release_request()
        self._settings.connection_limiter.add_anonymous(self)
        self._body_timeout.cancel()
        self._codec.discard_body()
        if self._codec.can_start_next_request:
            self._codec.start_next_request()
            self._lifecycle.apply_event(Event.RESPONSE_FINISHED)
            self.resume_reading()
        elif self._codec.is_body_pending:
            self._close_for_reading(Event.BODY_UNREAD)
        else:
            self._lifecycle.apply_event(Event.CLOSE)

    def response_broken(self, last_data: bytes) -> None:
        """Send `last_data` and close, in such a way that the response does not look complete."""
        self._request = self._handling = None
        self._memory.release_request()
        self._lifecycle.closes_by_reset = self._codec.is_http_1_0
        if last_data and self._codec.is_sending_body:
            self._lifecycle.apply_event(Event.RESPONSE_BROKEN)
            self._write(self._codec.encode_data(last_data))
        else:
            self._lifecycle.close_broken_response()

    def response_malformed(self, error: MalformedResponse) -> None:
        """Fail the request: data of its response does not fit the response's head."""
        if self._request is not None:
            self._request.fail_malformed(error)

    def response_unwritable(self) -> None:
        """Send a fixed error and close: writing the response raised an exception."""
        self._log.failure("A response could not be written.")
        self._request = self._handling = None
        write_now(self.transport, _UNWRITABLE)
        self._lifecycle.apply_event(Event.CLOSE)

    def hijack(self) -> tuple[Transport, bytes]:
        """Give up the connection: return its transport, and what was received after the head.

        It counts towards the limit of connections until `release` is called.
        """
        self._body_timeout.cancel()
        self._request = self._handling = None
        self._memory.release_all()
        self._lifecycle.apply_event(Event.UPGRADE)
        return self.transport, self._codec.take_buffer()

    def release(self) -> None:
        """Stop counting a hijacked connection towards the limit of connections."""
        self._settings.connection_limiter.remove(self)


_READS_HEAD = frozenset((State.ACCEPTED, State.IDLE, State.READING_HEAD))
_IS_EVICTED_WITH_ERROR = _READS_HEAD


@implementer(IProtocolNegotiationFactory)
class HttpServerFactory(Factory):
    """Makes a `ServerConnection` for each client.

    `handler` is called with each request; it responds, or raises CtllmError. `throttle` decides
    when a request starts, by default at once. `response_headers` returns the headers that any
    response to a request has besides its own. `is_internal` is for a server whose clients are other
    parts of ctllm: they are told by a header where a response ends with its connection only.
    `client_address_of` returns the address of the client, given that of the connection's peer
    (empty for a UNIX socket) and a request.
    """

    noisy = False

    def __init__(
        self,
        handler: RequestHandler,
        clock: Clock,
        max_head_bytes: int = 64 * 1024,
        throttle: RequestThrottle | None = None,
        connection_limiter: ConnectionLimiter | None = None,
        memory_limiter: MemoryLimiter | None = None,
        response_headers: ResponseHeaders = no_headers,
        is_internal: bool = False,
        timeouts: ServerTimeouts = DEFAULT_TIMEOUTS,
        client_address_of: ClientAddressOf = lambda peer, head: peer,
    ) -> None:
        if connection_limiter is None:
            connection_limiter = ConnectionLimiter(MAX_CONNECTIONS)
        self._settings = _Settings(
            handler,
            clock,
            max_head_bytes,
            throttle.submit if throttle is not None else _start_at_once,
            connection_limiter,
            memory_limiter,
            response_headers,
            is_internal,
            timeouts,
            client_address_of,
        )

    def acceptableProtocols(self) -> list[bytes]:
        """Return the protocols for ALPN: without it, clients that offer HTTP/2 would be refused."""
        return [b"http/1.1"]

    def buildProtocol(self, addr: object) -> ServerConnection:
        """Make the protocol of a connection."""
        return ServerConnection(self._settings)


def _start_at_once(start: StartRequest) -> None:
    start()
