"""Whatever dies in mid-answer, every official client raises: nothing looks like a whole answer."""

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

DEATHS: dict[str, Callable[[ClientStreams], None]] = {
    "Ollama": lambda broken: broken.ollama.send_signal(signal.SIGKILL),
    "desktop": lambda broken: broken.faulty.desktops[0].send_signal(signal.SIGKILL),
    "proxy": lambda broken: os.kill(broken.faulty.proxy_pid(), signal.SIGKILL),
    "tunnel": lambda broken: broken.relay.blackhole(),
}


@pytest.fixture(scope="module")
def drivers() -> Iterator[list[Driver]]:
    """All light clients at work."""
    with ExitStack() as stack:
        yield [stack.enter_context(closing(Driver(client))) for client in LIGHT]


@linux_only
@pytest.mark.parametrize("what", DEATHS)
@ensureDeferred
async def test_every_client_raises(faulty: FaultyCluster, drivers: list[Driver], what: str) -> None:
    """In each call that it has, streamed or not; what it had got of a stream it keeps."""
    broken = await ClientStreams(faulty).start(drivers)
    DEATHS[what](broken)
    await broken.assert_errors_received()
    for driver, outcomes in zip(drivers, await broken.outcomes, strict=True):
        for outcome in outcomes:
            told = (driver.client.title, outcome)
            assert "error" in outcome, told
            said = f"{outcome['pieces'][-1:]} {outcome['error']}"  # OpenAI's responses: in an event
            assert "No complete response" in said or "did not reconnect" in said, told
            if outcome["call"].endswith(" streamed"):
                assert outcome["pieces"], told
                assert not is_complete(outcome["pieces"]), told
            else:
                assert outcome["error"]["status"] in (502, 503, 504), told
