"""What answers are made of dies: a proxy, the cloud, or the client's own half of the network."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable

import pytest
from pytest_twisted import ensureDeferred

from tests.e2e.cluster import wait_until
from tests.e2e.faulty_cluster import FaultyCluster, ResponseReader
from tests.e2e.fixed_response_upstream import full_response, sha256

LINES = 150


async def proxy_dies(faulty: FaultyCluster) -> None:
    os.kill(faulty.proxy_pid(), signal.SIGKILL)


async def cloud_dies(faulty: FaultyCluster) -> None:
    await faulty.cloud.stop(signal.SIGKILL)
    faulty.cloud = await faulty.cluster.start_cloud(*faulty.cloud_options)


async def taken_up(faulty: FaultyCluster, exchange: str, offset: int, token: str) -> ResponseReader:
    """The rest of an answer, as soon as the desktop that holds it is back."""

    async def again() -> ResponseReader | None:
        try:
            reader = await faulty.resume(exchange, offset, token)
        except OSError:
            return None  # the cloud is not back yet
        await wait_until(lambda: reader.status or reader.closed, "a status")
        return reader if reader.status == 200 else None

    found: ResponseReader = await wait_until(again, "the answer to be taken up")
    return await found.wait_closed()


@pytest.mark.parametrize("dies", [proxy_dies, cloud_dies])
@ensureDeferred
async def test_killed_in_mid_answer(
    faulty: FaultyCluster, dies: Callable[[FaultyCluster], Awaitable[None]]
) -> None:
    """Plain clients hear no false end; who asked to resume gets every byte, and nobody else."""
    await faulty.start()
    await faulty.add_desktop()
    other = await faulty.cluster.create_token("alice")
    mallory = await faulty.cluster.create_token("mallory")
    plain = await faulty.start_chat(LINES, 0.03)
    patient = [await faulty.start_chat(LINES, 0.03, ctllm_resume="60") for _ in range(3)]
    for number, reader in enumerate((plain, *patient)):
        await reader.wait_for_lines(10 + 15 * number)
    await dies(faulty)
    await plain.wait_closed(5)
    assert not plain.complete
    assert b'"done": true' not in plain.body
    for reader, token in zip(patient, (faulty.token, other, other), strict=True):
        await reader.wait_closed(5)
        assert not reader.complete
        exchange, kept = reader.headers["ctllm-request-id"], reader.complete_lines
        rest = await taken_up(faulty, exchange, len(kept), token)
        assert rest.complete
        assert rest.headers["ctllm-request-id"] == exchange
        assert sha256(kept + bytes(rest.body)) == sha256(full_response(LINES))
        thief = await (await faulty.resume(exchange, 0, mallory)).wait_closed()
        assert thief.status in (404, 503)
        assert b"000000" not in thief.body
    assert faulty.upstream.request_count == 4
    await wait_until(lambda: not faulty.upstream.active, "Ollama to end what nobody hears")


@ensureDeferred
async def test_the_clients_own_network(faulty: FaultyCluster) -> None:
    """Cut or dark: who asked to resume goes on over another connection, others have left."""
    await faulty.start()
    await faulty.add_desktop()
    other = await faulty.cluster.create_token("alice")
    for fail in (faulty.client_relay.reset, lambda: faulty.client_relay.blackhole("forward")):
        asked = faulty.upstream.request_count
        plain = await faulty.start_chat(1000, 0.02)
        patient = await faulty.start_chat(LINES, 0.02, ctllm_resume="60")
        await plain.wait_for_lines(5)
        await patient.wait_for_lines(40)
        assert len(faulty.upstream.active) == 2
        fail()
        exchange, kept = patient.headers["ctllm-request-id"], patient.complete_lines
        rest = await (await faulty.resume(exchange, len(kept), other)).wait_closed()
        assert (rest.status, rest.complete) == (200, True)
        assert sha256(kept + bytes(rest.body)) == sha256(full_response(LINES))
        assert faulty.upstream.request_count == asked + 2
        plain.disconnect()
        faulty.client_relay.reset()  # a dark network ends in the end, and only then somebody has left
        await wait_until(lambda: not faulty.upstream.active, "Ollama to be told")
