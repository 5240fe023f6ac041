"""A piece of network under a test's control: a TCP relay that can do what networks do."""

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

#: Bytes that one direction of a connection holds before its sender has to wait.
MAX_BUFFERED = 64 * 1024
#: The same where bytes are delayed: they are under way, not waiting.
MAX_IN_FLIGHT = 4 * 1024 * 1024
#: Seconds between two pieces of a throttled direction.
THROTTLE_INTERVAL = 0.05

AcceptMode = Literal["forward", "blackhole", "refuse"]


@dataclass
class LinkState:
    """How one direction of the wire is now, for all connections; may be changed at any time."""

    delay: float = 0.0  # seconds
    rate: float = 0.0  # bytes a second of each connection; 0: as fast as it goes
    tamper: Callable[[bytes], bytes] | None = None  # what becomes of the bytes

    def flip_bits(self, rng: random.Random, times: int = 1) -> None:
        """Flip one bit each in the next `times` pieces that pass."""
        remaining = [times]

        def tamper(data: bytes) -> bytes:
            if not remaining[0]:
                return data
            remaining[0] -= 1
            corrupted = bytearray(data)
            corrupted[rng.randrange(len(corrupted))] ^= 1 << rng.randrange(8)
            return bytes(corrupted)

        self.tamper = tamper


class RelayDirection:
    """One direction of one connection: takes bytes from `source`, and gives them to `sink`."""

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
        """The source closed in order: so will the sink, after what is on its way."""
        self._ended = True
        self.flush()

    def stop(self) -> None:
        """Nothing passes any more."""
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
        """Let the sender go on only while there is room."""
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
        """`Pair.lost` tells the rest."""


class RelayEndpoint(Protocol):
    """One end of one connection."""

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
    """One connection through the wire."""

    def __init__(self, relay: NetworkRelay) -> None:
        self.relay = relay
        self.to_target, self.to_client = (
            RelayDirection(relay.to_target),
            RelayDirection(relay.to_client),
        )
        self.client = RelayEndpoint(self, self.to_target, self.to_client)
        self.target = RelayEndpoint(self, self.to_client, self.to_target)
        self.closed = False
        self._pending_losses: list[
            tuple[RelayEndpoint, bool]
        ] = []  # in the dark, for when there is light
        self._is_dialled = False

    def dial(self) -> None:
        self._is_dialled = True
        factory = Factory()
        factory.noisy = False
        factory.buildProtocol = lambda addr: self.target  # type: ignore[method-assign]
        dialling = TCP4ClientEndpoint(reactor, "127.0.0.1", self.relay.target).connect(factory)
        dialling.addCallbacks(lambda _: self._connected(), lambda _: self.reset())

    def _connected(self) -> None:
        if self.closed:
            self.target.transport.abortConnection()

    def blackhole(self) -> None:
        """Nothing passes, neither way, not even the end of either side."""
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
        for half, clean in lost:
            self.endpoint_lost(half, clean)

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
        """Reset both sides."""
        self._close()
        for half in (self.client, self.target):
            if half.transport is not None:
                half.transport.abortConnection()

    def _close(self) -> None:
        self.closed = True
        self.to_target.stop()
        self.to_client.stop()
        self.relay.connections.discard(self)


class NetworkRelay(Factory):
    """Listens on `port` and forwards to `target`. `up` is towards the target, `down` back."""

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
        pair = RelayedConnection(self)
        self.connections.add(pair)
        if self.accept_mode == "forward":
            pair.dial()
        elif self.accept_mode == "blackhole":
            pair.to_target.blackholed = pair.to_client.blackholed = True
        else:
            reactor.callLater(0, pair.reset)
        return pair.client

    def reset(self) -> None:
        """Reset every connection, both ways."""
        for pair in list(self.connections):
            pair.reset()

    def blackhole(self, accept_mode: AcceptMode = "blackhole") -> None:
        """Let nothing pass on the connections there are, and tell nobody; `new` ones may."""
        self.accept_mode = accept_mode
        for pair in list(self.connections):
            pair.blackhole()

    def heal(self) -> None:
        """Let everything pass again, also on the connections that were in the dark."""
        self.accept_mode = "forward"
        for pair in list(self.connections):
            pair.heal()

    def delay(self, milliseconds: float) -> None:
        """Hold up every byte, each way."""
        self.to_target.delay = self.to_client.delay = milliseconds / 1000

    def throttle(self, rate: float) -> None:
        """Let so many bytes a second pass, each way of each connection."""
        self.to_target.rate = self.to_client.rate = rate

    def stopListening(self) -> Any:
        self.reset()
        return self.listening.stopListening()
