"""Containers without a network, which the cloud reaches through a mounted UNIX socket."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from ctllm.cloud.docker_api import DockerClient, create_transport
from ctllm.cloud.spawners.container_spec import CloudLabels
from ctllm.cloud.spawners.docker import DockerSpawner
from ctllm.cloud.spawners.socket_mount import SocketMount
from ctllm.config import Proxy
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

NO_NETWORK = "--docker-network=none"
#: Prints the network interfaces and the writable directories.
PROBE = """
import json, os
writable = []
for top in ("/run/ctllm", "/tmp", "/run"):
    try:
        os.mkdir(f"{top}/attack")
    except OSError:
        continue
    writable.append(top)
print(json.dumps([sorted(os.listdir("/sys/class/net")), writable]))
"""
#: Replaces the socket with a symbolic link to the path in its argument.
REPLACE_SOCKET = """
import json, os, sys
os.unlink("/run/ctllm/proxy.sock")
os.symlink(sys.argv[1], "/run/ctllm/proxy.sock")
print(json.dumps(os.getuid()))
"""
#: Runs a cloud as the user id of containers, which needs no account on this machine.
CLOUD_AS_1001 = """
import os, sys
import ctllm.cloud.service, ctllm.tap
os.setgroups([])
os.setgid(1001)
os.setuid(1001)
ctllm.tap.run(sys.argv[1:])
"""
#: The request by which an attacker would get the file system of the host.
CREATE_CONTAINER = {"Image": IMAGE, "HostConfig": {"Binds": ["/:/host"]}}


def folders(cluster: Cluster) -> list[Path]:
    """Return the directories of sockets."""
    return sorted((cluster.state_dir("cloud") / "sockets").iterdir())


@ensureDeferred
async def test_a_proxy_without_a_network_serves(
    engine: ContainerInspector, cluster: Cluster
) -> None:
    """It has no network interface, and only /tmp is writable, not the directory of the socket."""
    await start_with_desktop(cluster, *engine.options, NO_NETWORK)
    status, _, body = await cluster.request("POST", "/api/chat", CHAT, cluster.alice_token)
    assert status == 200 and json.loads(body.splitlines()[-1])["done"] is True
    (container,) = engine.containers()
    assert engine.all() == [engine.inspect(container)["Name"].strip("/")], "A network exists."
    interfaces, writable = engine.run_python(container, PROBE)
    assert "eth0" not in interfaces and writable == ["/tmp"]
    (folder,) = folders(cluster)
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


@ensureDeferred
async def test_a_stopped_proxy_exits_cleanly_and_the_cloud_removes_its_socket(
    engine: ContainerInspector, cluster: Cluster
) -> None:
    """The proxy itself may not remove its socket."""
    await cluster.start_cloud(*engine.options, NO_NETWORK)
    token = await cluster.create_token("alice")
    await start_proxy(cluster, token)

    since = time.time()
    status, _, _ = await cluster.request("DELETE", "/ctllm/proxy", token=token)
    assert status == 204 and engine.all() == [] and folders(cluster) == []
    assert engine.exit_codes(since) == ["0"]


@ensureDeferred
async def test_a_restarted_cloud_replaces_containers_only_if_the_network_setting_changed(
    engine: ContainerInspector, cluster: Cluster
) -> None:
    """With the same setting, it adopts the container that a killed cloud left."""
    cloud = await start_with_desktop(cluster, *engine.options, NO_NETWORK)
    first = engine.containers()
    await cloud.stop(signal.SIGKILL)
    cloud = await cluster.start_cloud(*engine.options, NO_NETWORK)
    await wait_until(
        lambda: is_reachable(cluster, cluster.alice_token), "the desktop to return", 20
    )
    assert engine.containers() == first
    assert [record["event"] for record in audit_records(cluster)].count("proxy.adopted") == 1
    await cloud.stop()
    cloud = await cluster.start_cloud(*engine.options)
    await wait_until(
        lambda: is_reachable(cluster, cluster.alice_token), "the desktop to return", 20
    )
    assert engine.containers() != first and folders(cluster) == []
    assert [each.partition("-")[2][:4] for each in engine.all()] == ["net-", "prox"]
    await cloud.stop()
    await cluster.start_cloud(*engine.options, NO_NETWORK)
    await wait_until(
        lambda: is_reachable(cluster, cluster.alice_token), "the desktop to return", 20
    )
    assert [each.partition("-")[2][:4] for each in engine.all()] == ["prox"]


@ensureDeferred
async def test_a_container_with_an_unsealed_directory_is_replaced(
    engine: ContainerInspector, cluster: Cluster
) -> None:
    """The cloud stopped while it started the container, which then replaced its socket.

    The link that it made leads no request to the engine.
    """
    cloud = await cluster.start_cloud(*engine.options, NO_NETWORK)
    token = await cluster.create_token("alice")
    starting = Deferred.fromCoroutine(start_proxy(cluster, token))
    starting.addErrback(lambda reason: None)
    await wait_until(engine.containers, "the container to start")
    await cloud.stop()
    await starting
    (folder,) = folders(cluster)
    await wait_until((folder / "proxy.sock").is_socket, "the proxy to listen")
    folder.chmod(0o770)  # in case the cloud already sealed it
    first = engine.containers()
    assert engine.run_python(first[0], REPLACE_SOCKET, str(engine.docker.socket)) == 1001
    assert (folder / "proxy.sock").is_socket(), "The link does not lead to the engine."

    await start_with_desktop(cluster, *engine.options, NO_NETWORK)
    status, _, body = await cluster.request(
        "POST", "/containers/create", CREATE_CONTAINER, cluster.alice_token
    )
    assert status not in (200, 201), body
    assert engine.containers() != first and len(engine.run("ps", "-aq").split()) == 1
    (folder,) = folders(cluster)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o550


@ensureDeferred
async def test_a_container_that_replaces_its_socket_is_replaced(
    engine: ContainerInspector, cluster: Cluster
) -> None:
    """The test unseals the directory; the cloud then detects the link and does not connect."""
    await start_with_desktop(cluster, *engine.options, NO_NETWORK)
    token = await cluster.create_token("alice", "desktop")
    first = engine.containers()
    (folder,) = folders(cluster)
    folder.chmod(0o770)
    engine.run_python(first[0], REPLACE_SOCKET, str(engine.docker.socket))
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
               "Sec-WebSocket-Key": "A" * 22 + "=="}  # fmt: skip
    status, headers, body = await cluster.request("GET", "/ws/tunnel", token=token, headers=upgrade)
    assert status == 503 and "docker" not in headers.get("server", "").lower(), body
    assert b"proxy.sock is not a socket" in body
    await wait_until(
        lambda: is_reachable(cluster, cluster.alice_token), "the desktop to return", 30
    )
    assert engine.containers() != first and len(engine.run("ps", "-aq").split()) == 1
    (death,) = [record for record in audit_records(cluster) if record["event"] == "proxy.died"]
    assert "is not a socket" in death["detail"]


@ensureDeferred
async def test_a_killed_container_starts_again_with_a_new_socket(
    engine: ContainerInspector, cluster: Cluster
) -> None:
    """Its directory is sealed again."""
    await start_with_desktop(cluster, *engine.options, NO_NETWORK)
    first = engine.containers()
    (folder,) = folders(cluster)
    before = (folder / "proxy.sock").stat().st_ino
    engine.run("kill", *first)
    await wait_until(
        lambda: is_reachable(cluster, cluster.alice_token), "the desktop to return", 30
    )
    assert engine.containers() == first and folders(cluster) == [folder]
    assert (folder / "proxy.sock").stat().st_ino != before
    assert stat.S_IMODE(folder.stat().st_mode) == 0o550


@ensureDeferred
async def test_a_cloud_with_the_user_id_of_containers_does_not_start(
    cluster: Cluster, open_state: Path
) -> None:
    """Containers would own the directories of their sockets; the message says what to do."""
    os.chown(open_state, 1001, 1001)
    options = [
        f"--state-dir={open_state}", f"--listen=127.0.0.1:{cluster.cloud_port}",
        "--metrics-listen=off",
        "--spawner=docker", NO_NETWORK,
    ]  # fmt: skip
    program = cluster.start_process("cloud", "python", "-c", CLOUD_AS_1001, "cloud", *options)
    assert await program.exited == 1
    assert "the cloud runs as user 1001" in program.output
    assert "docker_network = bridge" in program.output and "Traceback" not in program.output


@pytest.fixture
def open_state() -> Iterator[Path]:
    """A directory that users other than root can enter."""
    path = Path(tempfile.mkdtemp(prefix="ctllm-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@ensureDeferred
async def test_only_the_user_of_the_cloud_can_connect_to_a_socket(
    engine: ContainerInspector, open_state: Path
) -> None:
    """A cloud that is not root has access through its group."""
    user, group = 60123, 60124
    mounts = SocketMount(open_state, reactor)
    client = DockerClient(create_transport(reactor, engine.docker.address), reactor)
    labels = CloudLabels(b"secret", "A" * 43)
    spawner: Any = DockerSpawner(client, reactor, IMAGE, labels, Proxy(), [mounts])
    mounts.check_host()
    proxy_id = "ctllm-proxy-" + "1" * 32
    os.setegid(group)  # the group of the cloud, whose user owns the directory
    try:
        instance = await spawner.ensure_running(proxy_id)
    finally:
        os.setegid(0)
    os.chown(open_state / "sockets", user, group)
    path = instance.endpoint.removeprefix("unix:")

    def can_connect(*identity: str) -> bool:
        program = "use Socket; socket(S, PF_UNIX, SOCK_STREAM, 0); exit(!connect(S, sockaddr_un($ARGV[0])))"  # noqa: E501
        argv = ["setpriv", *identity, "--clear-groups", "perl", "-e", program, path]
        return subprocess.run(argv, check=False, capture_output=True).returncode == 0

    assert await deferToThread(can_connect, f"--reuid={user}", f"--regid={group}")
    assert not await deferToThread(can_connect, f"--reuid={user + 1}", f"--regid={group}")
    assert not await deferToThread(can_connect, f"--reuid={user + 1}", f"--regid={group + 1}")
    await spawner.remove(proxy_id)
    assert engine.all() == []
