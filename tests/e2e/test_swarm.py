"""Streaming proxies as services of a swarm of two nodes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread

from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.containers import SUBNETS
from tests.e2e.dockerd import Dockerd
from tests.e2e.lifecycle_cases import (
    CHAT,
    assert_broken,
    assert_stream_outlives,
    audit_records,
    is_reachable,
    start_proxy,
    start_stream,
    start_with_desktop,
)
from tests.e2e.process_info import proc_status
from tests.e2e.swarm import ENTRANCE, PROXIES_ALLOWED, Swarm, two_nodes
from tests.fake_ollama import Script

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="It starts Docker Engines.")


@pytest.fixture(scope="module")
def nodes(docker: Dockerd) -> Iterator[Swarm]:
    """A swarm of two nodes."""
    with two_nodes(docker) as swarm:
        yield swarm


@pytest.fixture
def swarm(nodes: Swarm) -> Iterator[Swarm]:
    """The swarm, without services of ctllm before and after the test.

    A test lists `cluster` after it: the cloud has to stop first.
    """
    assert nodes.services() == nodes.networks() == []
    yield nodes
    nodes.remove_all()


async def chat(cluster: Cluster) -> bool:
    """Return whether alice's request is answered."""
    status, _, body = await cluster.request("POST", "/api/chat", CHAT, cluster.alice_token)
    return status == 200 and json.loads(body.splitlines()[-1])["done"] is True


@ensureDeferred
async def test_a_proxy_is_a_confined_service_that_survives_the_cloud(
    swarm: Swarm, cluster: Cluster
) -> None:
    """It runs on the other node, in a network of its own, and the next cloud adopts it."""
    swarm.enter(cluster)
    options = swarm.options("node.role==worker")
    cloud = await start_with_desktop(cluster, *options)
    assert await chat(cluster)
    (name,), (network,) = swarm.services(), swarm.networks()
    assert network == name.replace("-proxy-", "-net-")
    (container,) = swarm.containers(swarm.worker)
    assert swarm.containers(swarm.manager) == []
    found = json.loads(swarm.worker.docker("inspect", container))[0]
    host = found["HostConfig"]
    limits = {key: host[key] for key in ("Memory", "NanoCpus", "PidsLimit")}
    assert limits == {"Memory": 512 << 20, "NanoCpus": 500_000_000, "PidsLimit": 32}
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["Privileged"]) == (True, ["ALL"], False)
    assert found["Config"]["User"] == "1001:1001" and not host["Binds"]
    # Docker has no setting for it in a swarm: the proxy sets it itself.
    assert proc_status(found["State"]["Pid"])["NoNewPrivs"] == "1"
    inspected = swarm.inspect(network)
    assert (inspected["Driver"], inspected["Internal"]) == ("overlay", True)
    assert inspected["IPAM"]["Config"][0]["Subnet"] == str(SUBNETS[0])
    metadata = json.dumps([swarm.inspect(name), found, inspected]).encode()
    secret = (cluster.state_dir("cloud") / "cloud" / "signing-key").read_bytes().strip()
    assert secret not in metadata and b"alice" not in metadata
    await cloud.stop(signal.SIGKILL)
    await cluster.start_cloud(*options)
    await wait_until(lambda: is_reachable(cluster, cluster.alice_token), "the desktop to return")
    assert await chat(cluster) and swarm.containers(swarm.worker) == [container]
    status, _, _ = await cluster.request("DELETE", "/ctllm/proxy", token=cluster.alice_token)
    assert status == 204 and swarm.services() == []
    await wait_until(lambda: swarm.networks() == [], "the removal of the network")


@ensureDeferred
async def test_a_node_that_is_drained_or_dies_costs_a_reconnect(
    swarm: Swarm, cluster: Cluster
) -> None:
    """The next proxy runs on the other node, in a network that replaces the first."""
    swarm.enter(cluster)
    swarm.allow_proxies(swarm.worker_id)
    await start_with_desktop(cluster, *swarm.options(PROXIES_ALLOWED))
    assert len(swarm.containers(swarm.worker)) == 1
    swarm.allow_proxies(swarm.manager_id)
    swarm.set_availability(swarm.worker_id, "drain")
    await wait_until(lambda: bool(swarm.containers(swarm.manager)), "a proxy on the manager", 30)
    swarm.set_availability(swarm.worker_id, "active")
    swarm.allow_proxies(swarm.manager_id, False)
    await wait_until(lambda: bool(swarm.containers(swarm.worker)), "a proxy on the worker", 30)
    swarm.allow_proxies(swarm.manager_id)
    await wait_until(lambda: is_reachable(cluster, cluster.alice_token), "the desktop", 30)
    response = await start_stream(cluster, cluster.alice_token)
    swarm.namespace.ip("link", "set", swarm.namespace.name, "down")
    try:
        await assert_broken(response, 40)
        cluster.ollama.script("/api/chat", Script(lines=3))
        await wait_until(
            lambda: bool(swarm.containers(swarm.manager)), "a proxy on the manager", 30
        )
        await wait_until(lambda: is_reachable(cluster, cluster.alice_token), "the desktop", 30)
        assert await chat(cluster)
        deaths = [each for each in audit_records(cluster) if each["event"] == "proxy.died"]
        assert "does not respond" in deaths[-1]["detail"]
    finally:
        swarm.namespace.ip("link", "set", swarm.namespace.name, "up")
        await wait_until(
            lambda: "Ready" in swarm.manager.docker("node", "ls", "-f", "role=worker"),
            "the worker to return", 60,
        )  # fmt: skip


@ensureDeferred
async def test_nginx_sends_requests_to_other_nodes_itself(swarm: Swarm, cluster: Cluster) -> None:
    """The end of the cloud cuts neither the stream nor the desktop's tunnel."""
    if cluster.nginx is None:
        cluster.use_nginx()
    swarm.enter(cluster)
    cloud = await start_with_desktop(cluster, *swarm.options("node.role==worker"))
    await assert_stream_outlives(cluster, cloud)


@ensureDeferred
async def test_a_swarm_that_is_full_says_so(swarm: Swarm, cluster: Cluster) -> None:
    """Nothing is left of the proxies that found no node."""
    swarm.enter(cluster)
    await cluster.start_cloud(*swarm.options("node.labels.none==true"))
    status, headers, body = await start_proxy(cluster, await cluster.create_token("alice"))
    assert status == 503 and int(headers["retry-after"]) > 0
    assert "No node of the swarm takes another streaming proxy" in body["error"]["message"]
    await wait_until(lambda: swarm.services() == swarm.networks() == [], "the removal")


@ensureDeferred
async def test_a_server_container_that_was_replaced_is_attached_again(
    swarm: Swarm, cluster: Cluster
) -> None:
    """Running proxies are reached from the new one."""
    swarm.enter(cluster)
    cloud = await start_with_desktop(cluster, *swarm.options())
    (service,), (network,) = swarm.services(), swarm.networks()
    swarm.manager.docker("network", "disconnect", "-f", network, ENTRANCE)
    attached = swarm.inspect(ENTRANCE)["NetworkSettings"]["Networks"]
    assert network not in attached

    async def is_attached() -> bool:
        inspected = await deferToThread(swarm.inspect, ENTRANCE)
        return network in inspected["NetworkSettings"]["Networks"]

    await wait_until(is_attached, f"the network to be attached:\n{cloud.output}", 20)
    await wait_until(lambda: is_reachable(cluster, cluster.alice_token), "the desktop", 30)
    assert await chat(cluster) and swarm.services() == [service]
