"""A killed proxy or cloud, or a failed client connection: resumable responses are resumed."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable

import pytest
from pytest_twisted import ensureDeferred

from tests.e2e.cluster import wait_until
from tests.e2e.faulty_cluster import FaultyCluster
from tests.e2e.fixed_response_upstream import full_response, sha256

LINES = 150


async def kill_proxy(faulty: FaultyCluster) -> None:
    os.kill(faulty.proxy_pid(), signal.SIGKILL)


async def restart_cloud(faulty: FaultyCluster) -> None:
    await faulty.cloud.stop(signal.SIGKILL)
    faulty.cloud = await faulty.cluster.start_cloud(*faulty.cloud_options)


@pytest.mark.parametrize("kill", [kill_proxy, restart_cloud])
@ensureDeferred
async def test_only_resumable_responses_survive_a_killed_process(
    faulty: FaultyCluster, kill: Callable[[FaultyCluster], Awaitable[None]]
) -> None:
    """A plain response is incomplete; a resumed one has every byte, and only for its user."""
    await faulty.start()
    await faulty.add_desktop()
    other = await faulty.cluster.create_token("alice")
    mallory = await faulty.cluster.create_token("mallory")
    plain = await faulty.start_chat(LINES, 0.03)
    resuming = [await faulty.start_chat(LINES, 0.03, ctllm_resume="60") for _ in range(3)]
    for number, reader in enumerate((plain, *resuming)):
        await reader.wait_for_lines(10 + 15 * number)
    await kill(faulty)
    await plain.wait_closed(5)
    assert not plain.complete
    assert b'"done": true' not in plain.body
    for reader, token in zip(resuming, (faulty.token, other, other), strict=True):
        await reader.wait_closed(5)
        assert not reader.complete
        request_id, received = reader.headers["ctllm-request-id"], reader.complete_lines
        rest = await faulty.resume_after_reconnect(request_id, len(received), token)
        assert rest.complete
        assert rest.headers["ctllm-request-id"] == request_id
        assert sha256(received + bytes(rest.body)) == sha256(full_response(LINES))
        stolen = await (await faulty.resume(request_id, 0, mallory)).wait_closed()
        assert stolen.status in (404, 503)
        assert b"000000" not in stolen.body
    assert faulty.upstream.request_count == 4
    await wait_until(lambda: not faulty.upstream.active, "the upstream to stop")


@ensureDeferred
async def test_a_resumable_response_survives_its_clients_connection(faulty: FaultyCluster) -> None:
    """After a reset or a black hole it is resumed on another connection; others are cancelled."""
    await faulty.start()
    await faulty.add_desktop()
    other = await faulty.cluster.create_token("alice")
    for inject_fault in (
        faulty.client_relay.reset,
        lambda: faulty.client_relay.blackhole("forward"),
    ):
        request_count = faulty.upstream.request_count
        plain = await faulty.start_chat(1000, 0.02)
        resuming = await faulty.start_chat(LINES, 0.02, ctllm_resume="60")
        await plain.wait_for_lines(5)
        await resuming.wait_for_lines(40)
        assert len(faulty.upstream.active) == 2
        inject_fault()
        request_id, received = resuming.headers["ctllm-request-id"], resuming.complete_lines
        rest = await (await faulty.resume(request_id, len(received), other)).wait_closed()
        assert (rest.status, rest.complete) == (200, True)
        assert sha256(received + bytes(rest.body)) == sha256(full_response(LINES))
        assert faulty.upstream.request_count == request_count + 2
        plain.disconnect()
        faulty.client_relay.reset()  # only the end of the connection is a disconnect
        await wait_until(lambda: not faulty.upstream.active, "the upstream to stop")
