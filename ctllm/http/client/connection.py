"""One connection to an HTTP server, with at most one exchange on it at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast
from typing import Protocol as Face

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHandshakeListener, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ctllm.http.interfaces import ResponseSink
from ctllm.http.timeouts import HANDSHAKE_TIMEOUT
from ctllm.reactor.interfaces import Clock, is_tls


class PendingRequest(Face):
    """What a connection needs of the exchange that is on it."""

    sink: ResponseSink

    def data_received(self, data: bytes) -> None:
        """Take a piece of the answer as it came."""

    def connection_closed(self) -> None:
        """The server closed in order."""

    def connection_failed(self, why: str) -> None:
        """The answer cannot become whole."""


def nobody_waits() -> None:
    """For connections that are in use: their exchange hears of the end."""


@implementer(IHandshakeListener)
class ClientConnection(Protocol):
    """One connection to an origin, with at most one exchange on it."""

    transport: Any

    def __init__(self) -> None:
        self.request: PendingRequest | None = None
        self.on_lost: Callable[[], None] = nobody_waits
        self._handshake: Deferred[ClientConnection] | None = None  # while TLS shakes hands

    def connectionMade(self) -> None:
        """Tell the exchange when the request body has room."""
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, True)
        if not is_tls(self.transport):
            self.transport.protocol = self  # without the endpoint's wrapper, a call for each read

    def when_ready(self, clock: Clock) -> ClientConnection | Deferred[ClientConnection]:
        """Give this connection once it can carry a request: with TLS that is after its handshake.

        Fails with what ended the handshake, or with TimeoutError.
        """
        if not is_tls(self.transport):
            return self
        self._handshake = Deferred(lambda _: self.transport.abortConnection())
        return self._handshake.addTimeout(HANDSHAKE_TIMEOUT, cast(Any, clock))

    def handshakeCompleted(self) -> None:
        """TLS is agreed on."""
        handshake, self._handshake = self._handshake, None
        if handshake is not None:
            handshake.callback(self)

    def dataReceived(self, data: bytes) -> None:
        """A piece of the answer; anything without a question ends the connection."""
        if self.request is None:
            self.abort()
        else:
            self.request.data_received(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The server closed: that may be how the answer ends, or that it breaks off."""
        self.on_lost()
        handshake, self._handshake = self._handshake, None
        if handshake is not None and not handshake.called:
            handshake.errback(reason)
        if self.request is None:
            return
        if isinstance(reason.value, ConnectionDone):
            self.request.connection_closed()
        else:  # a reset is nobody's way to end an answer
            self.request.connection_failed(reason.getErrorMessage())

    def pauseProducing(self) -> None:
        """The server reads the request body slowly."""
        if self.request is not None:
            self.request.sink.pause_request_body()

    def resumeProducing(self) -> None:
        """The server has room for more of the request body."""
        if self.request is not None:
            self.request.sink.resume_request_body()

    def stopProducing(self) -> None:
        """The transport is closing; `connectionLost` tells the rest."""

    def close(self) -> None:
        """Close in order: nobody uses it, and nothing is under way on it."""
        if is_tls(self.transport):
            return self.abort()  # its other side might never agree
        self.request = None
        self.on_lost()
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def abort(self) -> None:
        """Close now. Nobody uses it from here on, though the transport tells only later."""
        self.request = None
        self.on_lost()
        self.transport.abortConnection()
