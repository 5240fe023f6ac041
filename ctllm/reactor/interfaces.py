"""Twisted's interfaces of reactors and transports as protocols that a type checker understands.

Twisted declares them with zope.interface, whose methods have no `self`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred


class Timer(Protocol):
    """Twisted's IDelayedCall."""

    def active(self) -> bool:
        """Whether the call is still due."""

    def cancel(self) -> None:
        """Cancel the call."""


class Clock(Protocol):
    """Twisted's IReactorTime: the reactor, or a `task.Clock` in tests."""

    def seconds(self) -> float:
        """Return the seconds since an unspecified moment."""

    def callLater(self, delay: float, callable: Callable[..., object], /, *args: object) -> Timer:
        """Call `callable` after `delay` seconds; 0 is the reactor's next turn."""


class Transport(Protocol):
    """Twisted's ITCPTransport and IUNIXTransport, as far as they are used here."""

    protocol: Any
    disconnecting: bool

    def write(self, data: bytes, /) -> None:
        """Send data, or buffer it."""

    def loseConnection(self) -> None:
        """Close the connection when all data is sent."""

    def abortConnection(self) -> None:
        """Close the connection at once."""

    def pauseProducing(self) -> None:
        """Stop reading."""

    def resumeProducing(self) -> None:
        """Read again."""

    def registerProducer(self, producer: object, streaming: bool) -> None:
        """Pause `producer` when the buffer is full and resume it when it is empty."""

    def unregisterProducer(self) -> None:
        """Stop pausing and resuming the producer."""


def is_tls(transport: object) -> bool:
    """Whether `transport` is TLS, which in Twisted is a protocol on another transport."""
    return hasattr(transport, "wrappedProtocol")


class Endpoint(Protocol):
    """Twisted's IStreamClientEndpoint."""

    def connect(self, factory: Any, /) -> Deferred[Any]:
        """Connect; fires with the protocol that `factory` builds."""


class ServerEndpoint(Protocol):
    """Twisted's IStreamServerEndpoint."""

    def listen(self, factory: object, /) -> Deferred[Any]:
        """Listen; fires with the port (IListeningPort)."""
