"""Streaming proxies as containers of a real Docker Engine, from start to removal."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from ipaddress import IPv4Address

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread

from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.containers import POOL, SUBNETS, ContainerInspector
from tests.e2e.dockerd import BASE
from tests.e2e.faulty_cluster import FaultyCluster
from tests.e2e.fixed_response_upstream import full_response, sha256
from tests.e2e.lifecycle_cases import (
    CHAT,
    assert_broken,
    assert_stream_outlives,
    audit_records,
    is_reachable,
    proxy_state,
    start_proxy,
    start_stream,
    start_with_desktop,
)


@ensureDeferred
async def test_a_proxy_is_a_confined_container_on_a_network_of_its_own(
    engine: ContainerInspector, cluster: Cluster
) -> None:
    """Requests pass through it, its limits are set, and its metadata contains no secret."""
    await start_with_desktop(cluster, *engine.options)
    status, _, body = await cluster.request("POST", "/api/chat", CHAT, cluster.alice_token)
    assert status == 200 and json.loads(body.splitlines()[-1])["done"] is True
    (container_id,) = engine.containers()
    container = engine.inspect(container_id)
    host, name = container["HostConfig"], container["Name"].strip("/")
    user = name.removeprefix("ctllm-proxy-")
    limits = {key: host[key] for key in ("Memory", "MemorySwap", "NanoCpus", "PidsLimit")}
    assert limits == {"Memory": 512 << 20, "MemorySwap": 512 << 20, "NanoCpus": 500_000_000,
                      "PidsLimit": 32}  # fmt: skip
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["Privileged"]) == (True, ["ALL"], False)
    assert "no-new-privileges:true" in host["SecurityOpt"] and host["Binds"] is None
    assert container["Config"]["User"] == "1001:1001" and list(host["Tmpfs"]) == ["/tmp"]
    assert host["LogConfig"]["Config"] == {"max-size": "1m", "max-file": "1"}
    network = engine.inspect(f"ctllm-net-{user}")
    assert network["Internal"] and network["Options"]["com.docker.network.bridge.enable_icc"]
    assert network["IPAM"]["Config"][0]["Subnet"] == str(SUBNETS[0])
    assert len(network["Containers"]) == 1
    metadata = json.dumps([container, network]).encode()
    for secret in ("signing-key", "instance-secret"):
        value = (cluster.state_dir("cloud") / "cloud" / secret).read_bytes().strip()
        assert value not in metadata
    assert b"alice" not in metadata and cluster.alice_token.encode() not in metadata


@ensureDeferred
async def test_concurrent_starts_create_one_container_for_each_user(
    engine: ContainerInspector, cluster: Cluster
) -> None:
    """Stopping one user's proxy exits cleanly and leaves the other user's running."""
    await cluster.start_cloud(*engine.options)
    alice, bob = await cluster.create_token("alice"), await cluster.create_token("bob")
    starts = [start_proxy(cluster, token) for token in (alice, bob) for _ in range(5)]
    since = time.time()
    responses = await gatherResults([Deferred.fromCoroutine(start) for start in starts])
    assert [status for status, _, _ in responses] == [200] * 10
    assert len(engine.containers()) == 2 and len(engine.all()) == 4
    status, _, _ = await cluster.request("DELETE", "/ctllm/proxy", token=alice)
    assert status == 204
    assert len(engine.all()) == 2 and (await proxy_state(cluster, bob))["state"] == "running"
    assert engine.exit_codes(since) == ["0"], "The proxy did not shut down cleanly."


@pytest.mark.parametrize(
    ("command", "detail", "starts_again"),
    [
        (("kill",), "its container exited with code 137", True),
        (("pause",), "its container was paused", False),
        (("rm", "-f"), "its container", False),
    ],
)
@ensureDeferred
async def test_a_killed_container_starts_again_and_a_paused_or_removed_one_is_replaced(
    engine: ContainerInspector,
    cluster: Cluster,
    command: tuple[str, ...],
    detail: str,
    starts_again: bool,
) -> None:
    """Its responses are cut off, and then new requests are served, with the same limits."""
    await start_with_desktop(cluster, *engine.options)
    (first,) = engine.containers()
    response = await start_stream(cluster, cluster.alice_token)
    await deferToThread(engine.run, *command, first)
    await assert_broken(response)
    await wait_until(
        lambda: is_reachable(cluster, cluster.alice_token), "the desktop to return", 20
    )
    (second,) = engine.containers()
    assert (second == first) is starts_again
    assert engine.inspect(second)["HostConfig"]["NanoCpus"] == 500_000_000
    assert len(engine.all()) == 2  # the container and its network
    (death,) = [record for record in audit_records(cluster) if record["event"] == "proxy.died"]
    assert death["reason"] == "exited" and detail in death["detail"]


@pytest.mark.parametrize("changed", ["another network", "a second network"])
@ensureDeferred
async def test_a_killed_container_whose_network_has_changed_is_replaced(
    engine: ContainerInspector, cluster: Cluster, changed: str
) -> None:
    """It does not start again in a network that leads out."""
    await cluster.start_cloud(*engine.options)
    token = await cluster.create_token("alice")
    assert (await start_proxy(cluster, token))[0] == 200
    (first,) = engine.containers()
    container = engine.inspect(first)
    labels, name = container["Config"]["Labels"], container["Name"].strip("/")
    network = name.replace("-proxy-", "-net-")
    engine.run("kill", first)
    if changed == "a second network":
        engine.run("network", "connect", "bridge", first)
    else:
        engine.run("network", "disconnect", "-f", network, first)
        engine.run("network", "rm", network)
        owner = [f"--label={each}={labels[each]}" for each in ("ctllm.instance", "ctllm.proxy")]
        engine.run("network", "create", f"--subnet={SUBNETS[-1]}", *owner, network)
        engine.run("network", "connect", network, first)

    async def starts() -> bool:
        return (await start_proxy(cluster, token))[0] == 200

    await wait_until(starts, "the proxy to start", 20)
    (second,) = engine.containers()
    networks = engine.inspect(second)["NetworkSettings"]["Networks"]
    assert second != first and list(networks) == [network]
    assert engine.inspect(network)["Internal"]


@ensureDeferred
async def test_a_response_resumes_after_its_container_was_killed(
    engine: ContainerInspector, faulty: FaultyCluster
) -> None:
    """The client receives every byte once, and the upstream one request."""
    await faulty.start(*engine.options)
    await faulty.add_desktop()
    reader = await faulty.start_chat(150, 0.03, ctllm_resume="60")
    await reader.wait_for_lines(20)
    (first,) = engine.containers()
    await deferToThread(engine.run, "kill", first)
    await reader.wait_closed(5)
    assert not reader.complete
    received = reader.complete_lines
    rest = await faulty.resume_after_reconnect(
        reader.headers["ctllm-request-id"], len(received), faulty.token
    )
    assert rest.complete and sha256(received + bytes(rest.body)) == sha256(full_response(150))
    assert engine.containers() == [first] and faulty.upstream.request_count == 1


@ensureDeferred
async def test_a_restarted_cloud_adopts_running_proxies_and_removes_leftovers(
    engine: ContainerInspector, cluster: Cluster
) -> None:
    """A dead container and an unused network are removed; containers of others remain.

    A container whose cloud was killed during its start gets its limit of processor time.
    """
    cloud = await start_with_desktop(cluster, *engine.options)
    (alice_container,) = engine.containers()
    await start_proxy(cluster, await cluster.create_token("bob"))
    (bob_container,) = (each for each in engine.containers() if each != alice_container)
    bob_container = engine.inspect(bob_container)["Name"].strip("/")
    await cloud.stop(signal.SIGKILL)
    engine.run("update", "--cpus=2", alice_container)
    engine.run("kill", bob_container)
    orphan = f"ctllm-net-{'0' * 32}"
    instance = engine.inspect(alice_container)["Config"]["Labels"]["ctllm.instance"]
    label = f"--label=ctllm.instance={instance}"
    owner = f"--label=ctllm.proxy=ctllm-proxy-{'0' * 32}"
    engine.run("network", "create", "--internal", f"--subnet={SUBNETS[-1]}", label, owner, orphan)
    engine.run(
        "create", "--name=stranger", "--network=none", "--label=ctllm.instance=other", BASE, "true"
    )
    try:
        await cluster.start_cloud(*engine.options)
        await wait_until(
            lambda: is_reachable(cluster, cluster.alice_token), "the desktop to return", 20
        )
        assert engine.containers() == [alice_container]
        assert engine.inspect(alice_container)["HostConfig"]["NanoCpus"] == 500_000_000
        await wait_until(lambda: orphan not in engine.all(), "the orphaned network to be removed")
        await wait_until(
            lambda: bob_container not in engine.all(), "the dead container to be removed"
        )
        assert "stranger" in engine.all()
        events = [record["event"] for record in audit_records(cluster)]
        assert events.count("proxy.adopted") == 1
    finally:
        engine.run("rm", "-f", "stranger")


@ensureDeferred
async def test_a_cloud_that_stops_leaves_its_proxies_running(
    engine: ContainerInspector, cluster: Cluster
) -> None:
    """A restart of the cloud then cuts only the connections through the gateway."""
    cloud = await start_with_desktop(cluster, *engine.options)
    before = engine.containers()
    await cloud.stop()
    assert engine.containers() == before
    assert "proxy.stopped" not in [record["event"] for record in audit_records(cluster)]


@ensureDeferred
async def test_nginx_of_the_host_reaches_containers_on_bridge_networks(
    engine: ContainerInspector, cluster: Cluster
) -> None:
    """By their addresses: the end of the cloud cuts neither the stream nor the desktop's tunnel."""
    if cluster.nginx is None:
        cluster.use_nginx()
    cloud = await start_with_desktop(cluster, *engine.options)
    (container,) = engine.containers()
    assert IPv4Address(engine.address(container)) in POOL
    await assert_stream_outlives(cluster, cloud)


