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
from tests.e2e.cluster import FRONT
from tests.e2e.faulty_cluster import FaultyCluster
from tests.e2e.process_info import linux_only

INTERRUPTIONS: dict[str, Callable[[ClientStreams], None]] = {
    "Ollama": lambda streams: streams.ollama.send_signal(signal.SIGKILL),
    "desktop": lambda streams: streams.faulty.desktops[0].send_signal(signal.SIGKILL),
    "proxy": lambda streams: os.kill(streams.faulty.proxy_pid(), signal.SIGKILL),
    "tunnel": lambda streams: streams.relay.blackhole(),
}
#: What clients are told. A request is sent again if a persistent connection ends before the
#: response has begun, by a desktop to Ollama and by the gateway to a proxy. Then there is neither.
REASONS = (
    "No complete response",
    "did not reconnect",
    "Cannot connect to Ollama",
    "Cannot connect to your streaming proxy",
)
#: nginx responds to a request whose streaming proxy has ended, but cannot add to a response: it
#: cuts that off.
NGINX_REASONS = ("Your streaming proxy has ended",)


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
    is_cut_by_nginx = FRONT == "nginx" and interruption == "proxy"
    await streams.assert_errors_received(are_told_why=not is_cut_by_nginx)
    for driver, outcomes in zip(drivers, await streams.outcomes, strict=True):
        for outcome in outcomes:
            details = (driver.client.title, outcome)
            assert "error" in outcome, details
            text = f"{outcome['pieces'][-1:]} {outcome['error']}"  # OpenAI's responses: in an event
            is_streamed = outcome["call"].endswith(" streamed")
            reasons = NGINX_REASONS if is_cut_by_nginx else REASONS
            is_told_why = any(reason in text for reason in reasons)
            assert is_told_why or (is_cut_by_nginx and is_streamed), details
            if is_streamed:
                assert outcome["pieces"], details
                assert not is_complete(outcome["pieces"]), details
            else:
                assert outcome["error"]["status"] in (502, 503, 504), details
