"""Bytes change on the way, where no TLS would notice: an error and another try, never a hang."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater

from tests.e2e.faulty_cluster import FaultyCluster, ResponseReader, send_request
from tests.e2e.fixed_response_upstream import full_response
from tests.e2e.network_relay import LinkState

LINES = 50
Noise = Callable[[bytearray, random.Random], bytes]


def one_bit(data: bytearray, rng: random.Random) -> bytes:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def one_bit_of_a_head(data: bytearray, rng: random.Random) -> bytes:
    """Of the WebSocket's frame, or of the tunnel's first one in it."""
    data[rng.randrange(min(len(data), 35))] ^= 1 << rng.randrange(8)
    return bytes(data)


def garbage(data: bytearray, rng: random.Random) -> bytes:
    return rng.randbytes(len(data))


def lost(data: bytearray, rng: random.Random) -> bytes:
    return b""


def doubled(data: bytearray, rng: random.Random) -> bytes:
    return bytes(data + data)


NOISES: tuple[Noise, ...] = (one_bit, one_bit_of_a_head, garbage, lost, doubled)


def once(way: LinkState, noise: Noise, rng: random.Random) -> None:
    """Let the noise hit the next piece that passes, and no other."""

    def tamper(data: bytes) -> bytes:
        way.tamper = None
        return noise(bytearray(data), rng)

    way.tamper = tamper


class Listening:
    """One desktop, what is done to its network, and what its clients hear."""

    def __init__(self, faulty: FaultyCluster, number: int) -> None:
        self.faulty, self.number = faulty, number
        self.rng = random.Random(number)
        self.outcomes: Counter[str] = Counter()

    async def run(self) -> None:
        wire = self.faulty.relays[self.number]
        way = wire.to_target if self.number % 2 else wire.to_client
        for noise in NOISES:
            readers = [await self.served() for _ in range(2)]
            await deferLater(reactor, self.rng.uniform(0, 0.4))
            once(way, noise, self.rng)
            for reader in readers:
                self.judge(await reader.wait_closed(30), noise)

    async def served(self) -> ResponseReader:
        """An answer that begins: the desktop is back within seconds, whatever it heard."""
        began = reactor.seconds()
        while True:
            reader = await self.faulty.start_chat(LINES, 0.02, ctllm_desktop=str(self.number))
            while not (reader.line_count or reader.closed):
                await deferLater(reactor, 0.02)
            if reader.status == 200 and reader.line_count:
                return reader
            assert reactor.seconds() - began < 20, (reader.status, bytes(reader.body))
            await deferLater(reactor, 0.1)

    def judge(self, reader: ResponseReader, noise: Noise) -> None:
        """A clean end is of the whole answer; of its content only one bit may be another."""
        expected, body = full_response(LINES), bytes(reader.body)
        if not reader.complete:
            self.outcomes["broken"] += 1
            return
        assert len(body) == len(expected)
        wrong = sum(a != b for a, b in zip(body, expected, strict=True))
        assert wrong <= (1 if noise in (one_bit, one_bit_of_a_head) else 0)
        self.outcomes["changed" if wrong else "exact"] += 1


@ensureDeferred
async def test_noise_on_the_desktops_half(faulty: FaultyCluster) -> None:
    """Each answer is exact or broken, and the next one is served; nothing crashes."""
    await faulty.start()
    for _ in range(4):
        await faulty.add_desktop()
    pid = faulty.proxy_pid()
    listening = [Listening(faulty, number) for number in range(4)]
    runs = [Deferred.fromCoroutine(one.run()) for one in listening]
    await DeferredList(runs, fireOnOneErrback=True, consumeErrors=True)
    print(sum((one.outcomes for one in listening), Counter()))
    assert faulty.proxy_pid() == pid
    assert [program.exit_code for program in (faulty.cloud, *faulty.desktops)] == [None] * 5
    assert "Traceback" not in "".join(p.output for p in (faulty.cloud, *faulty.desktops))


@ensureDeferred
async def test_noise_on_the_clients_half(faulty: FaultyCluster) -> None:
    """Whatever a request has become, the cloud answers something or waits, and serves others."""
    await faulty.start()
    await faulty.add_desktop()
    pid, rng = faulty.proxy_pid(), random.Random(4)
    for number in range(60):
        once(faulty.client_relay.to_target, NOISES[number % len(NOISES)], rng)
        body = {"model": "numbers", "lines": 3}
        reader = await send_request(
            faulty.client_relay.port, "POST", "/api/chat", faulty.token, body
        )
        faulty.readers.append(reader)
        untouched = await (await faulty.start_direct_chat(LINES, 0)).wait_closed(10)
        assert (untouched.complete, bytes(untouched.body)) == (True, full_response(LINES))
    faulty.disconnect_clients()
    assert faulty.proxy_pid() == pid
    assert "Traceback" not in faulty.cloud.output + faulty.desktops[0].output
