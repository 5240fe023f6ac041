"""Containers that wait for users: assigned once, kept over a restart, and never left over."""

from __future__ import annotations

import http.client
import json
import signal
import time
from typing import Any

from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred, gatherResults

from ctllm.cloud.identity import AssertionSigner, PrivateDirectory, load_signing_keys
from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.containers import ContainerInspector
from tests.e2e.dockerd import IMAGE
from tests.e2e.lifecycle_cases import CHAT, audit_records, is_reachable, start_proxy
from tests.fake_ollama import Script

OPTIONS = ("--reconcile-interval-seconds=1", "--proxy-start-timeout-seconds=60")
#: The tag of the image in the test of an upgrade.
CURRENT, NEXT = "ctllm-warm:current", "ctllm-warm:next"
#: Lists what a waiting container has: its environment, and the files that it may write or read.
LOOK_AROUND = """
import json, os
found = [os.path.join(folder, name) for top in ("/run", "/tmp", "/var", "/home", "/root")
         for folder, _, names in os.walk(top) for name in names]
print(json.dumps({"environment": sorted(os.environ), "files": found}))
"""


def waiting(engine: ContainerInspector) -> dict[str, str]:
    """Return the names of the running containers that nobody has, and their ids."""
    listed = engine.run("ps", "--no-trunc", "--format={{.Names}} {{.ID}}",
                        "--filter=name=^ctllm-proxy-w").splitlines()  # fmt: skip
    return dict(each.split() for each in listed)


def users(engine: ContainerInspector) -> dict[str, str]:
    """Return the names of the running containers of users, and their ids."""
    listed = engine.run("ps", "--no-trunc", "--format={{.Names}} {{.ID}}",
                        "--filter=name=^ctllm-proxy-[0-9a-f]").splitlines()  # fmt: skip
    return dict(each.split() for each in listed)


async def wait_until_ready(cluster: Cluster, number: int) -> None:
    """Wait until so many proxies wait, and none of them starts any more."""

    async def is_ready() -> bool:
        table = await cluster.run_ctllm("cloud", "proxies")
        rows = [line.split() for line in table.splitlines()]
        return sum(row[1:2] == ["waiting"] for row in rows) == number

    await wait_until(is_ready, f"{number} proxies to wait", 120)


def post(engine: ContainerInspector, container: str, token: str) -> int:
    """Send a token to a container as its assignment; return the status."""
    connection = http.client.HTTPConnection(engine.address(container), 8080, timeout=10)
    headers = {"Ctllm-Assertion": token, "Content-Length": "0"}
    connection.request("POST", "/ctllm/control/assignment", headers=headers)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status


def signer(cluster: Cluster) -> AssertionSigner:
    """Return a signer with the key of the cloud."""
    directory = PrivateDirectory(cluster.state_dir("cloud") / "cloud")
    return AssertionSigner(load_signing_keys(directory).signing_key, time.time)


def started(cluster: Cluster, reason: str | None) -> list[Any]:
    return [each for each in audit_records(cluster)
            if each["event"] == "proxy.started" and each.get("reason") == reason]  # fmt: skip


@ensureDeferred
async def test_of_six_users_at_once_three_get_a_waiting_container_and_three_start_one(
    engine: ContainerInspector, cluster: Cluster
) -> None:
    """Each gets one container, whatever the number of requests, and the pool is filled again.

    Nothing is left when the proxies are drained.
    """
    await cluster.start_cloud(*engine.options, *OPTIONS, "--proxy-warm=3")
    await wait_until_ready(cluster, 3)
    before = waiting(engine)
    tokens = [await cluster.create_token(f"user{number}") for number in range(6)]
    starts = [start_proxy(cluster, token) for token in tokens for _ in range(3)]
    responses = await gatherResults([Deferred.fromCoroutine(start) for start in starts])
    assert [status for status, _, _ in responses] == [200] * 18
    owned = users(engine)
    assert len(owned) == 6 and {*before.values()} < {*owned.values()}
    assert (len(started(cluster, "assigned")), len(started(cluster, None))) == (3, 3)
    await wait_until_ready(cluster, 3)
    assert not {*waiting(engine).values()} & {*before.values()}
    await cluster.run_ctllm("cloud", "proxies", "drain", "--seconds=0")
    await wait_until(lambda: engine.all() == [], "all containers and networks to be removed", 60)


