"""Two connections spliced into one: data passes both ways unread, with backpressure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from ctllm.fastpath.direct_write import write_now
from ctllm.http.hangup_monitor import has_hung_up
from ctllm.reactor.interfaces import Clock, Transport, is_tls
from ctllm.reactor.timeout import Timeout

#: Seconds that a connection has to flush its data after the other one closed. If its network is
#: gone, the system reports that only after many minutes.
CLOSE_TIMEOUT = 10.0
#: Seconds between two polls whether a connection that is not read has been closed by its peer.
HANGUP_POLL_INTERVAL = 5.0


def replace_protocol(transport: Any, protocol: Protocol) -> None:
    """Connect `protocol` to `transport`, in the place of the protocol that it has."""
    if is_tls(transport):
        transport.wrappedProtocol = protocol
    else:
        transport.protocol = protocol
    protocol.makeConnection(transport)  # type: ignore[no-untyped-call]


class SplicedConnection(Protocol):
    """One of the two connections; the producer of what its `peer` writes.

    `on_closed` is called when this one closes first. `has_hung_up` is asked while the connection
    is paused.
    """

    transport: Any
    peer: SplicedConnection | None = None

    def __init__(
        self,
        clock: Clock,
        on_closed: Callable[[], None],
        has_hung_up: Callable[[object], bool] = has_hung_up,
    ) -> None:
        self._on_closed = on_closed
        self._has_hung_up = has_hung_up
        self._close_timeout = Timeout(clock, self._abort)
        self._hangup_poll = Timeout(clock, self._poll_hangup)

    def dataReceived(self, data: bytes) -> None:
        """Write the data to the other connection."""
        if self.peer is not None:
            write_now(self.peer.transport, data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Close the other connection, after it has sent what it holds."""
        self._close_timeout.cancel()
        self._hangup_poll.cancel()
        peer, self.peer = self.peer, None
        if peer is not None:
            peer.peer = None
            peer.close()
            self._on_closed()

    def close(self) -> None:
        """Close when all data is sent, or after CLOSE_TIMEOUT."""
        self._close_timeout.start(CLOSE_TIMEOUT)
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def _abort(self) -> None:
        self.transport.abortConnection()

    def pauseProducing(self) -> None:
        """Stop reading: the other connection's buffer is full.

        An unread connection does not report its end, so it is polled: the other connection's
        network may be gone, and its buffer full for ever.
        """
        self.transport.pauseProducing()
        self._hangup_poll.start(HANGUP_POLL_INTERVAL)

    def resumeProducing(self) -> None:
        """Read again."""
        self._hangup_poll.cancel()
        self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """Do nothing: `connectionLost` follows."""

    def _poll_hangup(self) -> None:
        if self.peer is not None and self._has_hung_up(self.transport):
            self.peer.start_close_timeout()
        else:
            self._hangup_poll.start(HANGUP_POLL_INTERVAL)

    def start_close_timeout(self) -> None:
        """Abort after CLOSE_TIMEOUT: the other connection has been closed by its peer."""
        self._close_timeout.start(CLOSE_TIMEOUT)


def splice(
    client: Transport,
    upstream: Transport,
    clock: Clock,
    to_client: bytes,
    to_upstream: bytes,
    on_closed: Callable[[], None] = lambda: None,
    has_hung_up: Callable[[object], bool] = has_hung_up,
) -> None:
    """Splice two connections that have both left HTTP.

    `to_client` is written to `client` first; `to_upstream`, which was already read from it, to
    `upstream`. `on_closed` is called once, when the first of the two has closed.
    """
    client_side = SplicedConnection(clock, on_closed, has_hung_up)
    upstream_side = SplicedConnection(clock, on_closed, has_hung_up)
    client_side.peer, upstream_side.peer = upstream_side, client_side
    upstream.unregisterProducer()
    replace_protocol(client, client_side)
    replace_protocol(upstream, upstream_side)
    client.registerProducer(upstream_side, True)
    upstream.registerProducer(client_side, True)
    client.write(to_client)
    if to_upstream:
        upstream.write(to_upstream)
