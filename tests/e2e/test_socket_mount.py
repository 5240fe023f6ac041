"""Containers without any network: reached by a socket that only the cloud can get at."""

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

from ctllm.cloud.docker_api import DockerClient as Client
from ctllm.cloud.docker_api import create_transport
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

NONE = "--docker-network=none"
#: Prints the interfaces and where a file can be made.
LOOK = """
import json, os
made = []
for top in ("/run/ctllm", "/tmp", "/run"):
    try:
        os.mkdir(f"{top}/attack")
    except OSError:
        continue
    made.append(top)
print(json.dumps([sorted(os.listdir("/sys/class/net")), made]))
"""


#: Puts a link to what is named in the place of the socket.
REPLACE = """
import json, os, sys
os.unlink("/run/ctllm/proxy.sock")
os.symlink(sys.argv[1], "/run/ctllm/proxy.sock")
print(json.dumps(os.getuid()))
"""
#: Runs a cloud as the user inside containers, for whom this machine need have no account.
AS_1001 = """
import os, sys
import ctllm.cloud.service, ctllm.tap
os.setgroups([])
os.setgid(1001)
os.setuid(1001)
ctllm.tap.run(sys.argv[1:])
"""
#: What the engine would do with the cloud's rights.
CREATE = {"Image": IMAGE, "HostConfig": {"Binds": ["/:/host"]}}


def folders(cluster: Cluster) -> list[Path]:
    """The folders of sockets."""
    return sorted((cluster.state_dir("cloud") / "sockets").iterdir())


@ensureDeferred
async def test_the_whole_way_without_a_network(
    engine: ContainerInspector, cluster: Cluster
) -> None:
    """It works; nothing but loopback is in there, and nothing can be made beside the socket."""
    await start_with_desktop(cluster, *engine.options, NONE)
    status, _, body = await cluster.request("POST", "/api/chat", CHAT, cluster.alice_token)
    assert status == 200 and json.loads(body.splitlines()[-1])["done"] is True
    (made,) = engine.containers()
    assert engine.all() == [engine.inspect(made)["Name"].strip("/")], "there is no network"
    interfaces, writable = engine.run_python(made, LOOK)
    assert "eth0" not in interfaces and writable == ["/tmp"]
    (folder,) = folders(cluster)
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


@ensureDeferred
async def test_ends_in_order(engine: ContainerInspector, cluster: Cluster) -> None:
    """Though it may not remove its socket; the cloud does."""
    await cluster.start_cloud(*engine.options, NONE)
    token = await cluster.create_token("alice")
    await start_proxy(cluster, token)

    since = time.time()
    status, _, _ = await cluster.request("DELETE", "/ctllm/proxy", token=token)
    assert status == 204 and engine.all() == [] and folders(cluster) == []
    assert engine.exit_codes(since) == ["0"]


@ensureDeferred
async def test_adopted_and_replaced(engine: ContainerInspector, cluster: Cluster) -> None:
    """A killed cloud's is adopted; with the other kind of network it is replaced, and back."""
    cloud = await start_with_desktop(cluster, *engine.options, NONE)
    first = engine.containers()
    await cloud.stop(signal.SIGKILL)
    cloud = await cluster.start_cloud(*engine.options, NONE)
    await wait_until(
        lambda: is_reachable(cluster, cluster.alice_token), "the desktop to return", 20
    )
    assert engine.containers() == first
    assert [line["event"] for line in audit_records(cluster)].count("proxy.adopted") == 1
    await cloud.stop()
    cloud = await cluster.start_cloud(*engine.options)
    await wait_until(
        lambda: is_reachable(cluster, cluster.alice_token), "the desktop to return", 20
    )
    assert engine.containers() != first and folders(cluster) == []
    assert [each.partition("-")[2][:4] for each in engine.all()] == ["net-", "prox"]
    await cloud.stop()
    await cluster.start_cloud(*engine.options, NONE)
    await wait_until(
        lambda: is_reachable(cluster, cluster.alice_token), "the desktop to return", 20
    )
    assert [each.partition("-")[2][:4] for each in engine.all()] == ["prox"]


