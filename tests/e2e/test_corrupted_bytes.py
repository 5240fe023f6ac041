"""Corrupted connections without TLS: responses are unchanged or end with an error; none hangs."""

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
Corruption = Callable[[bytearray, random.Random], bytes]


def flip_bit(data: bytearray, rng: random.Random) -> bytes:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def flip_bit_of_header(data: bytearray, rng: random.Random) -> bytes:
    """Flip a bit in the header of a WebSocket frame or of the first tunnel frame in it."""
    data[rng.randrange(min(len(data), 35))] ^= 1 << rng.randrange(8)
    return bytes(data)


def randomize(data: bytearray, rng: random.Random) -> bytes:
    return rng.randbytes(len(data))


def drop(data: bytearray, rng: random.Random) -> bytes:
    return b""


def duplicate(data: bytearray, rng: random.Random) -> bytes:
    return bytes(data + data)


CORRUPTIONS: tuple[Corruption, ...] = (flip_bit, flip_bit_of_header, randomize, drop, duplicate)


def corrupt_once(link: LinkState, corruption: Corruption, rng: random.Random) -> None:
    """Corrupt the next chunk that is received, and no other."""

    def tamper(data: bytes) -> bytes:
        link.tamper = None
        return corruption(bytearray(data), rng)

    link.tamper = tamper


class CorruptedDesktop:
    """A desktop behind a relay that corrupts data, and the outcomes of its responses."""

    def __init__(self, faulty: FaultyCluster, number: int) -> None:
        self.faulty, self.number = faulty, number
        self.rng = random.Random(number)
        self.outcomes: Counter[str] = Counter()

    async def run(self) -> None:
        relay = self.faulty.relays[self.number]
        link = relay.to_target if self.number % 2 else relay.to_client
        for corruption in CORRUPTIONS:
            readers = [await self.start_chat() for _ in range(2)]
            await deferLater(reactor, self.rng.uniform(0, 0.4))
            corrupt_once(link, corruption, self.rng)
            for reader in readers:
                self.check(await reader.wait_closed(30), corruption)

    async def start_chat(self) -> ResponseReader:
        """Return a response that has begun; within seconds, as the desktop reconnects."""
        began = reactor.seconds()
        while True:
            reader = await self.faulty.start_chat(LINES, 0.02, ctllm_desktop=str(self.number))
            while not (reader.line_count or reader.closed):
                await deferLater(reactor, 0.02)
            if reader.status == 200 and reader.line_count:
                return reader
            assert reactor.seconds() - began < 20, (reader.status, bytes(reader.body))
            await deferLater(reactor, 0.1)

    def check(self, reader: ResponseReader, corruption: Corruption) -> None:
        """Assert that a cleanly ended response has every byte, and at most one bit flipped."""
        expected, body = full_response(LINES), bytes(reader.body)
        if not reader.complete:
            self.outcomes["incomplete"] += 1
            return
        assert len(body) == len(expected)
        wrong = sum(a != b for a, b in zip(body, expected, strict=True))
        assert wrong <= (1 if corruption in (flip_bit, flip_bit_of_header) else 0)
        self.outcomes["changed" if wrong else "exact"] += 1


@ensureDeferred
async def test_corrupted_tunnels_break_only_responses_in_progress(faulty: FaultyCluster) -> None:
    """Each response is unchanged or incomplete, the next one is served, and no process crashes."""
    await faulty.start()
    for _ in range(4):
        await faulty.add_desktop()
    pid = faulty.proxy_pid()
    desktops = [CorruptedDesktop(faulty, number) for number in range(4)]
    runs = [Deferred.fromCoroutine(desktop.run()) for desktop in desktops]
    await DeferredList(runs, fireOnOneErrback=True, consumeErrors=True)
    print(sum((desktop.outcomes for desktop in desktops), Counter()))
    assert faulty.proxy_pid() == pid
    assert [process.exit_code for process in (faulty.cloud, *faulty.desktops)] == [None] * 5
    assert "Traceback" not in "".join(
        process.output for process in (faulty.cloud, *faulty.desktops)
    )


@ensureDeferred
async def test_corrupted_requests_do_not_affect_other_clients(faulty: FaultyCluster) -> None:
    """The cloud responds to a corrupted request or waits for its rest."""
    await faulty.start()
    await faulty.add_desktop()
    pid, rng = faulty.proxy_pid(), random.Random(4)
    for number in range(60):
        corrupt_once(faulty.client_relay.to_target, CORRUPTIONS[number % len(CORRUPTIONS)], rng)
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