@ensureDeferred
async def test_a_waiting_container_has_nothing_of_a_user_and_is_assigned_once(
    engine: ContainerInspector, cluster: Cluster
) -> None:
    """It refuses what the cloud did not sign for it, then the user's requests pass through it.

    A replayed assignment, and one for another user, are refused.
    """
    await cluster.start_cloud(*engine.options, *OPTIONS, "--proxy-warm=1")
    cluster.ollama, ollama = cluster.start_fake_ollama("llama3.2")
    await wait_until_ready(cluster, 1)
    ((name, container),) = waiting(engine).items()
    found = engine.run_python(container, LOOK_AROUND)
    assert found["files"] == [] and not [each for each in found["environment"] if "CTLLM" in each]
    host = engine.inspect(container)["HostConfig"]
    assert (host["NanoCpus"], host["CapDrop"]) == (500_000_000, ["ALL"])
    network = engine.inspect(name.replace("-proxy-", "-net-"))
    assert network["Internal"] and len(network["Containers"]) == 1
    sign = signer(cluster)
    victim, other = f"ctllm-proxy-{'a' * 32}", f"ctllm-proxy-w{'0' * 31}"
    for token in (sign.sign_assignment(other, victim), sign.sign(name, frozenset({"use"}))):
        assert post(engine, container, token) == 401

    cluster.alice_token = await cluster.create_token("alice")
    assert (await start_proxy(cluster, cluster.alice_token))[0] == 200
    assert container in users(engine).values()
    (alice,) = (each for each, id in users(engine).items() if id == container)
    for token in (sign.sign_assignment(name, alice), sign.sign_assignment(name, victim)):
        assert post(engine, container, token) == 409
    await cluster.start_desktop("alice", ollama)
    await wait_until(lambda: is_reachable(cluster, cluster.alice_token), "the desktop", 60)
    status, _, body = await cluster.request("POST", "/api/chat", CHAT, cluster.alice_token)
    assert status == 200 and json.loads(body.splitlines()[-1])["done"] is True
    assert users(engine) == {alice: container}

    # Killed, it starts again as one that waits, and is told the same user.
    engine.run("kill", container)
    await wait_until(lambda: is_reachable(cluster, cluster.alice_token), "the desktop", 60)
    assert users(engine) == {alice: container}
    for token in (sign.sign_assignment(name, alice), sign.sign_assignment(name, victim)):
        assert post(engine, container, token) == 409


@ensureDeferred
async def test_a_killed_cloud_uses_those_that_waited_and_keeps_those_of_users(
    engine: ContainerInspector, cluster: Cluster
) -> None:
    """A response in progress ends with the gateway; its proxy and its desktop's tunnel serve on.

    A container that was killed between its name and its assignment is assigned at last. With
    other settings, the containers that waited are replaced; without a pool, they are removed.
    """
    options = (*engine.options, *OPTIONS)
    cloud = await cluster.start_cloud(*options, "--proxy-warm=3")
    cluster.ollama, ollama = cluster.start_fake_ollama("llama3.2")
    cluster.ollama.script("/api/chat", Script(lines=3))
    await wait_until_ready(cluster, 3)
    before = waiting(engine)
    cluster.alice_token = await cluster.create_token("alice")
    await cluster.start_desktop("alice", ollama)
    await wait_until(lambda: is_reachable(cluster, cluster.alice_token), "the desktop", 60)
    owned = users(engine)
    assert {*owned.values()} < {*before.values()}
    bob = await cluster.create_token("bob")
    await start_proxy(cluster, bob)
    (bobs,) = users(engine).keys() - owned.keys()
    await wait_until_ready(cluster, 3)
    await cluster.request("DELETE", "/ctllm/proxy", token=bob)
    await cloud.stop(signal.SIGKILL)
    named, *others = waiting(engine)
    engine.run("rename", named, bobs)  # all that a killed cloud had done for bob

    cloud = await cluster.start_cloud(*options, "--proxy-warm=3")
    await wait_until_ready(cluster, 3)
    assert {*others} < waiting(engine).keys()
    await wait_until(lambda: is_reachable(cluster, cluster.alice_token), "the desktop", 60)
    assert users(engine).items() >= owned.items()
    status, _, _ = await cluster.request("GET", "/ctllm/desktops", token=bob)
    assert status == 200 and bobs in users(engine)

    await cloud.stop(signal.SIGKILL)
    cloud = await cluster.start_cloud(*options, "--proxy-warm=1", "--max-streams=7")
    await wait_until_ready(cluster, 1)
    await wait_until(lambda: len(waiting(engine)) == 1, "the others to be removed", 60)
    assert not waiting(engine).keys() & {*others}
    assert users(engine).items() >= owned.items()
    await cloud.stop()
    await cluster.start_cloud(*options)
    await wait_until(lambda: not waiting(engine), "all to be removed", 60)
    left = [each for each in engine.all() if "-net-" in each]
    assert len(left) == len(users(engine))


@ensureDeferred
async def test_after_an_upgrade_no_user_gets_the_old_image(
    engine: ContainerInspector, cluster: Cluster
) -> None:
    """Neither the first user after it, nor one after the pool was filled again."""
    engine.docker.docker("build", "-q", "-t", NEXT, "-",
                         data=f"FROM {IMAGE}\nLABEL version=next\n".encode())  # fmt: skip
    engine.run("tag", IMAGE, CURRENT)
    try:
        options = (*engine.options, "--proxy-start-timeout-seconds=60", "--proxy-warm=2")
        # Only the assignment itself can notice within the minute.
        await cluster.start_cloud(*options, f"--docker-image={CURRENT}")
        await wait_until_ready(cluster, 2)
        before = waiting(engine)
        engine.run("tag", NEXT, CURRENT)
        new = engine.inspect(NEXT)["Id"]
        assert (await start_proxy(cluster, await cluster.create_token("alice")))[0] == 200
        assert [engine.inspect(each)["Image"] for each in users(engine)] == [new]
        assert (await start_proxy(cluster, await cluster.create_token("bob")))[0] == 200
        await wait_until_ready(cluster, 2)
        await wait_until(lambda: not waiting(engine).keys() & before.keys(), "the old ones to end")
        for each in (*users(engine), *waiting(engine)):
            assert engine.inspect(each)["Image"] == new
        assert (await start_proxy(cluster, await cluster.create_token("carol")))[0] == 200
        assert len(started(cluster, "assigned")) == 1
    finally:
        engine.run("rmi", "-f", CURRENT, NEXT)
