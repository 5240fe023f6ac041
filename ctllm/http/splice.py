"""Two connections made one: bytes pass both ways unread, each way with backpressure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from ctllm.fastpath.direct_write import write_now
from ctllm.http.hangup_monitor import has_hung_up
from ctllm.reactor.interfaces import Clock, Transport, is_tls
from ctllm.reactor.timeout import Timeout

#: Seconds that a side has to take the last words of the other, which closed. One whose network is
#: gone never takes them, and the system finds that out only after many minutes.
CLOSE_TIMEOUT = 10.0
#: Seconds between looks whether a side that is not read, because the other is full, has closed.
HANGUP_POLL_INTERVAL = 5.0


def replace_protocol(transport: Any, protocol: Protocol) -> None:
    """Make `protocol` the one that `transport` speaks to from now on."""
    if is_tls(transport):
        transport.wrappedProtocol = protocol
    else:
        transport.protocol = protocol
    protocol.makeConnection(transport)  # type: ignore[no-untyped-call]


class SplicedConnection(Protocol):
    """One of the two connections; its bytes go to the other."""

    transport: Any
    peer: SplicedConnection | None = None

    def __init__(self, clock: Clock, on_closed: Callable[[], None]) -> None:
        self.clock = clock
        self._on_closed = on_closed
        self._close_timeout = Timeout(clock, self._abort)
        self._hangup_poll = Timeout(clock, self._poll_hangup)

    def dataReceived(self, data: bytes) -> None:
        """Pass on what came."""
        if self.peer is not None:
            write_now(self.peer.transport, data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """One side closed: what it said still leaves, then the other closes too."""
        self._close_timeout.cancel()
        self._hangup_poll.cancel()
        peer, self.peer = self.peer, None
        if peer is not None:
            peer.peer = None
            peer.close()
            self._on_closed()

    def close(self) -> None:
        """Close once everything is sent, or when that takes too long."""
        self._close_timeout.start(CLOSE_TIMEOUT)
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def _abort(self) -> None:
        self.transport.abortConnection()

    # -- as the producer of what the other sends

    def pauseProducing(self) -> None:
        """The other is full. It may be dead, and then this side closes, and nobody reads that."""
        self.transport.pauseProducing()
        self._hangup_poll.start(HANGUP_POLL_INTERVAL)

    def resumeProducing(self) -> None:
        """The other has room."""
        self._hangup_poll.cancel()
        self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """The other closed; its `connectionLost` tells the rest."""

    def _poll_hangup(self) -> None:
        if self.peer is not None and has_hung_up(self.transport):
            self.peer.start_close_timeout()
        else:
            self._hangup_poll.start(HANGUP_POLL_INTERVAL)

    def start_close_timeout(self) -> None:
        """What is still to come are last words: take them, or be dropped."""
        self._close_timeout.start(CLOSE_TIMEOUT)


def splice(
    client: Transport,
    upstream: Transport,
    clock: Clock,
    to_client: bytes,
    to_upstream: bytes,
    on_closed: Callable[[], None] = lambda: None,
) -> None:
    """Join two connections that have both left HTTP.

    `answered` goes to `taken` before anything, `read` was already read from it and goes to `made`.
    `on_over` is called once, when the first of the two has closed.
    """
    client_side, upstream_side = (
        SplicedConnection(clock, on_closed),
        SplicedConnection(clock, on_closed),
    )
    client_side.peer, upstream_side.peer = upstream_side, client_side
    upstream.unregisterProducer()
    replace_protocol(client, client_side)
    replace_protocol(upstream, upstream_side)
    client.registerProducer(upstream_side, True)
    upstream.registerProducer(client_side, True)
    client.write(to_client)
    if to_upstream:
        upstream.write(to_upstream)
