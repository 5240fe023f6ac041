"""Streaming proxies as containers of a real engine: their whole life, as its users see it."""

from __future__ import annotations

import json
import signal
import subprocess
import time

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread

from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.containers import ContainerInspector
from tests.e2e.dockerd import BASE
from tests.e2e.faulty_cluster import FaultyCluster
from tests.e2e.fixed_response_upstream import full_response, sha256
from tests.e2e.lifecycle_cases import (
    CHAT,
    assert_broken,
    audit_records,
    is_reachable,
    proxy_state,
    start_proxy,
    start_stream,
    start_with_desktop,
)


@ensureDeferred
async def test_a_proxy_is_a_closed_container_on_a_network_of_its_own(
    engine: ContainerInspector, cluster: Cluster
) -> None:
    """The whole way works through it; its limits hold, and nothing that is told of it is secret."""
    await start_with_desktop(cluster, *engine.options)
    status, _, body = await cluster.request("POST", "/api/chat", CHAT, cluster.alice_token)
    assert status == 200 and json.loads(body.splitlines()[-1])["done"] is True
    (made,) = engine.containers()
    found = engine.inspect(made)
    host, name = found["HostConfig"], found["Name"].strip("/")
    user = name.removeprefix("ctllm-proxy-")
    limits = {key: host[key] for key in ("Memory", "MemorySwap", "NanoCpus", "PidsLimit")}
    assert limits == {"Memory": 512 << 20, "MemorySwap": 512 << 20, "NanoCpus": 500_000_000,
                      "PidsLimit": 32}  # fmt: skip
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["Privileged"]) == (True, ["ALL"], False)
    assert "no-new-privileges:true" in host["SecurityOpt"] and host["Binds"] is None
    assert found["Config"]["User"] == "1001:1001" and list(host["Tmpfs"]) == ["/tmp"]
    assert host["LogConfig"]["Config"] == {"max-size": "1m", "max-file": "1"}
    network = engine.inspect(f"ctllm-net-{user}")
    assert network["Internal"] and network["Options"]["com.docker.network.bridge.enable_icc"]
    assert network["IPAM"]["Config"][0]["Subnet"] == "10.142.0.0/28"
    assert len(network["Containers"]) == 1
    told = json.dumps([found, network]).encode()
    for secret in ("signing-key", "instance-secret"):
        kept = (cluster.state_dir("cloud") / "cloud" / secret).read_bytes().strip()
        assert kept not in told
    assert b"alice" not in told and cluster.alice_token.encode() not in told


@ensureDeferred
async def test_ten_at_once_and_two_users(engine: ContainerInspector, cluster: Cluster) -> None:
    """One container each, on networks that do not overlap; one ends in order, the other stays."""
    await cluster.start_cloud(*engine.options)
    alice, bob = await cluster.create_token("alice"), await cluster.create_token("bob")
    asking = [start_proxy(cluster, token) for token in (alice, bob) for _ in range(5)]
    since = time.time()
    answers = await gatherResults([Deferred.fromCoroutine(each) for each in asking])
    assert [status for status, _, _ in answers] == [200] * 10
    assert len(engine.containers()) == 2 and len(engine.all()) == 4
    status, _, _ = await cluster.request("DELETE", "/ctllm/proxy", token=alice)
    assert status == 204
    assert len(engine.all()) == 2 and (await proxy_state(cluster, bob))["state"] == "running"
    assert engine.ends(since) == ["0"], "it had the time to tell its desktops"


@pytest.mark.parametrize(
    ("doing", "said"),
    [
        (("kill",), "its container exited with code 137"),
        (("pause",), "its container was paused"),
        (("rm", "-f"), "its container"),
    ],
)
@ensureDeferred
async def test_a_container_that_is_no_more_is_replaced(
    engine: ContainerInspector, cluster: Cluster, doing: tuple[str, ...], said: str
) -> None:
    """Killed, paused or removed by hand: its answers break off, and the next one serves."""
    await start_with_desktop(cluster, *engine.options)
    (first,) = engine.containers()
    answer = await start_stream(cluster, cluster.alice_token)
    await deferToThread(engine.run, *doing, first)
    await assert_broken(answer)
    await wait_until(
        lambda: is_reachable(cluster, cluster.alice_token), "the desktop to return", 20
    )
    (second,) = engine.containers()
    assert second != first
    (death,) = [line for line in audit_records(cluster) if line["event"] == "proxy.died"]
    assert death["reason"] == "exited" and said in death["detail"]


