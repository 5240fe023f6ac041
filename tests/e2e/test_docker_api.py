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
    """Return the body of a request that creates an internal network."""
    return {
        "Name": name, "CheckDuplicate": True, "Driver": "bridge", "Internal": True,
        "IPAM": {"Config": [{"Subnet": subnet}]}, "Labels": LABEL,
    }  # fmt: skip


@pytest_twisted.async_yield_fixture()
async def engine(docker: Dockerd) -> AsyncIterator[DockerClient]:
    """A client; the containers and networks of the test are removed afterwards."""
    client = DockerClient(create_transport(reactor, docker.address), reactor)
    yield client
    await client.remove_container(NAME)
    for found in await client.list_networks("ctllm.instance=test"):
        await client.remove_network(found.id)


@ensureDeferred
async def test_a_container_is_created_started_stopped_and_removed(engine: DockerClient) -> None:
    """Starting and removing it twice is no error; the event stream reports each change."""
    events: list[DockerEvent] = []
    filters = {"type": ["container"], "label": ["ctllm.instance=test"]}
    following = Deferred.fromCoroutine(engine.follow_events(filters, time.time(), events.append))
    # The engine does not report when the subscription begins: cause events until one arrives.
    await wait_until(lambda: _cause_events(engine, events), "an event to arrive")
    container_id = await engine.create_container(NAME, BODY)
    assert (await engine.inspect_container(NAME)).state.status == "created"
    await engine.start_container(container_id)
    await engine.start_container(container_id)
    found = await engine.inspect_container(NAME)
    expected = (container_id, True, "test")
    assert (found.id, found.state.running, found.labels["ctllm.instance"]) == expected
    [listed] = await engine.list_containers("ctllm.instance=test")
    assert (listed.id, listed.name, listed.state) == (container_id, NAME, "running")
    assert await engine.list_containers("ctllm.instance=other") == []

    async def both_lines_logged() -> bool:
        return sorted((await engine.container_logs(NAME)).split()) == ["hello", "trouble"]

    await wait_until(both_lines_logged, "stdout and stderr in the log")
    await engine.stop_container(NAME, 0)
    assert (await engine.inspect_container(NAME)).state.exit_code == 137
    await engine.remove_container(NAME)
    await engine.remove_container(NAME)
    with pytest.raises(DockerNotFound):
        await engine.inspect_container(NAME)
    expected_actions = ["create", "start", "die", "destroy"]

    def actions() -> list[str]:
        own = [event.action for event in events if event.actor.id == container_id]
        return [action for action in own if action in expected_actions]

    await wait_until(lambda: actions() == expected_actions, "the events of the container")
    following.cancel()
    with pytest.raises(CancelledError):
        await following


async def _cause_events(engine: DockerClient, events: list[DockerEvent]) -> bool:
    """Create and remove a container; return whether any event has arrived."""
    await engine.create_container(NAME, BODY)
    await engine.remove_container(NAME)
    return bool(events)


@ensureDeferred
async def test_networks_are_created_listed_and_removed(engine: DockerClient) -> None:
    """An overlapping subnet and a name in use are rejected; removing twice is no error."""
    network_id = await engine.create_network(network("ctllm-net-a", "10.140.0.0/28"))
    assert (await engine.inspect_network("ctllm-net-a")).id == network_id
    [found] = await engine.list_networks("ctllm.instance=test")
    assert (found.subnets, found.internal) == (["10.140.0.0/28"], True)
    assert {"bridge", "ctllm-net-a"} <= {each.name for each in await engine.list_networks()}
    with pytest.raises(SubnetOverlap):
        await engine.create_network(network("ctllm-net-b", "10.140.0.0/24"))
    with pytest.raises(DockerConflict):
        await engine.create_network(network("ctllm-net-a", "10.140.1.0/28"))
    await engine.remove_network(network_id)
    await engine.remove_network(network_id)


@ensureDeferred
async def test_a_name_in_use_and_a_missing_image_are_errors(engine: DockerClient) -> None:
    """Each raises an exception of its own."""
    await engine.create_container(NAME, BODY)
    with pytest.raises(DockerConflict):
        await engine.create_container(NAME, BODY)
    with pytest.raises(ImageNotFound, match="make images"):
        await engine.create_container("ctllm-other", {**BODY, "Image": "ctllm-none:1"})
    with pytest.raises(ImageNotFound):
        await engine.inspect_image("ctllm-none:1")
    assert (await engine.inspect_image(BASE)).size > 1_000_000


@ensureDeferred
async def test_a_socket_without_permission_is_an_error_with_advice(
    docker: Dockerd, engine: DockerClient
) -> None:
    docker.folder.chmod(0o711)  # only the socket itself denies access
    os.seteuid(60123)
    try:
        with pytest.raises(DockerUnavailable, match="a user of the group docker"):
            await engine.negotiate_version()
    finally:
        os.seteuid(0)


@ensureDeferred
async def test_tls_requires_certificates_of_the_same_authority(
    docker: Dockerd, engine: DockerClient, tmp_path: Path
) -> None:
    """A certificate of another authority on either side fails with an error that says so."""
    trusted = DockerClient(
        create_transport(reactor, docker.tls_address, str(docker.certificates)), reactor
    )
    assert {each.name for each in await trusted.list_networks()} >= {"bridge", "none"}
    strangers = CertificateAuthority("strangers").issue(tmp_path / "strangers")
    rejected, rejecting = tmp_path / "rejected", tmp_path / "rejecting"
    shutil.copytree(strangers, rejected)
    shutil.copy(docker.certificates / "ca.pem", rejected)  # the engine rejects the client
    shutil.copytree(docker.certificates, rejecting)
    shutil.copy(strangers / "ca.pem", rejecting)  # the client rejects the engine
    for folder in (rejected, rejecting):
        untrusted = DockerClient(
            create_transport(reactor, docker.tls_address, str(folder)), reactor
        )
        with pytest.raises(DockerUnavailable, match="one of the certificates was rejected"):
            await untrusted.list_networks()


@ensureDeferred
async def test_the_client_works_again_after_an_engine_restart(
    docker: Dockerd, engine: DockerClient
) -> None:
    """While the engine is down, the event stream and other calls raise DockerUnavailable."""
    events: list[DockerEvent] = []
    following = Deferred.fromCoroutine(
        engine.follow_events({"type": ["container"]}, time.time(), events.append)
    )
    await wait_until(lambda: _cause_events(engine, events), "an event to arrive")
    await deferToThread(docker.stop)
    try:
        with pytest.raises(DockerUnavailable):
            await following
        with pytest.raises(DockerUnavailable, match="the socket does not exist"):
            await engine.list_networks()
    finally:
        await deferToThread(docker.start)
    assert await engine.list_networks()
