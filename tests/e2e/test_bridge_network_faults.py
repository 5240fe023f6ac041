"""Faults of the network between desktop and cloud: responses in progress continue."""

from __future__ import annotations

import random
import signal
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater

from tests.e2e.cluster import wait_until
from tests.e2e.faulty_cluster import FaultyCluster, ResponseReader, send_request
from tests.e2e.fixed_response_upstream import full_response, sha256
from tests.e2e.network_relay import NetworkRelay
from tests.e2e.process_info import open_files

#: Seconds within which a dead connection is detected by default, and an allowance for load.
DETECTION, ALLOWANCE = 8.0, 4.0


async def gather(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run the coroutines concurrently; raise the first error."""
    await DeferredList(
        [Deferred.fromCoroutine(coroutine) for coroutine in coroutines], fireOnOneErrback=True
    )


async def direct_hash(faulty: FaultyCluster, lines: int) -> str:
    """Return the hash of the response that the upstream sends without ctllm."""
    body = {"model": "numbers", "lines": lines}
    reader = await send_request(faulty.upstream.port, "POST", "/api/chat", "none", body)
    await reader.wait_closed()
    assert reader.complete
    return sha256(bytes(reader.body))


@ensureDeferred
async def test_a_response_survives_a_reset_a_black_hole_and_a_new_address(
    faulty: FaultyCluster,
) -> None:
    """With the default settings the bridge reconnects within seconds; every byte arrives once."""
    await faulty.start()
    recovery: dict[str, float] = {}

    async def check(
        name: str, inject_fault: Callable[[NetworkRelay], Awaitable[None]], limit: float
    ) -> None:
        reader = await faulty.start_chat(380, 0.05, ctllm_desktop=str(names.index(name)))
        await reader.wait_for_lines(20)
        relay = faulty.relays[names.index(name)]
        began = reactor.seconds()
        await inject_fault(relay)
        received = reader.line_count
        began = max(began, reactor.seconds())
        await wait_until(
            lambda: reader.line_count > received + 20 or reader.closed,
            f"the response after the fault {name}",
        )
        recovery[name] = reactor.seconds() - began
        assert recovery[name] < limit + ALLOWANCE
        await reader.wait_closed()
        assert reader.complete
        assert sha256(bytes(reader.body)) == expected, name

    async def reset(relay: NetworkRelay) -> None:
        relay.reset()

    async def moved(relay: NetworkRelay) -> None:
        relay.blackhole("forward")

    async def black_hole(relay: NetworkRelay) -> None:
        relay.blackhole("blackhole")  # new connections get no response either
        await deferLater(reactor, DETECTION + 4)
        relay.heal()

    names = ["reset", "moved", "black hole"]
    for _ in names:
        await faulty.add_desktop()
    expected = await direct_hash(faulty, 380)
    await gather(
        check("reset", reset, 1),
        check("moved", moved, DETECTION + 1),
        check("black hole", black_hole, 10),
    )
    print({name: round(seconds, 2) for name, seconds in recovery.items()})
    assert faulty.upstream.request_count == 1 + len(names)  # no request was repeated
    await wait_until(lambda: not faulty.upstream.active, "the upstream to finish")


@ensureDeferred
async def test_a_slow_network_does_not_disconnect_the_bridge(faulty: FaultyCluster) -> None:
    """Pongs are queued behind data for longer than the ping timeout."""
    pings = ("--ping-interval-seconds=1", "--ping-timeout-seconds=2")
    await faulty.start(*pings)
    relay = await faulty.add_desktop(*pings)
    relay.throttle(20_000)
    responses = [await faulty.start_chat(60, 0, 1000) for _ in range(4)]
    body = {"model": "numbers", "lines": 10, "filling": "x" * 200_000}
    upload = await send_request(faulty.client_relay.port, "POST", "/api/chat", faulty.token, body)
    for reader in (*responses, upload):
        await reader.wait_closed()
        assert reader.complete
    assert {sha256(bytes(response.body)) for response in responses} == {
        sha256(full_response(60, 1000))
    }
    assert bytes(upload.body) == full_response(10)
    assert faulty.desktops[0].output.count("Cloud connection: connected") == 1


@ensureDeferred
async def test_the_newest_connection_replaces_one_that_is_half_open(faulty: FaultyCluster) -> None:
    """The cloud itself would detect the dead connection only after minutes."""
    await faulty.start("--ping-interval-seconds=60", "--ping-timeout-seconds=60")
    relay = await faulty.add_desktop("--ping-interval-seconds=1", "--ping-timeout-seconds=1")
    old = await faulty.start_chat(120, 0.05)
    await old.wait_for_lines(10)
    handshakes: list[float] = []

    def record_handshake(data: bytes) -> bytes:
        if data.startswith(b"GET /ws/tunnel"):
            handshakes.append(reactor.seconds())
        return data

    relay.to_target.tamper = record_handshake
    relay.blackhole("forward")
    await wait_until(lambda: handshakes, "the bridge to reconnect")
    await assert_served_within(faulty, 3.0)
    await old.wait_closed()
    assert old.complete
    assert sha256(bytes(old.body)) == sha256(full_response(120))


async def assert_served_within(faulty: FaultyCluster, limit: float) -> ResponseReader:
    """Assert that a new request gets a complete response within `limit` seconds."""
    began = reactor.seconds()
    while True:
        reader = await (await faulty.start_chat(3)).wait_closed()
        if reader.status == 200 and reader.complete:
            assert reactor.seconds() - began < limit
            print("served after", round(reactor.seconds() - began, 3))
            return reader
        assert reactor.seconds() - began < limit, (reader.status, bytes(reader.body))
        await deferLater(reactor, 0.05)


@ensureDeferred
async def test_a_restarted_desktop_replaces_its_old_connection(faulty: FaultyCluster) -> None:
    """The desktop was killed without closing its connection; its old responses fail."""
    await faulty.start("--ping-interval-seconds=60", "--ping-timeout-seconds=60")
    relay = await faulty.add_desktop()
    old = await faulty.start_chat(2000, 0.05)
    await old.wait_for_lines(10)
    relay.blackhole("forward")
    await faulty.desktops[0].stop(signal.SIGKILL)
    faulty.desktops[0] = faulty.run_desktop(0)
    await faulty.wait_connected(0)
    await assert_served_within(faulty, 3.0)
    await old.wait_closed(5)
    assert not old.complete
    assert b"restarted" in old.body
    await wait_until(lambda: not faulty.upstream.active, "the upstream to finish")


@ensureDeferred
async def test_a_response_survives_repeated_resets_of_a_slow_network(faulty: FaultyCluster) -> None:
    await faulty.start()
    relay = await faulty.add_desktop()
    relay.delay(80)
    relay.throttle(100_000)
    rng = random.Random(8)
    reader = await faulty.start_chat(250, 0.01, 200)
    while not reader.closed:
        await deferLater(reactor, rng.uniform(0.5, 2.5))
        relay.reset()
    assert reader.complete
    assert sha256(bytes(reader.body)) == sha256(full_response(250, 200))


@ensureDeferred
async def test_a_dead_connection_with_full_buffers_is_aborted(faulty: FaultyCluster) -> None:
    """The cloud drops the data that it could not send after some seconds."""
    await faulty.start()
    relay = await faulty.add_desktop("--ping-interval-seconds=1", "--ping-timeout-seconds=1")
    await (await faulty.start_chat(3)).wait_closed()
    before = count_tcp_connections(faulty.cloud.pid)
    relay.blackhole("forward")
    body = {"model": "numbers", "lines": 3, "filling": "x" * 250_000}
    for _ in range(60):  # more than the kernel's buffers hold
        faulty.readers.append(
            await send_request(faulty.client_relay.port, "POST", "/api/chat", faulty.token, body)
        )
    for reader in faulty.readers:
        await reader.wait_closed()
        assert reader.complete
    assert count_tcp_connections(faulty.cloud.pid) > before
    await wait_until(
        lambda: count_tcp_connections(faulty.cloud.pid) <= before,
        "the dead connection to be closed",
        40,
    )


def count_tcp_connections(pid: int) -> int:
    """Return the number of TCP connections of a process."""
    targets = set(open_files(pid).values())
    tcp = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return sum(f"socket:[{fields[9]}]" in targets for fields in tcp)
