"""Two connections made one: bytes pass both ways unread, each way with backpressure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from ctllm.fastpath.direct_write import write_now
from ctllm.http.hangup_monitor import hung_up
from ctllm.reactor.interfaces import Clock, Transport, is_tls
from ctllm.reactor.timeout import Timeout

#: Seconds that a side has to take the last words of the other, which closed. One whose network is
#: gone never takes them, and the system finds that out only after many minutes.
LAST_WORDS = 10.0
#: Seconds between looks whether a side that is not read, because the other is full, has closed.
LOOK = 5.0


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

    def __init__(self, clock: Clock, on_over: Callable[[], None]) -> None:
        self.clock = clock
        self._on_over = on_over
        self._last_words = Timeout(clock, self._abort)
        self._look = Timeout(clock, self._see)

    def dataReceived(self, data: bytes) -> None:
        """Pass on what came."""
        if self.other is not None:
            write_now(self.other.transport, data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """One side closed: what it said still leaves, then the other closes too."""
        self._last_words.cancel()
        self._look.cancel()
        other, self.other = self.other, None
        if other is not None:
            other.other = None
            other.close()
            self._on_over()

    def close(self) -> None:
        """Close once everything is sent, or when that takes too long."""
        self._last_words.set(LAST_WORDS)
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def _abort(self) -> None:
        self.transport.abortConnection()

    # -- as the producer of what the other sends

    def pauseProducing(self) -> None:
        """The other is full. It may be dead, and then this side closes, and nobody reads that."""
        self.transport.pauseProducing()
        self._look.set(LOOK)

    def resumeProducing(self) -> None:
        """The other has room."""
        self._look.cancel()
        self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """The other closed; its `connectionLost` tells the rest."""

    def _see(self) -> None:
        if self.other is not None and hung_up(self.transport):
            self.other.hurry()
        else:
            self._look.set(LOOK)

    def hurry(self) -> None:
        """What is still to come are last words: take them, or be dropped."""
        self._last_words.set(LAST_WORDS)


def join(
    taken: Transport,
    made: Transport,
    clock: Clock,
    answered: bytes,
    read: bytes,
    on_over: Callable[[], None] = lambda: None,
) -> None:
    """Join two connections that have both left HTTP.

    `answered` goes to `taken` before anything, `read` was already read from it and goes to `made`.
    `on_over` is called once, when the first of the two has closed.
    """
    near, far = Side(clock, on_over), Side(clock, on_over)
    near.other, far.other = far, near
    made.unregisterProducer()
    hand_over(taken, near)
    hand_over(made, far)
    taken.registerProducer(far, True)
    made.registerProducer(near, True)
    taken.write(answered)
    if read:
        made.write(read)
