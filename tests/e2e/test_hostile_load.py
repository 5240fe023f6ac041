"""Very many connections, and few that want very much: memory has a bound and others are served."""

from __future__ import annotations

import gzip
import json
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tests.e2e.cluster import BIN, ChildProcess, Cluster, wait_until
from tests.e2e.process_info import linux_only
from tests.e2e.raw_peers import RawCluster, start_raw_cluster
from tests.e2e.test_hostile_resources import open_connections, resident_bytes
from tests.fake_ollama import Script

pytestmark = linux_only
MB = 1 << 20
#: Connections that may wait at the cloud of these tests: a quarter of its --max-connections.
MAX_IDLE = 400


@pytest.fixture(scope="module")
def raw_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A line with a raw Ollama, whose cloud has little room."""
    cluster = Cluster(tmp_path_factory.mktemp("crowds"))
    options = (f"--max-connections={4 * MAX_IDLE}", "--max-requests-per-user=40")
    yield pytest_twisted.blockon(Deferred.fromCoroutine(start_raw_cluster(cluster, *options)))
    pytest_twisted.blockon(Deferred.fromCoroutine(cluster.stop()))


def open_file_count(pid: int) -> int:
    """Open files of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def check_health_responds(raw_cluster: RawCluster, seconds: float = 10.0) -> None:
    """Fails the test unless the cloud answers somebody else in time."""
    began = time.monotonic()
    connection = raw_cluster.entry_points["cloud"].connect()
    connection.settimeout(seconds)
    with connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 "), "an answer"
    assert time.monotonic() - began < seconds


def repeat_in_threads(action: Callable[[], object], seconds: float, threads: int = 4) -> int:
    """Do it again and again; how often."""
    end, completed = time.monotonic() + seconds, []

    def again() -> None:
        while time.monotonic() < end:
            with suppress(OSError):
                action()
                completed.append(1)

    running = [threading.Thread(target=again) for _ in range(threads)]
    for each in running:
        each.start()
    for each in running:
        each.join()
    return len(completed)


def send_without_reading(
    connection: socket.socket, data: bytes, seconds: float, max_bytes: int
) -> int:
    """Send again and again and read nothing; how much was taken."""
    connection.settimeout(1.0)
    sent, end = 0, time.monotonic() + seconds
    with suppress(OSError):
        while time.monotonic() < end and sent < max_bytes:
            sent += connection.send(data)
    return sent


@ensureDeferred
async def test_ten_thousand_connections_from_one_address(raw_cluster: RawCluster) -> None:
    """The oldest go, with 503; those who ask are served; the rest are closed within their time."""
    before = resident_bytes(raw_cluster.cloud.pid)
    connect = raw_cluster.entry_points["cloud"].connect
    trickling = await deferToThread(open_connections, connect, 50)
    idle = await deferToThread(open_connections, connect, 10_000)
    try:
        assert len(idle) == 10_000, "this machine allows too few open files: see ulimit -Hn"
        await deferToThread(check_health_responds, raw_cluster)
        await raw_cluster.check_serves()
        most = MAX_IDLE + 150
        await wait_until(
            lambda: open_file_count(raw_cluster.cloud.pid) < most, "the oldest to be closed"
        )
        grown = resident_bytes(raw_cluster.cloud.pid) - before
        print(f"\n10,000 connections: {grown / MB:.1f} MB")
        assert grown < 40 * MB
        trickling[0].settimeout(5)
        assert b" 503 " in await deferToThread(trickling[0].recv, 1000)
        trickling += await deferToThread(open_connections, connect, 100)
        for each in trickling[-100:-50]:
            each.sendall(b"GET / HTTP/1.1\r\nA: ")
        body = b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n"
        for each in trickling[-50:]:
            each.sendall(b"POST /ctllm/session HTTP/1.1\r\nHost: x\r\n" + body)
        for _ in range(45):
            if open_file_count(raw_cluster.cloud.pid) < 60:
                break
            for each in trickling[-100:]:
                with suppress(OSError):
                    each.send(b" ")
            await deferToThread(time.sleep, 1)
        assert open_file_count(raw_cluster.cloud.pid) < 60, "who only trickles is closed in time"
    finally:
        for each in idle + trickling:
            each.close()


@ensureDeferred
async def test_heads_faster_than_they_are_answered(raw_cluster: RawCluster) -> None:
    """They wait outside, where they cost nothing, and whoever asks meanwhile has an answer."""
    before = resident_bytes(raw_cluster.cloud.pid)
    large = b"GET /x HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 60_000 + b"\r\n\r\n"

    def hit_and_run() -> None:
        with raw_cluster.entry_points["cloud"].connect() as wire:
            wire.sendall(large)

    flood = deferToThread(repeat_in_threads, hit_and_run, 6.0)
    for _ in range(3):
        await deferToThread(check_health_responds, raw_cluster)
    count = await flood
    grown = resident_bytes(raw_cluster.cloud.pid) - before
    print(f"\n{count} heads of 60 kB: {grown / MB:.1f} MB")
    assert count > 1000 and grown < 100 * MB
    await raw_cluster.check_serves()


