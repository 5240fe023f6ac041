"""What this code needs of Twisted's reactor and transports, as types that a checker understands.

(Twisted declares them with zope.interface, whose methods have no `self`.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred


class Timer(Protocol):
    """A call that is due later."""

    def active(self) -> bool:
        """Whether it is still to come."""

    def cancel(self) -> None:
        """Do not call."""


class Clock(Protocol):
    """Twisted's IReactorTime: the reactor, or a `task.Clock` in tests."""

    def seconds(self) -> float:
        """Now, in seconds, from any beginning."""

    def callLater(self, delay: float, callable: Callable[..., Any], /, *args: Any) -> Timer:
        """Call later; `delay` in seconds, 0 for the next turn of the reactor."""


class Transport(Protocol):
    """Twisted's stream transport, TCP or UNIX."""

    protocol: Any
    disconnecting: Any

    def write(self, data: bytes, /) -> None:
        """Send, or keep to be sent."""

    def loseConnection(self) -> None:
        """Close when everything is sent."""

    def abortConnection(self) -> None:
        """Close now."""

    def pauseProducing(self) -> None:
        """Stop reading."""

    def resumeProducing(self) -> None:
        """Read again."""

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Tell `producer` to pause and resume as the buffer fills and empties."""

    def unregisterProducer(self) -> None:
        """Tell nobody."""


def is_tls(transport: object) -> bool:
    """Whether this is TLS, where the transport is itself a protocol on another one."""
    return hasattr(transport, "wrappedProtocol")


class Endpoint(Protocol):
    """Twisted's IStreamClientEndpoint."""

    def connect(self, factory: Any, /) -> Deferred[Any]:
        """Connect; fires with the protocol that `factory` built."""


class ServerEndpoint(Protocol):
    """Twisted's IStreamServerEndpoint."""

    def listen(self, factory: Any, /) -> Deferred[Any]:
        """Listen; fires with the port (IListeningPort)."""
