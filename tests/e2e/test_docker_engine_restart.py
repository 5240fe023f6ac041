"""An engine that is restarted, with and without live-restore: everything heals by itself."""

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


async def goes_on(cluster: Cluster) -> None:
    """Wait for more lines of the answer that is under way."""
    seen = max(record.lines_sent for record in cluster.ollama.requests)
    await cluster.ollama.wait_for(lambda record: record.lines_sent > seen + 20)


@ensureDeferred
async def test_with_live_restore(engine: ContainerInspector, cluster: Cluster) -> None:
    """Nothing that runs is cut, while it is away or after; later deaths are heard of again."""
    docker = engine.docker
    await deferToThread(docker.stop)
    await deferToThread(docker.start, "--live-restore")
    try:
        await start_with_desktop(cluster, *engine.options, "--reconcile-interval-seconds=600")
        (first,) = engine.containers()
        answer = await start_stream(cluster, cluster.alice_token)
        await deferToThread(docker.stop)
        await goes_on(cluster)
        await deferToThread(docker.start, "--live-restore")
        assert engine.containers() == [first] and not answer.called
        await goes_on(cluster)
        await deferToThread(docker.docker, "kill", first)
        await assert_broken(answer)
        await wait_until(
            lambda: is_reachable(cluster, cluster.alice_token), "the desktop to return", 20
        )
        (death,) = [line for line in audit_records(cluster) if line["event"] == "proxy.died"]
        assert "its container" in death["detail"]
    finally:
        # Whatever runs still ends with the next one, which knows it.
        await deferToThread(docker.stop)
        await deferToThread(docker.start)


@ensureDeferred
async def test_without_it(engine: ContainerInspector, cluster: Cluster) -> None:
    """The containers end with the engine; once it is back, so is everybody, on new ones."""
    await start_with_desktop(cluster, *engine.options, "--reconcile-interval-seconds=600")
    (first,) = engine.containers()
    answer = await start_stream(cluster, cluster.alice_token)
    await deferToThread(engine.docker.stop)
    await assert_broken(answer)
    await deferToThread(engine.docker.start)
    await wait_until(
        lambda: is_reachable(cluster, cluster.alice_token), "the desktop to return", 20
    )
    assert engine.containers() != [first]
    cluster.ollama.reset()
    status, _, body = await cluster.request("POST", "/api/chat", CHAT, cluster.alice_token)
    assert status == 200 and json.loads(body.splitlines()[-1])["done"] is True
