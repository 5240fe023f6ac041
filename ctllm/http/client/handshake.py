"""Handshakes at the start of connections, before the protocol that uses them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ctllm.http.timeouts import HANDSHAKE_TIMEOUT
from ctllm.reactor.interfaces import Clock, Endpoint
from ctllm.reactor.timeout import Timeout


class ConnectFailed(Exception):
    """The connection could not be made; the message is for people."""


class HandshakeProtocol(Protocol):
    """A handshake at the start of a connection, before the protocol of `factory`.

    `done` fires with that protocol. It then has the transport, and this passes on what is received.
    """

    transport: Any

    def __init__(self, factory: IProtocolFactory, clock: Clock, timeout_message: str) -> None:
        self._factory = factory
        self._timeout_message = timeout_message
        self._protocol: Any = None
        self._is_done = False
        self._timeout = Timeout(clock, self._timed_out)
        self.done: Deferred[IProtocol] = Deferred(self._cancel)

    def connectionMade(self) -> None:
        """Start the handshake's timeout."""
        self._timeout.start(HANDSHAKE_TIMEOUT)

    def dataReceived(self, data: bytes) -> None:
        """Pass on data after the handshake."""
        if self._protocol is not None:
            self._protocol.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Fail the handshake, or pass on the loss of the connection."""
        if self._protocol is not None:
            self._protocol.connectionLost(reason)
        elif not self._is_done:
            self._is_done = True
            self._timeout.cancel()
            self.done.errback(self.describe_failure(reason))

    def describe_failure(self, reason: Failure) -> ConnectFailed:
        """Return the error for a connection that was closed during the handshake."""
        return ConnectFailed(
            f"The connection was closed during the handshake: {reason.getErrorMessage()}"
        )

    def succeed(self) -> None:
        """Complete the handshake, and build the protocol."""
        self._is_done = True
        self._timeout.cancel()
        self._protocol = self._factory.buildProtocol(self.transport.getPeer())
        self._protocol.makeConnection(self.transport)
        self.done.callback(self._protocol)

    def fail(self, error: ConnectFailed) -> None:
        """Abort the connection with `error`."""
        if not self._is_done:
            self._is_done = True
            self._timeout.cancel()
            self.transport.abortConnection()
            self.done.errback(error)

    def _timed_out(self) -> None:
        self.fail(ConnectFailed(self._timeout_message))

    def _cancel(self, _: Deferred[IProtocol]) -> None:
        self._is_done = True
        self._timeout.cancel()
        self.transport.abortConnection()


@implementer(IStreamClientEndpoint)
class HandshakeEndpoint:
    """An endpoint whose connections start with a handshake; `handshake_for` makes it."""

    def __init__(
        self, endpoint: Endpoint, handshake_for: Callable[[IProtocolFactory], HandshakeProtocol]
    ) -> None:
        self._endpoint = endpoint
        self._handshake_for = handshake_for

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect; fires with the protocol of `factory` after the handshake."""
        handshakes = Factory.forProtocol(lambda: self._handshake_for(factory))
        handshakes.noisy = False
        connecting: Deferred[HandshakeProtocol] = self._endpoint.connect(handshakes)
        return connecting.addCallback(lambda handshake: handshake.done)
