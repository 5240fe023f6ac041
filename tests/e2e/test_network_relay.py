"""Tests of the network relay that the fault tests rely on."""

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


class Endpoint(Protocol):
    """One endpoint of a connection; records what it receives."""

    transport: Any

    def __init__(self) -> None:
        self.received = bytearray()
        self.lost: Any = None
        self.may_send = True

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, True)

    def pauseProducing(self) -> None:
        self.may_send = False

    def resumeProducing(self) -> None:
        self.may_send = True

    def stopProducing(self) -> None:
        """Do nothing: the connection closes."""

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = reason.type


class RelayedNetwork:
    """A server behind a relay, and its clients."""

    def __init__(self) -> None:
        self.server_ends: list[Endpoint] = []
        self.clients: list[Endpoint] = []
        factory = Factory()
        factory.noisy = False
        factory.buildProtocol = self.accept  # type: ignore[method-assign]
        self.listening = listen(reactor, factory)
        self.relay = NetworkRelay(port_of(self.listening))

    def accept(self, addr: Any) -> Endpoint:
        self.server_ends.append(Endpoint())
        return self.server_ends[-1]

    async def connect(self) -> Endpoint:
        factory = Factory.forProtocol(Endpoint)
        factory.noisy = False
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.relay.port)
        client = cast(Endpoint, await endpoint.connect(factory))
        self.clients.append(client)
        return client

    async def connect_pair(self) -> tuple[Endpoint, Endpoint]:
        """Connect a client; return it and the server's endpoint of its connection."""
        client = await self.connect()
        before = len(self.server_ends)
        await wait_until(lambda: len(self.server_ends) >= max(before, 1), "the server to accept")
        client.transport.write(b"hello")
        await wait_until(lambda: self.server_ends[-1].received == b"hello", "the first bytes")
        self.server_ends[-1].received.clear()
        return client, self.server_ends[-1]


@pytest_twisted.async_yield_fixture()
async def network() -> AsyncIterator[RelayedNetwork]:
    """A server behind a relay."""
    relayed_network = RelayedNetwork()
    yield relayed_network
    for end in relayed_network.clients + relayed_network.server_ends:
        if end.lost is None:
            end.transport.abortConnection()
    await relayed_network.relay.stopListening()
    await maybeDeferred(relayed_network.listening.stopListening)


async def pass_time(seconds: float) -> None:
    await deferLater(reactor, seconds)


@ensureDeferred
async def test_bytes_and_the_close_are_relayed_both_ways(network: RelayedNetwork) -> None:
    """The close follows the last byte."""
    client, server = await network.connect_pair()
    client.transport.write(b"up" * 500_000)
    await wait_until(lambda: server.received == b"up" * 500_000, "the bytes to the server")
    server.transport.write(b"down" * 500_000)
    server.transport.unregisterProducer()
    server.transport.loseConnection()
    await wait_until(lambda: client.lost, "the close")
    assert (bytes(client.received), client.lost) == (b"down" * 500_000, ConnectionDone)
    await wait_until(lambda: not network.relay.connections, "the relay to forget the connection")


@ensureDeferred
async def test_reset_resets_both_endpoints(network: RelayedNetwork) -> None:
    """A later connection is relayed."""
    both = await network.connect_pair()
    network.relay.reset()
    await wait_until(lambda: all(end.lost for end in both), "the resets")
    assert ConnectionDone not in {end.lost for end in both}
    await network.connect_pair()


@ensureDeferred
async def test_a_blackholed_connection_relays_nothing_until_it_is_healed(
    network: RelayedNetwork,
) -> None:
    """Neither bytes nor FIN nor RST; new connections are treated according to `accept_mode`."""
    first, second = await network.connect_pair(), await network.connect_pair()
    network.relay.blackhole("forward")
    new = await network.connect_pair()
    first[0].transport.write(b"blackholed")
    second[0].transport.abortConnection()
    second[1].transport.write(b"discarded")
    await pass_time(0.3)
    assert (bytes(first[1].received), first[0].lost, first[1].lost) == (b"", None, None)
    assert second[1].lost is None
    new[0].transport.write(b"relayed")
    await wait_until(lambda: new[1].received == b"relayed", "the new connection")
    network.relay.accept_mode = "refuse"
    refused = await network.connect()
    await wait_until(lambda: refused.lost, "the refusal")
    network.relay.accept_mode = "blackhole"
    count = len(network.server_ends)
    waiting = await network.connect()
    waiting.transport.write(b"hello?")
    await pass_time(0.2)
    assert (len(network.server_ends), waiting.lost) == (count, None)
    network.relay.heal()
    await wait_until(lambda: first[1].received == b"blackholed", "the blackholed bytes")
    await wait_until(lambda: second[1].lost, "the blackholed reset")
    await wait_until(
        lambda: len(network.server_ends) > count and network.server_ends[-1].received == b"hello?",
        "the blackholed connection to be accepted",
    )


@ensureDeferred
async def test_a_blackholed_connection_pauses_its_sender(network: RelayedNetwork) -> None:
    """Its buffers fill, as with a real network."""
    client, _ = await network.connect_pair()
    network.relay.blackhole()
    for _ in range(200):
        if client.may_send:
            client.transport.write(bytes(100_000))
        await pass_time(0)
    assert not client.may_send


@ensureDeferred
async def test_a_slow_reader_pauses_the_sender(network: RelayedNetwork) -> None:
    """The relay passes backpressure on: it buffers little."""
    client, server = await network.connect_pair()
    server.transport.pauseProducing()
    sent = 0
    for _ in range(400):
        if client.may_send:
            client.transport.write(bytes(100_000))
            sent += 100_000
        await pass_time(0)
    assert not client.may_send
    server.transport.resumeProducing()
    await wait_until(lambda: len(server.received) == sent, "all bytes that were sent")


@ensureDeferred
async def test_delay_and_throttle_keep_all_bytes_in_order(network: RelayedNetwork) -> None:
    client, server = await network.connect_pair()
    network.relay.delay(200)
    began = reactor.seconds()
    client.transport.write(b"late")
    await wait_until(lambda: server.received == b"late", "the delayed bytes")
    assert reactor.seconds() - began >= 0.19
    network.relay.delay(0)
    network.relay.throttle(100_000)
    server.received.clear()
    data = random.Random(1).randbytes(100_000)
    began = reactor.seconds()
    client.transport.write(data)
    await wait_until(lambda: len(server.received) == len(data), "the throttled bytes")
    assert 0.7 < reactor.seconds() - began < 5
    assert bytes(server.received) == data


@ensureDeferred
async def test_flip_bits_flips_one_bit_of_one_chunk(network: RelayedNetwork) -> None:
    """The next chunk is relayed unchanged."""
    client, server = await network.connect_pair()
    network.relay.to_target.flip_bits(random.Random(1))
    client.transport.write(bytes(1000))
    await wait_until(lambda: len(server.received) == 1000, "the first")
    assert sum(byte.bit_count() for byte in server.received) == 1
    client.transport.write(bytes(1000))
    await wait_until(lambda: len(server.received) == 2000, "the second")
    assert sum(byte.bit_count() for byte in server.received) == 1
