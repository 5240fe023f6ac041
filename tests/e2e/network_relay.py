"""A TCP relay that simulates network faults: resets, black holes, delay, low rates, corruption."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol

from tests.ports import listen, port_of

#: Bytes that one direction of a connection buffers before it pauses the sender.
MAX_BUFFERED = 64 * 1024
#: The same while there is a delay: these bytes are in flight, not waiting for the receiver.
MAX_IN_FLIGHT = 4 * 1024 * 1024
#: Seconds between two writes of a throttled direction.
THROTTLE_INTERVAL = 0.05

AcceptMode = Literal["forward", "blackhole", "refuse"]


@dataclass
class LinkState:
    """The state of one direction of a relay, for all connections; may change at any time."""

    delay: float = 0.0  # seconds
    rate: float = 0.0  # bytes per second of each connection; 0: no limit
    tamper: Callable[[bytes], bytes] | None = None  # returns the bytes to forward

    def flip_bits(self, rng: random.Random, times: int = 1) -> None:
        """Flip one bit in each of the next `times` chunks that are received."""
        remaining = times

        def tamper(data: bytes) -> bytes:
            nonlocal remaining
            if not remaining:
                return data
            remaining -= 1
            corrupted = bytearray(data)
            corrupted[rng.randrange(len(corrupted))] ^= 1 << rng.randrange(8)
            return bytes(corrupted)

        self.tamper = tamper


class RelayDirection:
    """One direction of one connection: forwards bytes from `source` to `sink`."""

    def __init__(self, link: LinkState) -> None:
        self.link = link
        self.source: Any = None
        self.sink: Any = None
        self.blackholed = False
        self._queue: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._full = False
        self._ended = False
        self._timer: Any = None

    def enqueue(self, data: bytes) -> None:
        if self.link.tamper is not None:
            data = self.link.tamper(data)
        self._queue.append((reactor.seconds() + self.link.delay, data))
        self._size += len(data)
        self.flush()

    def finish(self) -> None:
        """Close the sink after the queued bytes: the source has closed its connection."""
        self._ended = True
        self.flush()

    def stop(self) -> None:
        """Discard the queue and stop forwarding."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.sink = self.source = None
        self._queue.clear()

    def flush(self) -> None:
        while self._queue and self._may_send():
            due, data = self._queue.popleft()
            wait = due - reactor.seconds()
            if wait > 0:
                self._queue.appendleft((due, data))
                self._schedule_flush(wait)
                break
            if self.link.rate:
                max_bytes = max(1, int(self.link.rate * THROTTLE_INTERVAL))
                if len(data) > max_bytes:
                    self._queue.appendleft((due, data[max_bytes:]))
                    data = data[:max_bytes]
                self._schedule_flush(len(data) / self.link.rate)
            self._size -= len(data)
            self.sink.write(data)
        self._apply_backpressure()
        if self._ended and not self._queue and self.sink is not None and not self.blackholed:
            self.sink.unregisterProducer()
            self.sink.loseConnection()

    def _may_send(self) -> bool:
        return not (self.blackholed or self._full or self.sink is None or self._timer is not None)

    def _schedule_flush(self, seconds: float) -> None:
        self._timer = reactor.callLater(seconds, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.flush()

    def _apply_backpressure(self) -> None:
        """Pause the source while the queue is full or the direction blackholed; else resume it."""
        if self.source is None or self._ended:
            return
        if self.blackholed or self._size >= (MAX_IN_FLIGHT if self.link.delay else MAX_BUFFERED):
            self.source.pauseProducing()
        else:
            self.source.resumeProducing()

    def pauseProducing(self) -> None:
        self._full = True

    def resumeProducing(self) -> None:
        self._full = False
        self.flush()

    def stopProducing(self) -> None:
        """Do nothing: `RelayedConnection.endpoint_lost` handles the end."""


class RelayEndpoint(Protocol):
    """One endpoint of a relayed connection: the client's or the target's."""

    transport: Any

    def __init__(
        self, connection: RelayedConnection, outgoing: RelayDirection, incoming: RelayDirection
    ) -> None:
        self.connection, self.outgoing, self.incoming = connection, outgoing, incoming

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self.incoming, True)
        self.outgoing.source = self.incoming.sink = self.transport
        self.outgoing.flush()
        self.incoming.flush()

    def dataReceived(self, data: bytes) -> None:
        self.outgoing.enqueue(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.outgoing.source = self.incoming.sink = None
        self.connection.endpoint_lost(self, bool(reason.check(ConnectionDone)))


class RelayedConnection:
    """One client's connection through the relay."""

    def __init__(self, relay: NetworkRelay) -> None:
        self.relay = relay
        self.to_target = RelayDirection(relay.to_target)
        self.to_client = RelayDirection(relay.to_client)
        self.client = RelayEndpoint(self, self.to_target, self.to_client)
        self.target = RelayEndpoint(self, self.to_client, self.to_target)
        self.closed = False
        # Endpoints that were lost while the connection was blackholed; handled by heal().
        self._pending_losses: list[tuple[RelayEndpoint, bool]] = []
        self._is_dialled = False

    def dial(self) -> None:
        self._is_dialled = True
        factory = Factory()
        factory.noisy = False
        factory.buildProtocol = lambda addr: self.target  # type: ignore[method-assign]
        connecting = TCP4ClientEndpoint(reactor, "127.0.0.1", self.relay.target).connect(factory)
        connecting.addCallbacks(lambda _: self._connected(), lambda _: self.reset())

    def _connected(self) -> None:
        if self.closed:
            self.target.transport.abortConnection()

    def blackhole(self) -> None:
        """Forward nothing in either direction, not even the end of an endpoint's connection."""
        self.to_target.blackholed = self.to_client.blackholed = True
        self.to_target.flush()
        self.to_client.flush()

    def heal(self) -> None:
        self.to_target.blackholed = self.to_client.blackholed = False
        if not self._is_dialled:
            self.dial()
        self.to_target.flush()
        self.to_client.flush()
        lost, self._pending_losses = self._pending_losses, []
        for endpoint, clean in lost:
            self.endpoint_lost(endpoint, clean)

    def endpoint_lost(self, endpoint: RelayEndpoint, clean: bool) -> None:
        if self.closed:
            return
        if self.to_target.blackholed:
            self._pending_losses.append((endpoint, clean))
        elif clean:
            endpoint.outgoing.finish()
            if endpoint.outgoing.sink is None:
                self._close()
        else:
            self.reset()

    def reset(self) -> None:
        """Reset the connections of both endpoints."""
        self._close()
        for endpoint in (self.client, self.target):
            if endpoint.transport is not None:
                endpoint.transport.abortConnection()

    def _close(self) -> None:
        self.closed = True
        self.to_target.stop()
        self.to_client.stop()
        self.relay.connections.discard(self)


class NetworkRelay(Factory):
    """A TCP relay that listens on `port` and forwards to the port `target`.

    `to_target` and `to_client` are the states of its two directions.
    """

    noisy = False

    def __init__(self, target: int) -> None:
        self.target = target
        self.to_target, self.to_client = LinkState(), LinkState()
        self.accept_mode: AcceptMode = "forward"
        self.accepted = 0
        self.connections: set[RelayedConnection] = set()
        self.listening = listen(reactor, self, backlog=4096)
        self.port = port_of(self.listening)

    def buildProtocol(self, addr: Any) -> RelayEndpoint:
        self.accepted += 1
        connection = RelayedConnection(self)
        self.connections.add(connection)
        if self.accept_mode == "forward":
            connection.dial()
        elif self.accept_mode == "blackhole":
            connection.to_target.blackholed = connection.to_client.blackholed = True
        else:
            reactor.callLater(0, connection.reset)
        return connection.client

    def reset(self) -> None:
        """Reset every connection."""
        for connection in list(self.connections):
            connection.reset()

    def blackhole(self, accept_mode: AcceptMode = "blackhole") -> None:
        """Forward nothing on the present connections, without closing them.

        `accept_mode` applies to new connections.
        """
        self.accept_mode = accept_mode
        for connection in list(self.connections):
            connection.blackhole()

    def heal(self) -> None:
        """Forward again, also on the blackholed connections."""
        self.accept_mode = "forward"
        for connection in list(self.connections):
            connection.heal()

    def delay(self, milliseconds: float) -> None:
        """Delay the bytes of each direction."""
        self.to_target.delay = self.to_client.delay = milliseconds / 1000

    def throttle(self, rate: float) -> None:
        """Limit each direction of each connection to `rate` bytes per second."""
        self.to_target.rate = self.to_client.rate = rate

    def stopListening(self) -> Any:
        self.reset()
        return self.listening.stopListening()
