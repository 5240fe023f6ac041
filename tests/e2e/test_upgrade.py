"""A new image of the streaming proxy while users stream, and the way back to the old one."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred

from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.containers import ContainerInspector
from tests.e2e.dockerd import IMAGE
from tests.e2e.lifecycle_cases import (
    CHAT,
    audit_records,
    is_reachable,
    start_proxy,
    start_with_desktop,
)
from tests.fake_ollama import Script

#: The tag that the cloud uses, and the image of the next version.
CURRENT, NEXT = "ctllm-upgrade:current", "ctllm-upgrade:next"
#: Fast enough for the test. A replaced proxy was not requested for five seconds.
OPTIONS = (
    f"--docker-image={CURRENT}", "--proxy-health-interval-seconds=5",
    "--reconcile-interval-seconds=1",
)  # fmt: skip


@pytest.fixture
def images(engine: ContainerInspector) -> Iterator[dict[str, str]]:
    """Two images that differ in a label; `CURRENT` is the old one. Return their ids."""
    dockerfile = f"FROM {IMAGE}\nLABEL version=next\n".encode()
    engine.docker.docker("build", "-q", "-t", NEXT, "-", data=dockerfile)
    engine.run("tag", IMAGE, CURRENT)
    yield {name: engine.inspect(name)["Id"] for name in (CURRENT, NEXT)}
    engine.run("rmi", "-f", CURRENT, NEXT)


@ensureDeferred
async def test_new_proxies_take_a_new_image_and_old_ones_end_when_idle(
    engine: ContainerInspector, images: dict[str, str], cluster: Cluster
) -> None:
    """No response is cut, and no request refused meanwhile. A rollback is the same, backwards."""
    await start_with_desktop(cluster, *engine.options, *OPTIONS)
    alice = cluster.alice_token
    (old,) = engine.containers()
    cluster.ollama.script("/api/chat", Script(lines=300, line_interval=0.05))
    response = Deferred.fromCoroutine(cluster.request("POST", "/api/chat", CHAT, alice))
    await cluster.ollama.wait_for(lambda record: record.lines_sent > 3)

    engine.run("tag", NEXT, CURRENT)
    assert (await start_proxy(cluster, await cluster.create_token("bob")))[0] == 200
    (bobs,) = (each for each in engine.containers() if each != old)
    assert engine.inspect(bobs)["Image"] == images[NEXT]
    status, _, body = await response
    lines = body.splitlines()
    assert (status, len(lines), json.loads(lines[-1])["done"]) == (200, 301, True)
    assert old in engine.containers(), "It was replaced during a response."

    cluster.ollama.script("/api/chat", Script(lines=3))
    await wait_until(lambda: old not in engine.containers(), "the old proxy to end", 60)
    status, _, body = await cluster.request("POST", "/api/chat", CHAT, alice)
    assert status == 200 and json.loads(body.splitlines()[-1])["done"]
    (new,) = (each for each in engine.containers() if each != bobs)
    assert engine.inspect(new)["Image"] == images[NEXT]
    stops = [each["reason"] for each in audit_records(cluster) if each["event"] == "proxy.stopped"]
    assert stops == ["outdated"]

    engine.run("tag", IMAGE, CURRENT)
    await wait_until(
        lambda: all(each not in engine.containers() for each in (new, bobs)), "the rollback", 60
    )
    await wait_until(lambda: is_reachable(cluster, alice), "the desktop to be reachable", 30)
    for each in engine.containers():
        assert engine.inspect(each)["Image"] == images[CURRENT]
