"""Two hundred cuts at random, in every half of the network; every byte arrives, and once."""

from __future__ import annotations

import random
from typing import Any

from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from tests.e2e.cluster import wait_until
from tests.e2e.faulty_cluster import FaultyCluster, ResponseReader
from tests.e2e.fixed_response_upstream import full_response, sha256
from tests.e2e.network_relay import NetworkRelay

CUTS, DESKTOPS, STREAMS = 200, 6, 4
#: Lines of an answer, and seconds between two. What is cut goes on, so a run takes this long.
LINES, INTERVAL = 1000, 0.025


class Returning:
    """A client that takes its answer up again, from where it was, as often as it is cut off."""

    def __init__(self, faulty: FaultyCluster, number: int) -> None:
        self.faulty, self.desktop = faulty, str(number)
        self.body = b""
        self.returns = 0

    async def run(self) -> None:
        headers: Any = {"ctllm_resume": "60", "ctllm_desktop": self.desktop}
        reader = await self.faulty.start_chat(LINES, INTERVAL, **headers)
        await wait_until(lambda: reader.status or reader.closed, "a status")
        exchange = reader.headers["ctllm-request-id"]
        while not (await reader.wait_closed()).complete or reader.status == 503:
            assert reader.status in (0, 200, 503), bytes(reader.body)
            if reader.status == 200:
                self.body += reader.complete_lines
            await deferLater(reactor, 0.1)
            self.returns += 1
            reader = await self.faulty.resume(exchange, len(self.body))
        self.body += bytes(reader.body)


async def cut_at_random(rng: random.Random, wires: list[NetworkRelay], going: Any) -> int:
    """Cut something that is connected, at any moment, for as long as there is an answer to hurt."""
    done = 0
    while done < CUTS and going():
        await deferLater(reactor, rng.uniform(0.02, 0.2))
        alive = [wire for wire in wires if wire.connections]
        if alive:
            rng.choice(alive).reset()
            done += 1
    return done


@ensureDeferred
async def test_two_hundred_cuts(faulty: FaultyCluster) -> None:
    """None of the answers loses a byte, has one twice, or ends early; Ollama is asked once each."""
    await faulty.start()
    for _ in range(DESKTOPS):
        await faulty.add_desktop()
    plain: list[ResponseReader] = []
    for number in range(DESKTOPS):
        for _ in range(STREAMS):
            headers: Any = {"ctllm_desktop": str(number)}
            plain.append(await faulty.start_direct_chat(LINES, INTERVAL, **headers))
    returning = [Returning(faulty, number) for number in range(DESKTOPS)]
    runs = [Deferred.fromCoroutine(client.run()) for client in returning]
    for reader in plain:
        await reader.wait_for_lines(1)
    wires = [*faulty.relays, faulty.client_relay]
    cuts = await cut_at_random(random.Random(200), wires, lambda: not all(r.closed for r in plain))
    assert cuts == CUTS, "the answers were over before the cuts were"
    for run in runs:
        await run
    expected = sha256(full_response(LINES))
    for reader in plain:
        await reader.wait_closed()
        assert reader.complete, bytes(reader.body[-200:])
        assert sha256(bytes(reader.body)) == expected
    assert {sha256(client.body) for client in returning} == {expected}
    assert faulty.upstream.request_count == len(plain) + len(returning)
    print("returned", [client.returns for client in returning])
    print("dialled", [program.output.count("connected") for program in faulty.desktops])
