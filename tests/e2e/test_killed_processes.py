"""What answers are made of dies: a proxy, the cloud, or the client's own half of the network."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable

import pytest
from pytest_twisted import ensureDeferred

from tests.e2e.cluster import until
from tests.e2e.faulty_cluster import Place, Reader
from tests.e2e.fixed_response_upstream import sha256, whole

LINES = 150


async def proxy_dies(place: Place) -> None:
    os.kill(place.proxy_pid(), signal.SIGKILL)


async def cloud_dies(place: Place) -> None:
    await place.cloud.stop(signal.SIGKILL)
    place.cloud = await place.world.cloud(*place.cloud_options)


async def taken_up(place: Place, exchange: str, offset: int, token: str) -> Reader:
    """The rest of an answer, as soon as the desktop that holds it is back."""

    async def again() -> Reader | None:
        try:
            reader = await place.take_up(exchange, offset, token)
        except OSError:
            return None  # the cloud is not back yet
        await until(lambda: reader.status or reader.over, "a status")
        return reader if reader.status == 200 else None

    found: Reader = await until(again, "the answer to be taken up")
    return await found.end()


@pytest.mark.parametrize("dies", [proxy_dies, cloud_dies])
@ensureDeferred
async def test_killed_in_mid_answer(place: Place, dies: Callable[[Place], Awaitable[None]]) -> None:
    """Plain clients hear no false end; who asked to resume gets every byte, and nobody else."""
    await place.start()
    await place.desktop()
    other = await place.world.token("alice")
    mallory = await place.world.token("mallory")
    plain = await place.chat(LINES, 0.03)
    patient = [await place.chat(LINES, 0.03, ctllm_resume="60") for _ in range(3)]
    for number, reader in enumerate((plain, *patient)):
        await reader.until_lines(10 + 15 * number)
    await dies(place)
    await plain.end(5)
    assert not plain.whole
    assert b'"done": true' not in plain.body
    for reader, token in zip(patient, (place.token, other, other), strict=True):
        await reader.end(5)
        assert not reader.whole
        exchange, kept = reader.headers["ctllm-exchange"], reader.kept
        rest = await taken_up(place, exchange, len(kept), token)
        assert rest.whole
        assert rest.headers["ctllm-exchange"] == exchange
        assert sha256(kept + bytes(rest.body)) == sha256(whole(LINES))
        thief = await (await place.take_up(exchange, 0, mallory)).end()
        assert thief.status in (404, 503)
        assert b"000000" not in thief.body
    assert place.numbers.asked == 4
    await until(lambda: not place.numbers.under_way, "Ollama to end what nobody hears")


@ensureDeferred
async def test_the_clients_own_network(place: Place) -> None:
    """Cut or dark: who asked to resume goes on over another connection, others have left."""
    await place.start()
    await place.desktop()
    other = await place.world.token("alice")
    for fail in (place.front.cut, lambda: place.front.blackhole("pass")):
        asked = place.numbers.asked
        plain = await place.chat(1000, 0.02)
        patient = await place.chat(LINES, 0.02, ctllm_resume="60")
        await plain.until_lines(5)
        await patient.until_lines(40)
        assert len(place.numbers.under_way) == 2
        fail()
        exchange, kept = patient.headers["ctllm-exchange"], patient.kept
        rest = await (await place.take_up(exchange, len(kept), other)).end()
        assert (rest.status, rest.whole) == (200, True)
        assert sha256(kept + bytes(rest.body)) == sha256(whole(LINES))
        assert place.numbers.asked == asked + 2
        plain.leave()
        place.front.cut()  # a dark network ends in the end, and only then somebody has left
        await until(lambda: not place.numbers.under_way, "Ollama to be told")
