"""Recovery from a restart of the Docker Engine, with and without live-restore."""

from __future__ import annotations

import json

from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread

from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.containers import ContainerInspector
from tests.e2e.lifecycle_cases import (
    CHAT,
    assert_broken,
    audit_records,
    is_reachable,
    start_stream,
    start_with_desktop,
)


async def wait_for_more_lines(cluster: Cluster) -> None:
    """Wait until the active response has more lines."""
    seen = max(record.lines_sent for record in cluster.ollama.requests)
    await cluster.ollama.wait_for(lambda record: record.lines_sent > seen + 20)


@ensureDeferred
async def test_live_restore_keeps_responses_during_an_engine_restart(
    engine: ContainerInspector, cluster: Cluster
) -> None:
    """After the restart, the exit of a container is noticed as before."""
    docker = engine.docker
    await deferToThread(docker.stop)
    await deferToThread(docker.start, "--live-restore")
    try:
        await start_with_desktop(cluster, *engine.options, "--reconcile-interval-seconds=600")
        (first,) = engine.containers()
        response = await start_stream(cluster, cluster.alice_token)
        await deferToThread(docker.stop)
        await wait_for_more_lines(cluster)
        await deferToThread(docker.start, "--live-restore")
        assert engine.containers() == [first] and not response.called
        await wait_for_more_lines(cluster)
        await deferToThread(docker.docker, "kill", first)
        await assert_broken(response)
        await wait_until(
            lambda: is_reachable(cluster, cluster.alice_token), "the desktop to return", 20
        )
        (death,) = [record for record in audit_records(cluster) if record["event"] == "proxy.died"]
        assert "its container" in death["detail"]
    finally:
        # Containers that still run stop with the next engine, which adopts them.
        await deferToThread(docker.stop)
        await deferToThread(docker.start)


@ensureDeferred
async def test_without_live_restore_containers_start_again_after_an_engine_restart(
    engine: ContainerInspector, cluster: Cluster
) -> None:
    """The containers stop with the engine; desktops reconnect when they run again."""
    await start_with_desktop(cluster, *engine.options, "--reconcile-interval-seconds=600")
    (first,) = engine.containers()
    response = await start_stream(cluster, cluster.alice_token)
    await deferToThread(engine.docker.stop)
    await assert_broken(response)
    await deferToThread(engine.docker.start)
    await wait_until(
        lambda: is_reachable(cluster, cluster.alice_token), "the desktop to return", 20
    )
    assert engine.containers() == [first]
    cluster.ollama.reset()
    status, _, body = await cluster.request("POST", "/api/chat", CHAT, cluster.alice_token)
    assert status == 200 and json.loads(body.splitlines()[-1])["done"] is True
