"""Responses that are interrupted: every official client raises an error."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest
from pytest_twisted import ensureDeferred

from tests.compatibility.clients import LIGHT
from tests.compatibility.driver import Driver
from tests.compatibility.stream_ends import is_complete
from tests.e2e.client_streams import ClientStreams
from tests.e2e.faulty_cluster import FaultyCluster
from tests.e2e.process_info import linux_only

INTERRUPTIONS: dict[str, Callable[[ClientStreams], None]] = {
    "Ollama": lambda streams: streams.ollama.send_signal(signal.SIGKILL),
    "desktop": lambda streams: streams.faulty.desktops[0].send_signal(signal.SIGKILL),
    "proxy": lambda streams: os.kill(streams.faulty.proxy_pid(), signal.SIGKILL),
    "tunnel": lambda streams: streams.relay.blackhole(),
}


@pytest.fixture(scope="module")
def drivers() -> Iterator[list[Driver]]:
    """A driver of each light client."""
    with ExitStack() as stack:
        yield [stack.enter_context(closing(Driver(client))) for client in LIGHT]


@linux_only
@pytest.mark.parametrize("interruption", INTERRUPTIONS)
@ensureDeferred
async def test_every_client_raises_on_an_interrupted_response(
    faulty: FaultyCluster, drivers: list[Driver], interruption: str
) -> None:
    """In each of its calls, streamed or not; the received part of a stream is kept."""
    streams = await ClientStreams(faulty).start(drivers)
    INTERRUPTIONS[interruption](streams)
    await streams.assert_errors_received()
    for driver, outcomes in zip(drivers, await streams.outcomes, strict=True):
        for outcome in outcomes:
            details = (driver.client.title, outcome)
            assert "error" in outcome, details
            text = f"{outcome['pieces'][-1:]} {outcome['error']}"  # OpenAI's responses: in an event
            assert "No complete response" in text or "did not reconnect" in text, details
            if outcome["call"].endswith(" streamed"):
                assert outcome["pieces"], details
                assert not is_complete(outcome["pieces"]), details
            else:
                assert outcome["error"]["status"] in (502, 503, 504), details
