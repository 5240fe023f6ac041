"""Two connections made one: bytes pass both ways unread, each way with backpressure."""

from __future__ import annotations

from typing import Any

from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from ctllm.http.faces import Transport, is_tls


def hand_over(transport: Any, protocol: Protocol) -> None:
    """Make `protocol` the one that `transport` speaks to from now on."""
    if is_tls(transport):
        transport.wrappedProtocol = protocol
    else:
        transport.protocol = protocol
    protocol.makeConnection(transport)


class Side(Protocol):
    """One of the two connections; its bytes go to the other."""

    transport: Any
    other: Side | None = None

    def dataReceived(self, data: bytes) -> None:
        """Pass on what came."""
        if self.other is not None:
            self.other.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """One side closed: what it said still leaves, then the other closes too."""
        other, self.other = self.other, None
        if other is not None:
            other.other = None
            other.transport.unregisterProducer()
            other.transport.loseConnection()


def join(taken: Transport, made: Side, first: bytes, read: bytes = b"") -> None:
    """Join the connection `taken` out of HTTP with the one `made` for it.

    `first` goes to `made` before anything; `read` is what was already read from `taken`.
    """
    side = Side()
    side.other, made.other = made, side
    hand_over(taken, side)
    taken.registerProducer(made.transport, True)
    made.transport.registerProducer(taken, True)
    made.transport.write(first + read)
