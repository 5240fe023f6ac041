"""Two hundred resets at random, of clients and bridges: every byte arrives once."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from tests.e2e.cluster import wait_until
from tests.e2e.faulty_cluster import FaultyCluster, ResponseReader
from tests.e2e.fixed_response_upstream import full_response, sha256
from tests.e2e.network_relay import NetworkRelay

RESETS, DESKTOPS, STREAMS = 200, 6, 4
#: Lines of a response, and seconds between two; a run takes their product.
LINES, INTERVAL = 1000, 0.025


class ResumingClient:
    """A client that resumes its response, from the last complete line, after each reset."""

    def __init__(self, faulty: FaultyCluster, number: int) -> None:
        self.faulty, self.desktop = faulty, str(number)
        self.body = b""
        self.resumptions = 0

    async def run(self) -> None:
        headers: Any = {"ctllm_resume": "60", "ctllm_desktop": self.desktop}
        reader = await self.faulty.start_chat(LINES, INTERVAL, **headers)
        await wait_until(lambda: reader.status or reader.closed, "a status")
        request_id = reader.headers["ctllm-request-id"]
        while not (await reader.wait_closed()).complete or reader.status == 503:
            assert reader.status in (0, 200, 503), bytes(reader.body)
            if reader.status == 200:
                self.body += reader.complete_lines
            await deferLater(reactor, 0.1)
            self.resumptions += 1
            reader = await self.faulty.resume(request_id, len(self.body))
        self.body += bytes(reader.body)


async def reset_at_random(
    rng: random.Random, relays: list[NetworkRelay], is_running: Callable[[], bool]
) -> int:
    """Reset a random relay at random times while responses run; return the number of resets."""
    count = 0
    while count < RESETS and is_running():
        await deferLater(reactor, rng.uniform(0.02, 0.2))
        connected = [relay for relay in relays if relay.connections]
        if connected:
            rng.choice(connected).reset()
            count += 1
    return count


@ensureDeferred
async def test_responses_survive_two_hundred_resets(faulty: FaultyCluster) -> None:
    """Each response is complete and unchanged; Ollama receives each request once."""
    await faulty.start()
    for _ in range(DESKTOPS):
        await faulty.add_desktop()
    plain: list[ResponseReader] = []
    for number in range(DESKTOPS):
        for _ in range(STREAMS):
            headers: Any = {"ctllm_desktop": str(number)}
            plain.append(await faulty.start_direct_chat(LINES, INTERVAL, **headers))
    resuming = [ResumingClient(faulty, number) for number in range(DESKTOPS)]
    runs = [Deferred.fromCoroutine(client.run()) for client in resuming]
    for reader in plain:
        await reader.wait_for_lines(1)
    relays = [*faulty.relays, faulty.client_relay]
    resets = await reset_at_random(
        random.Random(200), relays, lambda: not all(r.closed for r in plain)
    )
    assert resets == RESETS, "The responses ended before the last reset."
    for run in runs:
        await run
    expected = sha256(full_response(LINES))
    for reader in plain:
        await reader.wait_closed()
        assert reader.complete, bytes(reader.body[-200:])
        assert sha256(bytes(reader.body)) == expected
    assert {sha256(client.body) for client in resuming} == {expected}
    assert faulty.upstream.request_count == len(plain) + len(resuming)
    print("resumptions", [client.resumptions for client in resuming])
    print("connections", [program.output.count("connected") for program in faulty.desktops])