@ensureDeferred
async def test_running_proxies_serve_while_the_engine_hangs(
    engine: ContainerInspector, cluster: Cluster
) -> None:
    """Starting a proxy fails with 503 and the reason, until the engine responds again."""
    await start_with_desktop(cluster, *engine.options, "--proxy-start-timeout-seconds=3")
    bob = await cluster.create_token("bob")
    engine.docker.send_signal(signal.SIGSTOP)
    try:
        status, _, body = await cluster.request("POST", "/api/chat", CHAT, cluster.alice_token)
        assert status == 200 and json.loads(body.splitlines()[-1])["done"] is True
        status, headers, error = await start_proxy(cluster, bob)
        assert status == 503 and "retry-after" in headers
        assert "did not respond within 3 seconds" in error["error"]["message"]
    finally:
        engine.docker.send_signal(signal.SIGCONT)

    async def starts() -> bool:
        return (await start_proxy(cluster, bob))[0] == 200

    await wait_until(starts, "bob's proxy to start")


@ensureDeferred
async def test_the_response_names_the_reason_of_a_failed_start(
    engine: ContainerInspector, cluster: Cluster
) -> None:
    """No engine, no image, an unusable image, and a container of another owner with its name."""
    cloud = await cluster.start_cloud(
        *engine.options, "--docker-url=unix:///nonexistent/docker.sock"
    )
    token = await cluster.create_token("alice")
    status, headers, body = await start_proxy(cluster, token)
    assert status == 503 and "retry-after" in headers
    assert "the socket does not exist" in body["error"]["message"]
    await cloud.stop()
    cloud = await cluster.start_cloud(*engine.options, "--docker-image=ctllm-none:1")
    _, _, body = await start_proxy(cluster, token)
    assert "make images" in body["error"]["message"]
    await wait_until(lambda: engine.all() == [], "the failed start to be cleaned up")
    await cloud.stop()
    cloud = await cluster.start_cloud(*engine.options, f"--docker-image={BASE}")
    _, _, body = await start_proxy(cluster, token)
    assert "executable file not found" in body["error"]["message"]
    await wait_until(lambda: engine.all() == [], "the failed start to be cleaned up")
    await cloud.stop()
    cloud = await cluster.start_cloud(*engine.options)
    await start_proxy(cluster, token)
    (container,) = engine.containers()
    name = engine.inspect(container)["Name"].strip("/")
    await cluster.request("DELETE", "/ctllm/proxy", token=token)
    engine.run("create", f"--name={name}", "--network=none", BASE, "true")
    try:
        _, _, body = await start_proxy(cluster, token)
        assert "not of this cloud" in body["error"]["message"]
        assert engine.run("ps", "-aq", f"--filter=name={name}")
    finally:
        engine.run("rm", "-f", name)


