"""The desktop's half of the network fails, in each way that networks have; the answer goes on."""

from __future__ import annotations

import os
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

#: Seconds in which a dead network is found with the default settings, and what a busy machine adds.
FOUND, SLACK = 8.0, 4.0


async def together(*doing: Coroutine[Any, Any, None]) -> None:
    """Wait for all; the first failure is the test's."""
    await DeferredList([Deferred.fromCoroutine(one) for one in doing], fireOnOneErrback=True)


async def direct(faulty: FaultyCluster, lines: int) -> str:
    """The hash of the answer without ctllm."""
    body = {"model": "numbers", "lines": lines}
    reader = await send_request(faulty.upstream.port, "POST", "/api/chat", "none", body)
    await reader.wait_closed()
    assert reader.complete
    return sha256(bytes(reader.body))


@ensureDeferred
async def test_cut_dark_or_moved_the_answer_goes_on(faulty: FaultyCluster) -> None:
    """With the settings as they come: found within seconds, back, and byte-exact to the end."""
    await faulty.start()
    told: dict[str, float] = {}

    async def through(
        name: str, fail: Callable[[NetworkRelay], Awaitable[None]], limit: float
    ) -> None:
        reader = await faulty.start_chat(380, 0.05, ctllm_desktop=str(names.index(name)))
        await reader.wait_for_lines(20)
        wire = faulty.relays[names.index(name)]
        began = reactor.seconds()
        await fail(wire)
        missing = reader.line_count
        began = max(began, reactor.seconds())
        await wait_until(
            lambda: reader.line_count > missing + 20 or reader.closed, f"{name} to go on"
        )
        told[name] = reactor.seconds() - began
        assert told[name] < limit + SLACK
        await reader.wait_closed()
        assert reader.complete
        assert sha256(bytes(reader.body)) == expected, name

    async def cut(wire: NetworkRelay) -> None:
        wire.reset()

    async def moved(wire: NetworkRelay) -> None:
        wire.blackhole("forward")

    async def dark(wire: NetworkRelay) -> None:
        wire.blackhole("blackhole")  # dials go nowhere too, as where the whole network is gone
        await deferLater(reactor, FOUND + 4)
        wire.heal()

    names = ["cut", "moved", "dark"]
    for _ in names:
        await faulty.add_desktop()
    expected = await direct(faulty, 380)
    await together(
        through("cut", cut, 1), through("moved", moved, FOUND + 1), through("dark", dark, 10)
    )
    print({name: round(seconds, 2) for name, seconds in told.items()})
    assert faulty.upstream.request_count == 1 + len(names)  # nothing was asked of Ollama twice
    await wait_until(lambda: not faulty.upstream.active, "Ollama to rest")


@ensureDeferred
async def test_a_slow_network_is_not_a_dead_one(faulty: FaultyCluster) -> None:
    """Pongs wait behind what is queued for longer than pings wait for them; nothing is cut."""
    pings = ("--ping-interval-seconds=1", "--ping-timeout-seconds=2")
    await faulty.start(*pings)
    wire = await faulty.add_desktop(*pings)
    wire.throttle(20_000)
    answers = [await faulty.start_chat(60, 0, 1000) for _ in range(4)]
    body = {"model": "numbers", "lines": 10, "filling": "x" * 200_000}
    upload = await send_request(faulty.client_relay.port, "POST", "/api/chat", faulty.token, body)
    for reader in (*answers, upload):
        await reader.wait_closed()
        assert reader.complete
    assert {sha256(bytes(answer.body)) for answer in answers} == {sha256(full_response(60, 1000))}
    assert bytes(upload.body) == full_response(10)
    assert faulty.desktops[0].output.count("bridge: connected") == 1


@ensureDeferred
async def test_the_newest_connection_replaces_one_that_is_half_open(faulty: FaultyCluster) -> None:
    """At once: the cloud alone would not find out for minutes. What was under way goes on."""
    await faulty.start("--ping-interval-seconds=60", "--ping-timeout-seconds=60")
    wire = await faulty.add_desktop("--ping-interval-seconds=1", "--ping-timeout-seconds=1")
    old = await faulty.start_chat(120, 0.05)
    await old.wait_for_lines(10)
    dialled: list[float] = []

    def watch(data: bytes) -> bytes:
        if data.startswith(b"GET /ws/tunnel"):
            dialled.append(reactor.seconds())
        return data

    wire.to_target.tamper = watch
    wire.blackhole("forward")
    await wait_until(lambda: dialled, "the bridge to dial")
    await served_within(faulty, 3.0)
    await old.wait_closed()
    assert old.complete
    assert sha256(bytes(old.body)) == sha256(full_response(120))


async def served_within(faulty: FaultyCluster, limit: float) -> ResponseReader:
    """A new answer is had, at the latest so many seconds from now."""
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
async def test_a_desktop_that_starts_again_replaces_itself(faulty: FaultyCluster) -> None:
    """Power lost, no word said: the desktop that is back serves at once; its old answers fail."""
    await faulty.start("--ping-interval-seconds=60", "--ping-timeout-seconds=60")
    wire = await faulty.add_desktop()
    old = await faulty.start_chat(2000, 0.05)
    await old.wait_for_lines(10)
    wire.blackhole("forward")
    await faulty.desktops[0].stop(signal.SIGKILL)
    faulty.desktops[0] = faulty.run_desktop(0)
    await faulty.wait_connected(0)
    await served_within(faulty, 3.0)
    await old.wait_closed(5)
    assert not old.complete
    assert b"restarted" in old.body
    await wait_until(lambda: not faulty.upstream.active, "Ollama to rest")


@ensureDeferred
async def test_a_network_of_many_moods(faulty: FaultyCluster) -> None:
    """Far away, slow, and cut at every second moment: the answer is the same."""
    await faulty.start()
    wire = await faulty.add_desktop()
    wire.delay(80)
    wire.throttle(100_000)
    rng = random.Random(8)
    reader = await faulty.start_chat(250, 0.01, 200)
    while not reader.closed:
        await deferLater(reactor, rng.uniform(0.5, 2.5))
        wire.reset()
    assert reader.complete
    assert sha256(bytes(reader.body)) == sha256(full_response(250, 200))


@ensureDeferred
async def test_nothing_is_left_of_a_connection_that_died_full(faulty: FaultyCluster) -> None:
    """What the cloud still had to say to a dead connection is let go after some seconds."""
    await faulty.start()
    wire = await faulty.add_desktop("--ping-interval-seconds=1", "--ping-timeout-seconds=1")
    await (await faulty.start_chat(3)).wait_closed()
    before = sockets(faulty.cloud.pid)
    wire.blackhole("forward")
    body = {"model": "numbers", "lines": 3, "filling": "x" * 250_000}
    for _ in range(60):  # more than the system takes off the cloud's hands
        faulty.readers.append(
            await send_request(faulty.client_relay.port, "POST", "/api/chat", faulty.token, body)
        )
    for reader in faulty.readers:
        await reader.wait_closed()
        assert reader.complete
    assert sockets(faulty.cloud.pid) > before
    await wait_until(lambda: sockets(faulty.cloud.pid) <= before, "the dead one to be let go", 40)


def sockets(pid: int) -> int:
    """How many connections over TCP a process has."""
    kept = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()}
    tcp = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return sum(f"socket:[{fields[9]}]" in kept for fields in tcp)
