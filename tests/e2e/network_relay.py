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
HELD = 64 * 1024
#: The same where bytes are delayed: they are under way, not waiting.
UNDER_WAY = 4 * 1024 * 1024
#: Seconds between two pieces of a throttled direction.
TICK = 0.05

New = Literal["pass", "dark", "refuse"]


@dataclass
class LinkState:
    """How one direction of the wire is now, for all connections; may be changed at any time."""

    delay: float = 0.0  # seconds
    rate: float = 0.0  # bytes a second of each connection; 0: as fast as it goes
    tamper: Callable[[bytes], bytes] | None = None  # what becomes of the bytes

    def flip(self, rng: random.Random, times: int = 1) -> None:
        """Flip one bit each in the next `times` pieces that pass."""
        left = [times]

        def tamper(data: bytes) -> bytes:
            if not left[0]:
                return data
            left[0] -= 1
            broken = bytearray(data)
            broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
            return bytes(broken)

        self.tamper = tamper


class RelayDirection:
    """One direction of one connection: takes bytes from `source`, and gives them to `sink`."""

    def __init__(self, way: LinkState) -> None:
        self.way = way
        self.source: Any = None
        self.sink: Any = None
        self.dark = False
        self._held: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._full = False
        self._ended = False
        self._timer: Any = None

    def take(self, data: bytes) -> None:
        if self.way.tamper is not None:
            data = self.way.tamper(data)
        self._held.append((reactor.seconds() + self.way.delay, data))
        self._size += len(data)
        self.go()

    def end(self) -> None:
        """The source closed in order: so will the sink, after what is on its way."""
        self._ended = True
        self.go()

    def stop(self) -> None:
        """Nothing passes any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.sink = self.source = None
        self._held.clear()

    def go(self) -> None:
        while self._held and self._may_send():
            due, data = self._held.popleft()
            wait = due - reactor.seconds()
            if wait > 0:
                self._held.appendleft((due, data))
                self._wait(wait)
                break
            if self.way.rate:
                most = max(1, int(self.way.rate * TICK))
                if len(data) > most:
                    self._held.appendleft((due, data[most:]))
                    data = data[:most]
                self._wait(len(data) / self.way.rate)
            self._size -= len(data)
            self.sink.write(data)
        self._press()
        if self._ended and not self._held and self.sink is not None and not self.dark:
            self.sink.unregisterProducer()
            self.sink.loseConnection()

    def _may_send(self) -> bool:
        return not (self.dark or self._full or self.sink is None or self._timer is not None)

    def _wait(self, seconds: float) -> None:
        self._timer = reactor.callLater(seconds, self._woken)

    def _woken(self) -> None:
        self._timer = None
        self.go()

    def _press(self) -> None:
        """Let the sender go on only while there is room."""
        if self.source is None or self._ended:
            return
        if self.dark or self._size >= (UNDER_WAY if self.way.delay else HELD):
            self.source.pauseProducing()
        else:
            self.source.resumeProducing()

    def pauseProducing(self) -> None:
        self._full = True

    def resumeProducing(self) -> None:
        self._full = False
        self.go()

    def stopProducing(self) -> None:
        """`Pair.lost` tells the rest."""


class RelayEndpoint(Protocol):
    """One end of one connection."""

    transport: Any

    def __init__(self, pair: RelayedConnection, out: RelayDirection, back: RelayDirection) -> None:
        self.pair, self.out, self.back = pair, out, back

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self.back, True)
        self.out.source = self.back.sink = self.transport
        self.out.go()
        self.back.go()

    def dataReceived(self, data: bytes) -> None:
        self.out.take(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.out.source = self.back.sink = None
        self.pair.lost(self, bool(reason.check(ConnectionDone)))


class RelayedConnection:
    """One connection through the wire."""

    def __init__(self, wire: NetworkRelay) -> None:
        self.wire = wire
        self.up, self.down = RelayDirection(wire.up), RelayDirection(wire.down)
        self.near = RelayEndpoint(self, self.up, self.down)
        self.far = RelayEndpoint(self, self.down, self.up)
        self.over = False
        self._lost: list[tuple[RelayEndpoint, bool]] = []  # in the dark, for when there is light
        self._dialled = False

    def dial(self) -> None:
        self._dialled = True
        made = Factory()
        made.noisy = False
        made.buildProtocol = lambda addr: self.far  # type: ignore[method-assign]
        dialling = TCP4ClientEndpoint(reactor, "127.0.0.1", self.wire.target).connect(made)
        dialling.addCallbacks(lambda _: self._reached(), lambda _: self.cut())

    def _reached(self) -> None:
        if self.over:
            self.far.transport.abortConnection()

    def darken(self) -> None:
        """Nothing passes, neither way, not even the end of either side."""
        self.up.dark = self.down.dark = True
        self.up.go()
        self.down.go()

    def lighten(self) -> None:
        self.up.dark = self.down.dark = False
        if not self._dialled:
            self.dial()
        self.up.go()
        self.down.go()
        lost, self._lost = self._lost, []
        for half, clean in lost:
            self.lost(half, clean)

    def lost(self, half: RelayEndpoint, clean: bool) -> None:
        if self.over:
            return
        if self.up.dark:
            self._lost.append((half, clean))
        elif clean:
            half.out.end()
            if half.out.sink is None:
                self._finish()
        else:
            self.cut()

    def cut(self) -> None:
        """Reset both sides."""
        self._finish()
        for half in (self.near, self.far):
            if half.transport is not None:
                half.transport.abortConnection()

    def _finish(self) -> None:
        self.over = True
        self.up.stop()
        self.down.stop()
        self.wire.pairs.discard(self)


class NetworkRelay(Factory):
    """Listens on `port` and forwards to `target`. `up` is towards the target, `down` back."""

    noisy = False

    def __init__(self, target: int) -> None:
        self.target = target
        self.up, self.down = LinkState(), LinkState()
        self.new: New = "pass"
        self.accepted = 0
        self.pairs: set[RelayedConnection] = set()
        self.listening = listen(reactor, self, backlog=4096)
        self.port = port_of(self.listening)

    def buildProtocol(self, addr: Any) -> RelayEndpoint:
        self.accepted += 1
        pair = RelayedConnection(self)
        self.pairs.add(pair)
        if self.new == "pass":
            pair.dial()
        elif self.new == "dark":
            pair.up.dark = pair.down.dark = True
        else:
            reactor.callLater(0, pair.cut)
        return pair.near

    def cut(self) -> None:
        """Reset every connection, both ways."""
        for pair in list(self.pairs):
            pair.cut()

    def blackhole(self, new: New = "dark") -> None:
        """Let nothing pass on the connections there are, and tell nobody; `new` ones may."""
        self.new = new
        for pair in list(self.pairs):
            pair.darken()

    def heal(self) -> None:
        """Let everything pass again, also on the connections that were in the dark."""
        self.new = "pass"
        for pair in list(self.pairs):
            pair.lighten()

    def delay(self, milliseconds: float) -> None:
        """Hold up every byte, each way."""
        self.up.delay = self.down.delay = milliseconds / 1000

    def throttle(self, rate: float) -> None:
        """Let so many bytes a second pass, each way of each connection."""
        self.up.rate = self.down.rate = rate

    def stopListening(self) -> Any:
        self.cut()
        return self.listening.stopListening()
