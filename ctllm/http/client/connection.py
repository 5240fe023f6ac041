"""A connection to an HTTP server, which carries one request at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

from twisted.internet import protocol
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHandshakeListener, IReactorTime, ITCPTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from ctllm.http.interfaces import ResponseSink
from ctllm.http.timeouts import HANDSHAKE_TIMEOUT
from ctllm.reactor.interfaces import Clock, is_tls


class PendingRequest(Protocol):
    """A request whose response a connection receives."""

    sink: ResponseSink

    def data_received(self, data: bytes) -> None:
        """Process data of the response."""

    def connection_closed(self) -> None:
        """End the response: the server closed the connection cleanly."""

    def connection_failed(self, why: str) -> None:
        """Fail: the response cannot be completed."""


@implementer(IHandshakeListener)
class ClientConnection(protocol.Protocol):
    """A connection to an origin server.

    `on_lost` is called, at least once, when no more requests can be sent on it.
    """

    transport: Any

    def __init__(self, on_lost: Callable[[ClientConnection], None]) -> None:
        self.request: PendingRequest | None = None
        self._on_lost = on_lost
        self._handshake: Deferred[ClientConnection] | None = None

    def connectionMade(self) -> None:
        """Register as the producer of the request body."""
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, True)
        if not is_tls(self.transport):
            self.transport.protocol = self  # skip the endpoint's wrapper: one call less a read

    def when_ready(self, clock: Clock) -> ClientConnection | Deferred[ClientConnection]:
        """Return this connection once it can carry a request: with TLS, after the handshake.

        Fails with the error that ended the handshake, or with TimeoutError.
        """
        if not is_tls(self.transport):
            return self
        self._handshake = Deferred(lambda _: self.transport.abortConnection())
        return self._handshake.addTimeout(HANDSHAKE_TIMEOUT, cast(IReactorTime, clock))

    def handshakeCompleted(self) -> None:
        """Fire what `when_ready` returned."""
        handshake, self._handshake = self._handshake, None
        if handshake is not None:
            handshake.callback(self)

    def dataReceived(self, data: bytes) -> None:
        """Pass data to the request; abort if there is none, as it belongs to no response."""
        if self.request is None:
            self.abort()
        else:
            self.request.data_received(data)

    def connectionLost(self, reason: Failure = protocol.connectionDone) -> None:
        """End or fail the request."""
        self._on_lost(self)
        handshake, self._handshake = self._handshake, None
        if handshake is not None and not handshake.called:
            handshake.errback(reason)
        if self.request is None:
            return
        if isinstance(reason.value, ConnectionDone):
            self.request.connection_closed()
        else:  # a reset never ends a response
            self.request.connection_failed(reason.getErrorMessage())

    def pauseProducing(self) -> None:
        """Pause the request body: the transport's buffer is full."""
        if self.request is not None:
            self.request.sink.pause_request_body()

    def resumeProducing(self) -> None:
        """Resume the request body."""
        if self.request is not None:
            self.request.sink.resume_request_body()

    def stopProducing(self) -> None:
        """Do nothing: `connectionLost` follows."""

    def close(self) -> None:
        """Close an idle connection."""
        if is_tls(self.transport):
            return self.abort()  # the peer might never answer TLS's close_notify
        self.request = None
        self._on_lost(self)
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def abort(self) -> None:
        """Close the connection at once."""
        self.request = None
        self._on_lost(self)
        self.transport.abortConnection()