@ensureDeferred
async def test_a_folder_that_was_never_sealed(engine: ContainerInspector, cluster: Cluster) -> None:
    """Of a cloud that ended while it started the container: the next one replaces that.

    What was put in the place of the socket meanwhile leads nobody to the engine.
    """
    cloud = await cluster.start_cloud(*engine.options, NONE)
    token = await cluster.create_token("alice")
    starting = Deferred.fromCoroutine(start_proxy(cluster, token))
    starting.addErrback(lambda reason: None)
    await wait_until(engine.containers, "the container to start")
    await cloud.stop()
    await starting
    (folder,) = folders(cluster)
    await wait_until((folder / "proxy.sock").is_socket, "the proxy to listen")
    folder.chmod(0o770)  # if the cloud was quick
    first = engine.containers()
    assert engine.run_python(first[0], REPLACE, str(engine.docker.socket)) == 1001
    assert (folder / "proxy.sock").is_socket(), "the link leads to the engine"

    await start_with_desktop(cluster, *engine.options, NONE)
    status, _, said = await cluster.request(
        "POST", "/containers/create", CREATE, cluster.alice_token
    )
    assert status not in (200, 201), said
    assert engine.containers() != first and len(engine.run("ps", "-aq").split()) == 1
    (folder,) = folders(cluster)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o550


@ensureDeferred
async def test_a_socket_that_is_replaced_while_the_cloud_runs(
    engine: ContainerInspector, cluster: Cluster
) -> None:
    """Though that cannot be: the next connection is to nobody, and the container is replaced."""
    await start_with_desktop(cluster, *engine.options, NONE)
    token = await cluster.create_token("alice", "desktop")
    first = engine.containers()
    (folder,) = folders(cluster)
    folder.chmod(0o770)
    engine.run_python(first[0], REPLACE, str(engine.docker.socket))
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
               "Sec-WebSocket-Key": "A" * 22 + "=="}  # fmt: skip
    status, headers, said = await cluster.request("GET", "/ws/tunnel", token=token, headers=upgrade)
    assert status == 503 and "docker" not in headers.get("server", "").lower(), said
    assert b"proxy.sock is not a socket" in said
    await wait_until(
        lambda: is_reachable(cluster, cluster.alice_token), "the desktop to return", 30
    )
    assert engine.containers() != first and len(engine.run("ps", "-aq").split()) == 1
    (death,) = [line for line in audit_records(cluster) if line["event"] == "proxy.died"]
    assert "is not a socket" in death["detail"]


@ensureDeferred
async def test_a_cloud_of_the_containers_user(cluster: Cluster, open_state: Path) -> None:
    """Does not start, and says what to do: containers would own their folders."""
    os.chown(open_state, 1001, 1001)
    told = [
        f"--state-dir={open_state}", f"--listen=127.0.0.1:{cluster.cloud_port}",
        "--metrics-listen=off",
        "--spawner=docker", NONE,
    ]  # fmt: skip
    program = cluster.start_process("cloud", "python", "-c", AS_1001, "cloud", *told)
    assert await program.exited == 1
    assert "the cloud runs as user 1001" in program.output
    assert "docker_network = bridge" in program.output and "Traceback" not in program.output


@pytest.fixture
def open_state() -> Iterator[Path]:
    """A folder that others than root can get to."""
    path = Path(tempfile.mkdtemp(prefix="ctllm-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@ensureDeferred
async def test_of_a_cloud_that_is_not_root(engine: ContainerInspector, open_state: Path) -> None:
    """It reaches the socket by its group, and nobody else gets as far."""
    user, group = 60123, 60124
    mounts = SocketMount(open_state, reactor)
    client = Client(create_transport(reactor, engine.docker.address), reactor)
    marks = CloudLabels(b"secret", "A" * 43)
    runtime: Any = DockerSpawner(client, reactor, IMAGE, marks, Proxy(), [mounts])
    mounts.check_host()
    proxy_id = "ctllm-proxy-" + "1" * 32
    os.setegid(group)  # what the cloud's would be; its folder is its own
    try:
        instance = await runtime.ensure_running(proxy_id)
    finally:
        os.setegid(0)
    os.chown(open_state / "sockets", user, group)
    path = instance.endpoint.removeprefix("unix:")

    def connects(*who: str) -> bool:
        program = "use Socket; socket(S, PF_UNIX, SOCK_STREAM, 0); exit(!connect(S, sockaddr_un($ARGV[0])))"  # noqa: E501
        argv = ["setpriv", *who, "--clear-groups", "perl", "-e", program, path]
        return subprocess.run(argv, check=False, capture_output=True).returncode == 0

    assert await deferToThread(connects, f"--reuid={user}", f"--regid={group}")
    assert not await deferToThread(connects, f"--reuid={user + 1}", f"--regid={group}")
    assert not await deferToThread(connects, f"--reuid={user + 1}", f"--regid={group + 1}")
    await runtime.remove(proxy_id)
    assert engine.all() == []
