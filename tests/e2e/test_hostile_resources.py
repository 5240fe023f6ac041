"""File descriptors or disk space run out: the service recovers."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import IO

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread

from tests.e2e.cluster import ChildProcess, Cluster, wait_until
from tests.e2e.process_info import child_pids, linux_only, option
from tests.e2e.raw_client import RawClient
from tests.fake_ollama import Script

pytestmark = linux_only
CHAT = {"model": "llama3.2", "messages": [{"role": "user", "content": "hello"}]}


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used, in seconds."""
    used = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[11:13]
    return sum(map(int, used)) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_connections(connect: object, count: int) -> list[socket.socket]:
    """Open idle connections: `count`, or as many as the system allows."""
    connections = []
    for _ in range(count):
        try:
            connections.append(connect())  # type: ignore[operator]
        except OSError:
            break
    return connections


def fill_disk(file: IO[bytes]) -> None:
    """Write to a file until the disk is full."""
    with suppress(OSError):
        while True:
            file.write(bytes(512))


async def start_cluster(cluster: Cluster, *options: str) -> ChildProcess:
    """Start a cloud, an Ollama and alice's desktop; return the cloud."""
    cloud = await cluster.start_cloud(*options)
    cluster.ollama, port = cluster.start_fake_ollama("llama3.2")
    await cluster.start_desktop("alice", port)
    cluster.alice_token = await cluster.create_token("alice")
    return cloud


async def chat_succeeds(cluster: Cluster) -> bool:
    """Return whether a chat request succeeds."""
    try:
        status, _, _ = await cluster.request("POST", "/api/chat", CHAT, cluster.alice_token)
    except OSError:
        return False
    return status == 200


@pytest.mark.parametrize("which", ["cloud", "proxy"])
@ensureDeferred
async def test_recovers_from_running_out_of_file_descriptors(cluster: Cluster, which: str) -> None:
    """A response in progress continues and the process does not spin meanwhile."""
    # The proxy keeps root's user: root in a container may not limit another user's process.
    cloud = (await start_cluster(cluster, "--proxy-uids=off")).pid
    (proxy,) = child_pids(cloud)
    pid = cloud if which == "cloud" else proxy
    cluster.ollama.script("/api/generate", Script(lines=40, line_interval=0.2))
    client = await deferToThread(RawClient, cluster.cloud_port)
    request_body = {"model": "llama3.2", "prompt": "x"}
    await deferToThread(
        client.send_request, "POST", "/api/generate", cluster.alice_token, request_body
    )
    await deferToThread(client.read_lines, 2)
    open_now = max(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_now + 10, open_now + 10))

    def connect() -> socket.socket:
        if which == "cloud":
            return socket.create_connection(("127.0.0.1", cluster.cloud_port), timeout=5)
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(5)
        connection.connect(option(proxy, "socket"))
        return connection

    idle = await deferToThread(open_connections, connect, 300)
    before = cpu_seconds(pid)
    await deferToThread(client.read_lines, 25)
    assert cpu_seconds(pid) - before < 2.5, "the process spins"
    for each in idle:
        each.close()
    await wait_until(lambda: chat_succeeds(cluster), "requests to succeed again")
    await deferToThread(client.read_until, b"\r\n0\r\n\r\n")
    client.close()


@ensureDeferred
async def test_a_full_disk_refuses_logins_and_serves_chats(cluster: Cluster) -> None:
    """A login gets 503 and does not use up the invite."""
    folder = cluster.state_dir("cloud")
    folder.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "none", str(folder)]
    mounted = subprocess.run(mount)
    if mounted.returncode:
        pytest.skip("mount(2) is not permitted here: the full disk is not tested")
    try:
        await start_cluster(cluster)
        link = await cluster.create_invite("bob")
        invite = {"invite": link.partition("#invite=")[2], "client": "desktop"}
        with open(folder / "filler", "wb", buffering=0) as filler:
            fill_disk(filler)
        status, headers, body = await cluster.request("POST", "/ctllm/session", invite)
        assert status == 503 and b"Free some space on the disk" in body, body
        assert "retry-after" in headers
        assert await chat_succeeds(cluster)
        (folder / "filler").unlink()
        status, _, body = await cluster.request("POST", "/ctllm/session", invite)
        assert status == 201, body
    finally:
        await cluster.stop()
        cluster.processes.clear()
        cluster.ports.clear()
        subprocess.run(["umount", str(folder)], check=True)