@ensureDeferred
async def test_answers_outlive_their_container(
    engine: ContainerInspector, faulty: FaultyCluster
) -> None:
    """It is killed, the next starts, the desktop attaches: who asked to resume has every byte."""
    await faulty.start(*engine.options)
    await faulty.add_desktop()
    reader = await faulty.start_chat(150, 0.03, ctllm_resume="60")
    await reader.wait_for_lines(20)
    (first,) = engine.containers()
    await deferToThread(engine.run, "kill", first)
    await reader.wait_closed(5)
    assert not reader.complete
    kept = reader.complete_lines
    rest = await faulty.resume_after_reconnect(
        reader.headers["ctllm-request-id"], len(kept), faulty.token
    )
    assert rest.complete and sha256(kept + bytes(rest.body)) == sha256(full_response(150))
    assert engine.containers() != [first] and faulty.upstream.request_count == 1


@ensureDeferred
async def test_a_cloud_that_is_killed_leaves_its_proxies_to_the_next(
    engine: ContainerInspector, cluster: Cluster
) -> None:
    """What is sound is adopted, what is left of others goes, and of strangers nothing."""
    cloud = await start_with_desktop(cluster, *engine.options)
    (alices,) = engine.containers()
    await start_proxy(cluster, await cluster.create_token("bob"))
    (bobs,) = (each for each in engine.containers() if each != alices)
    bobs = engine.inspect(bobs)["Name"].strip("/")
    await cloud.stop(signal.SIGKILL)
    engine.run("kill", bobs)
    orphan = f"ctllm-net-{'0' * 32}"
    ours = engine.inspect(alices)["Config"]["Labels"]["ctllm.instance"]
    label = f"--label=ctllm.instance={ours}"
    owner = f"--label=ctllm.proxy=ctllm-proxy-{'0' * 32}"
    engine.run("network", "create", "--internal", "--subnet=10.142.0.240/28", label, owner, orphan)
    engine.run(
        "create", "--name=stranger", "--network=none", "--label=ctllm.instance=other", BASE, "true"
    )
    try:
        await cluster.start_cloud(*engine.options)
        await wait_until(
            lambda: is_reachable(cluster, cluster.alice_token), "the desktop to return", 20
        )
        assert engine.containers() == [alices]
        await wait_until(lambda: orphan not in engine.all(), "the orphan to go")
        await wait_until(lambda: bobs not in engine.all(), "the dead one to go")
        assert "stranger" in engine.all()
        lines = [line["event"] for line in audit_records(cluster)]
        assert lines.count("proxy.adopted") == 1
    finally:
        engine.run("rm", "-f", "stranger")


@ensureDeferred
async def test_a_cloud_that_stops_leaves_its_proxies_too(
    engine: ContainerInspector, cluster: Cluster
) -> None:
    """So that a restart cuts no more than the connections through the front."""
    cloud = await start_with_desktop(cluster, *engine.options)
    before = engine.containers()
    await cloud.stop()
    assert engine.containers() == before
    assert "proxy.stopped" not in [line["event"] for line in audit_records(cluster)]


@ensureDeferred
async def test_an_engine_that_hangs_stops_nobody_who_is_in(
    engine: ContainerInspector, cluster: Cluster
) -> None:
    """Answers go on and new ones begin; who needs a container hears why, until it is back."""
    await start_with_desktop(cluster, *engine.options, "--proxy-start-timeout-seconds=3")
    bob = await cluster.create_token("bob")
    engine.docker.send(signal.SIGSTOP)
    try:
        status, _, body = await cluster.request("POST", "/api/chat", CHAT, cluster.alice_token)
        assert status == 200 and json.loads(body.splitlines()[-1])["done"] is True
        status, headers, told = await start_proxy(cluster, bob)
        assert status == 503 and "retry-after" in headers
        assert "did not respond within 3 seconds" in told["error"]["message"]
    finally:
        engine.docker.send(signal.SIGCONT)

    async def again() -> bool:
        return (await start_proxy(cluster, bob))[0] == 200

    await wait_until(again, "bob's proxy to start")


