"""The serving side of HTTP/1.1: each request an exchange, its body and answer streamed.

h11 keeps the protocol's rules; this adds what a relay needs: work starts when the head is in,
bodies pass piece by piece, a slow reader slows its own exchange, a client that leaves is noticed
at once, and an answer that breaks off ends uncleanly.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import h11
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IProtocolNegotiationFactory, ITCPTransport
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ctllm.errors import BadRequest, ClientDisconnected, CtllmError, RequestTimeout
from ctllm.fastpath.direct_write import write_now
from ctllm.http.hangup_monitor import HangupMonitor, enable_tcp_keepalive
from ctllm.http.message.head import RequestHead
from ctllm.http.message.request_parser import (
    RequestBuffer,
    check_request_head,
    describe_error,
    discard_body,
    split_target,
)
from ctllm.http.server.body_idle_timeout import BodyIdleTimeout
from ctllm.http.server.connection_limits import ConnectionLimiter
from ctllm.http.server.memory_limiter import SOCKET_BUFFER_SIZE, ConnectionMemory, MemoryLimiter
from ctllm.http.server.request import ResponseHeaders, ServerRequest, no_headers
from ctllm.http.server.request_throttle import RequestThrottle, StartRequest
from ctllm.http.server.termination import Ending
from ctllm.http.timeouts import BODY_IDLE_TIMEOUT, HEAD_TIMEOUT, KEEP_ALIVE_TIMEOUT
from ctllm.reactor.interfaces import Clock, Transport

BROKE = "something in ctllm broke; its log says what"
READ_AHEAD = 64 * 1024  # bytes read before anybody wants them

#: Connections at once where nothing else is said.
MAX_CONNECTIONS = 4096

RequestHandler = Callable[[ServerRequest], Coroutine[Any, Any, None]]
Enter = Callable[[StartRequest], None]


class ServerConnection(Ending):
    """One client's connection."""

    transport: Any
    _log = Logger()

    def __init__(
        self,
        app: RequestHandler,
        clock: Clock,
        max_head: int,
        enter: Enter,
        crowd: ConnectionLimiter,
        limiter: MemoryLimiter | None = None,
        response_headers: ResponseHeaders = no_headers,
    ) -> None:
        super().__init__(clock)
        self._app = app
        self._crowd = crowd
        self._response_headers = response_headers
        self._max_head = max_head
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=max_head)
        self._unread = RequestBuffer(max_head)
        self._incoming: ServerRequest | None = None
        self._work: Deferred[None] | None = None
        self._enter = enter
        self._entering = False  # a head is whole and waits for its turn
        self._attention = HangupMonitor(clock)
        self._trickle = BodyIdleTimeout(clock, self._wants_body, self._trickled)
        self._pumping = False
        self._memory = ConnectionMemory() if limiter is None else limiter.add_connection(self)
        self._in_parser = 0  # bytes of a body that h11 holds

    # -- Twisted's side

    def connectionMade(self) -> None:
        """Serve; the transport slows and resumes the exchange that is being answered."""
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
            enable_tcp_keepalive(self.transport)
        self.transport.registerProducer(self, True)
        self._deadline.start(HEAD_TIMEOUT)
        self._crowd.add_anonymous(self)

    def dataReceived(self, data: bytes) -> None:
        """Take what arrived, as far as somebody wants it."""
        if self._closing:
            self._lingered += len(data)
            return
        if data.strip(b"\r\n") and not (self._incoming or self._unread or self._entering):
            self._deadline.start(HEAD_TIMEOUT)  # blank lines before a head buy no time
        self._trickle.data_received = True
        self._unread.append(data)
        self.resume_reading()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The client left: so does the work for it."""
        self._closing = True
        self._crowd.remove(self)
        self._deadline.cancel()
        self._parting.cancel()
        self._attention.stop()
        self._trickle.cancel()
        self._memory.release_all()
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            incoming.client_disconnected(ClientDisconnected("the client left"))
        if self._work is not None:
            self._work.cancel()

    def pauseProducing(self) -> None:
        """The client reads slower than we write."""
        self._full = True
        self._memory.add_unsent(SOCKET_BUFFER_SIZE)
        if self._incoming is not None:
            self._incoming.pause_response()

    def resumeProducing(self) -> None:
        """The client has caught up."""
        self._full = self._late = False
        self._memory.clear_unsent()
        if self._incoming is not None:
            self._incoming.resume_response()
        elif not self._closing:
            self.resume_reading()

    def stopProducing(self) -> None:
        """The transport is closing."""

    # -- reading

    def resume_reading(self) -> None:
        """Hand on what was read until somebody asks to wait."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while not self._closing and self._advance():
                pass
        finally:
            self._pumping = False
        if not self._closing:
            self._read_ahead()

    def _advance(self) -> bool:
        """One step; False when there is nothing to do for now."""
        if self._incoming is None:
            return self._guarded(self._next_head)
        return self._incoming.wants_body and self._guarded(self._next_body)

    def _guarded(self, step: Callable[[], bool]) -> bool:
        try:
            return step()
        except h11.RemoteProtocolError as error:
            self._refuse(BadRequest(f"this is not HTTP as ctllm reads it: {describe_error(error)}"))
        except CtllmError as error:
            self._refuse(error)
        except Exception:
            self._log.failure("serving a connection failed")
            self._refuse(CtllmError(BROKE))
        return False

    def _next_head(self) -> bool:
        if self._entering or self._full:  # who does not read answers is asked for no questions
            return False
        raw = self._unread.take_head()
        if raw is None:
            return False
        self._entering = True
        self._crowd.remove(self)  # who has asked waits for us
        self._deadline.cancel()
        self._enter(lambda: self._entered(raw))
        return not self._entering

    def _entered(self, raw: bytes) -> bool:
        self._entering = False
        if self._closing:
            return False
        self._crowd.add_anonymous(self)
        if self._guarded(lambda: self._begin(raw)):
            self.resume_reading()
            if self._incoming is not None and self._h11.their_state is h11.SEND_BODY:
                self._trickle.start()
        return True

    def _begin(self, raw: bytes) -> bool:
        target, plain = split_target(raw)
        self._h11.receive_data(plain)
        event = self._h11.next_event()
        if not isinstance(event, h11.Request):
            raise BadRequest("this is not an HTTP request")
        self._incoming = ServerRequest(
            self, RequestHead(event.method, b"/"), raw
        )  # if it is refused
        self._incoming = ServerRequest(
            self, check_request_head(event, target, raw), raw, self._response_headers
        )
        if self._incoming.head.target == b"*":
            self._answer_for_all(self._incoming)
            return True
        self._work = Deferred.fromCoroutine(self._app(self._incoming))
        self._work.addErrback(self._failed, self._incoming)
        return True

    def _answer_for_all(self, incoming: ServerRequest) -> None:
        """Answer what is asked of the server and of no resource, as Go's servers do."""
        if incoming.head.method != b"OPTIONS":
            raise BadRequest("only OPTIONS can be asked of *")
        incoming.respond(200, b"")

    def _failed(self, reason: Failure, incoming: ServerRequest) -> None:
        error = reason.value
        if isinstance(error, CancelledError) and incoming.is_disconnected:
            return
        if isinstance(error, CtllmError):
            incoming.fail(error)
            return
        self._log.failure("answering {path} failed", reason, path=incoming.head.path)
        incoming.fail(CtllmError(BROKE))

    def _next_body(self) -> bool:
        incoming = self._incoming
        assert incoming is not None
        if self._h11.their_state is not h11.SEND_BODY:
            return False  # what follows is another request, for which this one's end is awaited
        event = self._h11.next_event()
        if event is h11.NEED_DATA:
            if self._h11.they_are_waiting_for_100_continue:
                self.send(
                    h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
                )
            data = self._unread.take_all()
            self._in_parser = len(data)
            if not data:
                return False
            self._h11.receive_data(data)
        elif isinstance(event, h11.Data):
            self._in_parser = max(0, self._in_parser - len(event.data))
            incoming.body_data_received(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            self._in_parser = 0
            incoming.body_finished()
        return True

    def _read_ahead(self) -> None:
        """Keep reading a little, so that a client that leaves is noticed; heads have a limit."""
        busy = self._incoming or self._entering or self._full
        reading = len(self._unread) < READ_AHEAD or not busy
        self._memory.set_unread(len(self._unread) + self._in_parser)
        if reading and self._h11.their_state is h11.SEND_BODY:
            reading = self._memory.try_reserve_read()
        else:
            self._memory.release_read()
        self._attention.set_reading(self.transport, reading)

    # -- writing, for Incoming

    def send(self, event: Any) -> None:
        """Write one of h11's events."""
        data = self._h11.send(event)
        if data:
            if self._full:
                self._memory.add_unsent(len(data))
            write_now(self.transport, data)

    def send_chunk(self, piece: bytes) -> None:
        """Write a piece of a chunked body: what h11 would write, without asking it each time."""
        if self._full:
            self._memory.add_unsent(len(piece))
        write_now(self.transport, b"%x\r\n%b\r\n" % (len(piece), piece))

    @property
    def speaks_chunks(self) -> bool:
        """Whether the client is of a version that has them."""
        return self._h11.their_http_version == b"1.1"

    def end_by_closing(self) -> None:
        """The answer to come has no end but that of the connection, as in HTTP/1.0."""
        self._h11.their_http_version = b"1.0"

    def body_is_unread(self) -> bool:
        """Whether the client is still sending, so that this connection cannot go on."""
        discard_body(self._h11, self._unread)
        return self._h11.their_state is h11.SEND_BODY

    def mark_authenticated(self) -> None:
        """It is known who asks; raises Overloaded."""
        self._crowd.mark_authenticated(self)

    def reserve_memory(self) -> None:
        """Reserve the memory of an exchange; raises TooManyRequests."""
        self._memory.reserve_request()

    def abort(self) -> None:
        """Close now: the memory is needed."""
        self._closing = True
        self.transport.abortConnection()

    def answered(self) -> None:
        """The answer is whole: serve the next request, or close."""
        self._incoming = self._work = None
        self._memory.release_request()
        self._crowd.add_anonymous(self)
        self._trickle.cancel()
        discard_body(self._h11, self._unread)
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._next_cycle()
        elif self._h11.their_state is not h11.SEND_BODY:
            self.close()
        else:
            self._linger()

    def _next_cycle(self) -> None:
        leftover, _ = self._h11.trailing_data
        self._h11.start_next_cycle()
        if leftover:  # h11 keeps what came after the body; heads are read from our own buffer
            self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=self._max_head)
            self._unread.prepend(leftover)
        self._deadline.start(HEAD_TIMEOUT if self._unread else KEEP_ALIVE_TIMEOUT)
        self.resume_reading()

    def hijack(self) -> tuple[Transport, bytes]:
        """Leave the connection: its transport, and what was read of it.

        It counts as one that is served until `release`.
        """
        self._deadline.cancel()
        self._trickle.cancel()
        self._incoming = self._work = None
        self._memory.release_all()
        self._closing = True
        self.transport.unregisterProducer()
        self._attention.set_reading(self.transport, True)
        return self.transport, self._unread.take_all()

    def release(self) -> None:
        """The connection that was hijacked is closed, or counted elsewhere."""
        self._crowd.remove(self)

    def _wants_body(self) -> bool:
        whole = self._h11.their_state is not h11.SEND_BODY
        return not whole and self._incoming is not None and self._incoming.wants_body

    def _trickled(self) -> None:
        self._refuse(RequestTimeout(f"nothing of the body came for {BODY_IDLE_TIMEOUT:g} seconds"))

    def _refuse(self, error: CtllmError) -> None:
        incoming = self._incoming or ServerRequest(self, RequestHead(b"GET", b"/"), b"")
        self._incoming = None
        if self._work is not None:
            incoming.client_disconnected(error)
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE) and not incoming.write_error(error):
            return
        self._linger()


@implementer(IProtocolNegotiationFactory)
class HttpServerFactory(Factory):
    """Makes an `HttpServer` for each connection. `max_head` is in bytes.

    Requests begin as the `turnstile` lets them; without one, each at once. The connections are
    those of the `crowd`, and hold what the `limiter` allows.
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
    ) -> None:
        enter: Enter = throttle.submit if throttle is not None else _at_once
        connection_limiter = (
            ConnectionLimiter(MAX_CONNECTIONS) if connection_limiter is None else connection_limiter
        )
        self._made = (
            handler, clock, max_head_bytes, enter, connection_limiter, memory_limiter,
            response_headers,
        )  # fmt: skip

    def acceptableProtocols(self) -> list[bytes]:
        """For TLS: without an answer, clients that offer HTTP/2 too would be turned away."""
        return [b"http/1.1"]

    def buildProtocol(self, addr: object) -> ServerConnection:
        """A connection's protocol."""
        return ServerConnection(*self._made)


def _at_once(begin: StartRequest) -> None:
    begin()