@pytest.mark.parametrize("target", ["/alive", "/ctllm/openapi.json"])
@ensureDeferred
async def test_questions_without_end_and_no_answer_read(
    raw_cluster: RawCluster, target: str
) -> None:
    """Neither questions nor answers are collected, here or further on."""
    door = raw_cluster.entry_points["cloud"]
    head = f"GET {target} HTTP/1.1\r\nHost: x\r\n".encode() + door.credential_header + b"\r\n\r\n"
    pids = (raw_cluster.cloud.pid, raw_cluster.desktop.pid)
    before = [resident_bytes(pid) for pid in pids]
    with await deferToThread(door.connect) as wire:
        await deferToThread(send_without_reading, wire, head * 1000, 6.0, 60 * MB)
        await deferToThread(check_health_responds, raw_cluster)
        grown = [resident_bytes(pid) - was for pid, was in zip(pids, before, strict=True)]
    print(f"\n{[f'{size / MB:.1f} MB' for size in grown]}")
    assert max(grown) < 12 * MB
    await raw_cluster.check_serves()


@ensureDeferred
async def test_one_user_leaves_room_for_others(raw_cluster: RawCluster) -> None:
    """Beyond a user's share 429 in the words of the path; others are served as ever."""
    door = raw_cluster.entry_points["cloud"]
    start = b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n" + door.credential_header
    held = await deferToThread(open_connections, door.connect, 40)
    try:
        for each in held:
            each.sendall(start + b"\r\n\r\n")

        async def full() -> bytes:
            heard = await door.send(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + door.credential_header
                                   + b"\r\nConnection: close\r\n\r\n")  # fmt: skip
            return heard if b" 429 " in heard else b""

        heard = await wait_until(full, "the share to be taken")
        assert b"Retry-After" in heard and b"40 requests of yours are under way" in heard
        bob = await raw_cluster.cluster.create_token("bob")
        status, _, _ = await raw_cluster.cluster.request("PUT", "/ctllm/proxy", token=bob)
        assert status == 200
        status, _, said = await raw_cluster.cluster.request("GET", "/api/tags", token=bob)
        assert status == 503 and b"None of your desktops" in said
    finally:
        for each in held:
            each.close()
    await wait_until(lambda: _is_serving(raw_cluster), "the share to be given back")


@ensureDeferred
async def test_one_key_at_1024_descriptors(cluster: Cluster) -> None:
    """300 requests at once of one user: 429 beyond a share, and no 503 for others."""
    twistd = [str(BIN / "twistd"), "-n", "--pidfile=", "ctllm", "cloud", "--metrics-listen=off"]
    options = [
        f"--state-dir={cluster.state_dir('cloud')}",
        f"--listen=127.0.0.1:{cluster.cloud_port}",
    ]
    argv = ["/bin/sh", "-c", 'ulimit -n 1024 && exec "$0" "$@"', *twistd, *options]
    cloud = ChildProcess("cloud", argv, cluster.environment())
    cluster.processes.append(cloud)
    await wait_until(lambda: cluster.is_cloud_healthy(cloud), "the cloud")
    cluster.ollama, port = cluster.start_fake_ollama("llama3.2")
    await cluster.start_desktop("alice", port)
    cluster.ollama.script("/api/chat", Script(delay_before_head=600))
    alice, bob = await cluster.create_token("alice"), await cluster.create_token("bob")
    ask = json.dumps({"model": "llama3.2", "messages": [{"role": "user", "content": "x"}]}).encode()
    raw = (
        f"POST /api/chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {alice}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(ask)}\r\n\r\n"
    ).encode() + ask
    wires: list[socket.socket] = []

    def flood() -> None:
        for _ in range(300):
            wires.append(socket.create_connection(("127.0.0.1", cluster.cloud_port), timeout=30))
            wires[-1].sendall(raw)

    def refused() -> int:
        ready, _, _ = select.select(wires, [], [], 0)
        return sum(b" 429 " in each.recv(100, socket.MSG_PEEK) for each in ready)

    try:
        await deferToThread(flood)
        await wait_until(lambda: refused() > 200, "most to be refused")
        for _ in range(20):
            status, _, said = await cluster.request("GET", "/ctllm/proxy", token=bob)
            assert status == 200, said
        status, headers, _ = await cluster.request("GET", "/api/tags", token=alice)
        assert status == 429 and "retry-after" in headers
        status, _, said = await cluster.request("PUT", "/ctllm/proxy", token=bob)
        assert status == 200, said
    finally:
        for each in wires:
            each.close()


async def _is_serving(raw_cluster: RawCluster) -> bool:
    status, _, _ = await raw_cluster.cluster.request(
        "POST", "/alive", b"x", raw_cluster.cluster.api_key
    )
    return status == 200


@ensureDeferred
async def test_a_compression_bomb_is_never_inflated(raw_cluster: RawCluster) -> None:
    """It arrives as it was sent, and nobody on the way grows by what is in it."""
    bomb = gzip.compress(bytes(256 * MB), 1)
    pids = (raw_cluster.cloud.pid, raw_cluster.desktop.pid)
    before = [resident_bytes(pid) for pid in pids]
    raw_cluster.ollama.requests.clear()
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    for path in ("/api/chat", "/v1/chat/completions"):
        status, _, _ = await raw_cluster.cluster.request(
            "POST", path, bomb, raw_cluster.cluster.api_key, headers
        )
        assert status == 200
    assert [raw.endswith(bomb) for raw in raw_cluster.ollama.requests] == [True, True]
    grown = [resident_bytes(pid) - was for pid, was in zip(pids, before, strict=True)]
    assert max(grown) < 20 * MB, grown
    at = "/ctllm/session"
    status, _, said = await raw_cluster.cluster.request(
        "POST", at, gzip.compress(b"{}"), headers=headers
    )
    assert status == 400 and "invalid" in json.loads(said)["error"]["message"]