@ensureDeferred
async def test_what_is_wrong_is_said(engine: ContainerInspector, cluster: Cluster) -> None:
    """No engine, no image, a stranger with the name: each in its own words, in the answer."""
    cloud = await cluster.start_cloud(
        *engine.options, "--docker-url=unix:///nonexistent/docker.sock"
    )
    token = await cluster.create_token("alice")
    status, headers, told = await start_proxy(cluster, token)
    assert status == 503 and "retry-after" in headers
    assert "the socket does not exist" in told["error"]["message"]
    await cloud.stop()
    cloud = await cluster.start_cloud(*engine.options, "--docker-image=ctllm-none:1")
    _, _, told = await start_proxy(cluster, token)
    assert "make images" in told["error"]["message"]
    await wait_until(lambda: engine.all() == [], "nothing to be left of it")
    await cloud.stop()
    cloud = await cluster.start_cloud(*engine.options, f"--docker-image={BASE}")
    _, _, told = await start_proxy(cluster, token)
    assert "executable file not found" in told["error"]["message"]
    await wait_until(lambda: engine.all() == [], "nothing to be left of it")
    await cloud.stop()
    cloud = await cluster.start_cloud(*engine.options)
    await start_proxy(cluster, token)
    (made,) = engine.containers()
    name = engine.inspect(made)["Name"].strip("/")
    await cluster.request("DELETE", "/ctllm/proxy", token=token)
    engine.run("create", f"--name={name}", "--network=none", BASE, "true")
    try:
        _, _, told = await start_proxy(cluster, token)
        assert "not of this cloud" in told["error"]["message"]
        assert engine.run("ps", "-aq", f"--filter=name={name}")
    finally:
        engine.run("rm", "-f", name)


@ensureDeferred
async def test_where_the_host_has_a_network(engine: ContainerInspector, cluster: Cluster) -> None:
    """A bridge of somebody else's, of which Docker knows nothing: its addresses are not given."""
    for words in ("link add name ctltest type bridge", "addr add 10.142.0.1/27 dev ctltest",
                  "link set ctltest up"):  # fmt: skip
        subprocess.run(["ip", *words.split()], check=True)
    try:
        await cluster.start_cloud(*engine.options)
        assert (await start_proxy(cluster, await cluster.create_token("alice")))[0] == 200
        (made,) = engine.containers()
        assert engine.gateway(made) == "10.142.0.33"
    finally:
        subprocess.run(["ip", "link", "del", "ctltest"], check=True)


@ensureDeferred
async def test_a_label_that_lies(engine: ContainerInspector, cluster: Cluster) -> None:
    """A container with our label and another proxy's: it stays, and so does the proxy."""
    await cluster.start_cloud(*engine.options, "--reconcile-interval-seconds=1")
    token = await cluster.create_token("alice")
    await start_proxy(cluster, token)
    (made,) = engine.containers()
    labels = engine.inspect(made)["Config"]["Labels"]
    told = [f"--label={name}={labels[name]}" for name in ("ctllm.instance", "ctllm.proxy")]
    engine.run("create", "--name=liar", "--network=none", *told, BASE, "true")
    try:
        events = len(audit_records(cluster))
        began = time.monotonic()
        await wait_until(lambda: time.monotonic() > began + 3, "three times of looking")
        assert engine.run("ps", "-aq", "--filter=name=liar") and engine.containers() == [made]
        assert (
            len(audit_records(cluster)) == events
            and (await proxy_state(cluster, token))["state"] == "running"
        )
    finally:
        engine.run("rm", "-f", "liar")
