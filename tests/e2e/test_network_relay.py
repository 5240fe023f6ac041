"""The piece of network that the tests control does what it says: else they would show nothing."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater

from tests.e2e.cluster import wait_until
from tests.e2e.network_relay import NetworkRelay
from tests.ports import listen, port_of


class End(Protocol):
    """One end of a connection, and what it saw."""

    transport: Any

    def __init__(self) -> None:
        self.got = bytearray()
        self.lost: Any = None
        self.may_send = True

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, True)

    def pauseProducing(self) -> None:
        self.may_send = False

    def resumeProducing(self) -> None:
        self.may_send = True

    def stopProducing(self) -> None:
        """It ends."""

    def dataReceived(self, data: bytes) -> None:
        self.got += data

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = reason.type


class Ends:
    """A listener behind a wire, and clients before it."""

    def __init__(self) -> None:
        self.served: list[End] = []
        self.clients: list[End] = []
        accepting = Factory()
        accepting.noisy = False
        accepting.buildProtocol = self.accept  # type: ignore[method-assign]
        self.listening = listen(reactor, accepting)
        self.wire = NetworkRelay(port_of(self.listening))

    def accept(self, addr: Any) -> End:
        self.served.append(End())
        return self.served[-1]

    async def dial(self) -> End:
        made = Factory.forProtocol(End)
        made.noisy = False
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.wire.port)
        end = cast(End, await endpoint.connect(made))
        self.clients.append(end)
        return end

    async def join(self) -> tuple[End, End]:
        """A client and the server's end of its connection."""
        client = await self.dial()
        before = len(self.served)
        await wait_until(lambda: len(self.served) >= max(before, 1), "the other end")
        client.transport.write(b"hello")
        await wait_until(lambda: self.served[-1].got == b"hello", "the first words")
        self.served[-1].got.clear()
        return client, self.served[-1]


@pytest_twisted.async_yield_fixture()
async def ends() -> AsyncIterator[Ends]:
    """Two ends and a wire between."""
    made = Ends()
    yield made
    for end in made.clients + made.served:
        if end.lost is None:
            end.transport.abortConnection()
    await made.wire.stopListening()
    await maybeDeferred(made.listening.stopListening)


async def pass_time(seconds: float) -> None:
    await deferLater(reactor, seconds)


@ensureDeferred
async def test_bytes_pass_both_ways_and_so_does_the_end(ends: Ends) -> None:
    """Unchanged; who closes is followed after the last byte."""
    client, server = await ends.join()
    client.transport.write(b"up" * 500_000)
    await wait_until(lambda: server.got == b"up" * 500_000, "one way")
    server.transport.write(b"down" * 500_000)
    server.transport.unregisterProducer()
    server.transport.loseConnection()
    await wait_until(lambda: client.lost, "the end")
    assert (bytes(client.got), client.lost) == (b"down" * 500_000, ConnectionDone)
    await wait_until(lambda: not ends.wire.connections, "nothing to be left")


@ensureDeferred
async def test_a_cut_is_a_reset(ends: Ends) -> None:
    """Of both ends, and of every connection; the next one passes."""
    both = await ends.join()
    ends.wire.reset()
    await wait_until(lambda: all(end.lost for end in both), "the resets")
    assert ConnectionDone not in {end.lost for end in both}
    await ends.join()


@ensureDeferred
async def test_in_the_dark_nothing_passes_not_even_an_end(ends: Ends) -> None:
    """No byte, no FIN, no RST; new connections as the test wants; then all of it comes late."""
    first, second = await ends.join(), await ends.join()
    ends.wire.blackhole("forward")
    moved = await ends.join()
    first[0].transport.write(b"unheard")
    second[0].transport.abortConnection()
    second[1].transport.write(b"into the void")
    await pass_time(0.3)
    assert (bytes(first[1].got), first[0].lost, first[1].lost) == (b"", None, None)
    assert second[1].lost is None
    moved[0].transport.write(b"heard")
    await wait_until(lambda: moved[1].got == b"heard", "the new connection")
    ends.wire.accept_mode = "refuse"
    refused = await ends.dial()
    await wait_until(lambda: refused.lost, "the refusal")
    ends.wire.accept_mode = "blackhole"
    served = len(ends.served)
    waiting = await ends.dial()
    waiting.transport.write(b"hello?")
    await pass_time(0.2)
    assert (len(ends.served), waiting.lost) == (served, None)
    ends.wire.heal()
    await wait_until(lambda: first[1].got == b"unheard", "what was held")
    await wait_until(lambda: second[1].lost, "the end that was held")
    await wait_until(
        lambda: len(ends.served) > served and ends.served[-1].got == b"hello?", "the new"
    )


@ensureDeferred
async def test_in_the_dark_the_sender_is_stalled(ends: Ends) -> None:
    """As by a real network: its buffers fill, and then it has to wait."""
    client, _ = await ends.join()
    ends.wire.blackhole()
    for _ in range(200):
        if client.may_send:
            client.transport.write(bytes(100_000))
        await pass_time(0)
    assert not client.may_send


@ensureDeferred
async def test_a_slow_reader_stalls_the_sender_through_the_wire(ends: Ends) -> None:
    """Backpressure is passed on: the wire holds little."""
    client, server = await ends.join()
    server.transport.pauseProducing()
    sent = 0
    for _ in range(400):
        if client.may_send:
            client.transport.write(bytes(100_000))
            sent += 100_000
        await pass_time(0)
    assert not client.may_send
    server.transport.resumeProducing()
    await wait_until(lambda: len(server.got) == sent, "all that was sent")


@ensureDeferred
async def test_delay_and_throttle(ends: Ends) -> None:
    """Bytes come so much later, and so many a second; in order, and none is lost."""
    client, server = await ends.join()
    ends.wire.delay(200)
    began = reactor.seconds()
    client.transport.write(b"late")
    await wait_until(lambda: server.got == b"late", "what was delayed")
    assert reactor.seconds() - began >= 0.19
    ends.wire.delay(0)
    ends.wire.throttle(100_000)
    server.got.clear()
    words = random.Random(1).randbytes(100_000)
    began = reactor.seconds()
    client.transport.write(words)
    await wait_until(lambda: len(server.got) == len(words), "what was throttled")
    assert 0.7 < reactor.seconds() - began < 5
    assert bytes(server.got) == words


@ensureDeferred
async def test_one_bit_is_flipped(ends: Ends) -> None:
    """As often as was asked for, in one direction."""
    client, server = await ends.join()
    ends.wire.to_target.flip_bits(random.Random(1))
    client.transport.write(bytes(1000))
    await wait_until(lambda: len(server.got) == 1000, "the first")
    assert sum(byte.bit_count() for byte in server.got) == 1
    client.transport.write(bytes(1000))
    await wait_until(lambda: len(server.got) == 2000, "the second")
    assert sum(byte.bit_count() for byte in server.got) == 1
