"""The Docker Engine client against a real engine."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.threads import deferToThread

from ctllm.cloud.docker_api import (
    DockerClient,
    DockerConflict,
    DockerEvent,
    DockerNotFound,
    DockerUnavailable,
    ImageNotFound,
    SubnetOverlap,
    create_transport,
)
from tests.e2e.certificates import CertificateAuthority
from tests.e2e.cluster import wait_until
from tests.e2e.dockerd import BASE, Dockerd

NAME, LABEL = "ctllm-test", {"ctllm.instance": "test"}
BODY: dict[str, Any] = {
    "Image": BASE,
    "Cmd": ["sh", "-c", "echo hello; echo trouble >&2; exec sleep 1000"],
    "Labels": LABEL,
    "HostConfig": {"NetworkMode": "none", "Memory": 64 << 20, "MemorySwap": 64 << 20},
}


def network(name: str, subnet: str) -> dict[str, Any]:
    """The body of a call that makes an internal network."""
    return {
        "Name": name, "CheckDuplicate": True, "Driver": "bridge", "Internal": True,
        "IPAM": {"Config": [{"Subnet": subnet}]}, "Labels": LABEL,
    }  # fmt: skip


@pytest_twisted.async_yield_fixture()
async def engine(docker: Dockerd) -> AsyncIterator[DockerClient]:
    """A client; afterwards nothing of what the tests make is left."""
    client = DockerClient(create_transport(reactor, docker.address), reactor)
    yield client
    await client.remove_container(NAME)
    for each in await client.list_networks("ctllm.instance=test"):
        await client.remove_network(each.id)


@ensureDeferred
async def test_the_life_of_a_container(engine: DockerClient) -> None:
    """Made, started twice, seen, heard, stopped, removed twice; events tell of it as it goes."""
    heard: list[DockerEvent] = []
    filters = {"type": ["container"], "label": ["ctllm.instance=test"]}
    hearing = Deferred.fromCoroutine(engine.follow_events(filters, time.time(), heard.append))
    # The engine says nothing when it has begun to listen: make events until one is heard.
    await wait_until(lambda: _makes(engine, heard), "an event to be heard")
    made = await engine.create_container(NAME, BODY)
    assert (await engine.inspect_container(NAME)).state.status == "created"
    await engine.start_container(made)
    await engine.start_container(made)
    found = await engine.inspect_container(NAME)
    assert (found.id, found.state.running, found.labels["ctllm.instance"]) == (made, True, "test")
    [listed] = await engine.list_containers("ctllm.instance=test")
    assert (listed.id, listed.name, listed.state) == (made, NAME, "running")
    assert await engine.list_containers("ctllm.instance=other") == []

    async def said() -> bool:
        return sorted((await engine.container_logs(NAME)).split()) == ["hello", "trouble"]

    await wait_until(said, "both outputs")
    await engine.stop_container(NAME, 0)
    assert (await engine.inspect_container(NAME)).state.exit_code == 137
    await engine.remove_container(NAME)
    await engine.remove_container(NAME)
    with pytest.raises(DockerNotFound):
        await engine.inspect_container(NAME)
    want = ["create", "start", "die", "destroy"]
    mine = lambda: [e.action for e in heard if e.actor.id == made and e.action in want]  # noqa: E731
    await wait_until(lambda: mine() == want, "the events")
    hearing.cancel()
    with pytest.raises(CancelledError):
        await hearing


async def _makes(engine: DockerClient, heard: list[DockerEvent]) -> bool:
    await engine.create_container(NAME, BODY)
    await engine.remove_container(NAME)
    return bool(heard)


@ensureDeferred
async def test_networks(engine: DockerClient) -> None:
    """Made, seen with their subnets, refused where they overlap, removed twice."""
    made = await engine.create_network(network("ctllm-net-a", "10.140.0.0/28"))
    assert (await engine.inspect_network("ctllm-net-a")).id == made
    [found] = await engine.list_networks("ctllm.instance=test")
    assert (found.subnets, found.internal) == (["10.140.0.0/28"], True)
    assert {"bridge", "ctllm-net-a"} <= {each.name for each in await engine.list_networks()}
    with pytest.raises(SubnetOverlap):
        await engine.create_network(network("ctllm-net-b", "10.140.0.0/24"))
    with pytest.raises(DockerConflict):
        await engine.create_network(network("ctllm-net-a", "10.140.1.0/28"))
    await engine.remove_network(made)
    await engine.remove_network(made)


@ensureDeferred
async def test_what_is_refused(engine: DockerClient) -> None:
    """A name that is taken and an image that is not there, each in its own words."""
    await engine.create_container(NAME, BODY)
    with pytest.raises(DockerConflict):
        await engine.create_container(NAME, BODY)
    with pytest.raises(ImageNotFound, match="make images"):
        await engine.create_container("ctllm-other", {**BODY, "Image": "ctllm-none:1"})
    with pytest.raises(ImageNotFound):
        await engine.inspect_image("ctllm-none:1")
    assert (await engine.inspect_image(BASE)).size > 1_000_000


@ensureDeferred
async def test_without_permission(docker: Dockerd, engine: DockerClient) -> None:
    """A user who may not open the socket is told what to do."""
    docker.folder.chmod(0o711)  # so that it is the socket itself that is closed
    os.seteuid(60123)
    try:
        with pytest.raises(DockerUnavailable, match="a user of the group docker"):
            await engine.negotiate_version()
    finally:
        os.seteuid(0)


@ensureDeferred
async def test_by_tcp_with_certificates(
    docker: Dockerd, engine: DockerClient, tmp_path: Path
) -> None:
    """Both sides must have one of the same authority; else it is said which is not good."""
    good = DockerClient(
        create_transport(reactor, docker.tls_address, str(docker.certificates)), reactor
    )
    assert {each.name for each in await good.list_networks()} >= {"bridge", "none"}
    strangers = CertificateAuthority("strangers").issue(tmp_path / "strangers")
    refused, refusing = tmp_path / "refused", tmp_path / "refusing"
    shutil.copytree(strangers, refused)
    shutil.copy(docker.certificates / "ca.pem", refused)  # we trust the engine, but it not us
    shutil.copytree(docker.certificates, refusing)
    shutil.copy(strangers / "ca.pem", refusing)  # it trusts us, but we not it
    for folder in (refused, refusing):
        bad = DockerClient(create_transport(reactor, docker.tls_address, str(folder)), reactor)
        with pytest.raises(DockerUnavailable, match="one of the certificates was rejected"):
            await bad.list_networks()


@ensureDeferred
async def test_an_engine_that_ends_and_comes_back(docker: Dockerd, engine: DockerClient) -> None:
    """Whoever hears events is told, calls say what is wrong, and afterwards all is as before."""
    heard: list[DockerEvent] = []
    hearing = Deferred.fromCoroutine(
        engine.follow_events({"type": ["container"]}, time.time(), heard.append)
    )
    await wait_until(lambda: _makes(engine, heard), "an event to be heard")
    await deferToThread(docker.stop)
    try:
        with pytest.raises(DockerUnavailable):
            await hearing
        with pytest.raises(DockerUnavailable, match="the socket does not exist"):
            await engine.list_networks()
    finally:
        await deferToThread(docker.start)
    assert await engine.list_networks()