@ensureDeferred
async def test_subnets_of_the_host_are_not_allocated(
    engine: ContainerInspector, cluster: Cluster
) -> None:
    """The host has a bridge in the pool that Docker did not create."""
    for arguments in ("link add name ctltest type bridge", f"addr add {POOL[1]}/27 dev ctltest",
                  "link set ctltest up"):  # fmt: skip
        subprocess.run(["ip", *arguments.split()], check=True)
    try:
        await cluster.start_cloud(*engine.options)
        assert (await start_proxy(cluster, await cluster.create_token("alice")))[0] == 200
        (container,) = engine.containers()
        assert engine.gateway(container) == str(SUBNETS[2][1])
    finally:
        subprocess.run(["ip", "link", "del", "ctltest"], check=True)


@ensureDeferred
async def test_a_container_with_copied_labels_changes_nothing(
    engine: ContainerInspector, cluster: Cluster
) -> None:
    """Reconciliation removes neither that container nor the proxy whose labels it has."""
    await cluster.start_cloud(*engine.options, "--reconcile-interval-seconds=1")
    token = await cluster.create_token("alice")
    await start_proxy(cluster, token)
    (container,) = engine.containers()
    labels = engine.inspect(container)["Config"]["Labels"]
    copied = [f"--label={name}={labels[name]}" for name in ("ctllm.instance", "ctllm.proxy")]
    engine.run("create", "--name=copy", "--network=none", *copied, BASE, "true")
    try:
        events = len(audit_records(cluster))
        started = time.monotonic()
        await wait_until(lambda: time.monotonic() > started + 3, "three reconciliations")
        assert engine.run("ps", "-aq", "--filter=name=copy") and engine.containers() == [container]
        assert (
            len(audit_records(cluster)) == events
            and (await proxy_state(cluster, token))["state"] == "running"
        )
    finally:
        engine.run("rm", "-f", "copy")
