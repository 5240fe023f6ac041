"""Floods of connections and of requests: memory is bounded and other clients are served."""

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

from tests.e2e.cluster import BIN, FRONT, ChildProcess, Cluster, wait_until
from tests.e2e.process_info import linux_only
from tests.e2e.raw_peers import RawCluster, start_raw_cluster
from tests.e2e.test_hostile_resources import open_connections, resident_bytes
from tests.fake_ollama import Script

pytestmark = linux_only
MB = 1 << 20
#: The idle connections that the cloud of these tests allows: a quarter of --max-connections.
MAX_IDLE = 400


@pytest.fixture(scope="module")
def raw_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cluster with a raw Ollama, whose cloud allows few connections."""
    cluster = Cluster(tmp_path_factory.mktemp("crowds"))
    options = (f"--max-connections={4 * MAX_IDLE}", "--max-requests-per-user=40")
    yield pytest_twisted.blockon(Deferred.fromCoroutine(start_raw_cluster(cluster, *options)))
    pytest_twisted.blockon(Deferred.fromCoroutine(cluster.stop()))


def open_file_count(pid: int) -> int:
    """Return how many files a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def check_health_responds(raw_cluster: RawCluster, seconds: float = 10.0) -> None:
    """Fail the test unless the cloud responds to another client within `seconds`."""
    began = time.monotonic()
    connection = raw_cluster.entry_points["cloud"].connect()
    connection.settimeout(seconds)
    with connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 "), "no response"
    assert time.monotonic() - began < seconds


def repeat_in_threads(action: Callable[[], object], seconds: float, threads: int = 4) -> int:
    """Repeat `action` in each thread for `seconds`; return how often it succeeded."""
    end, completed = time.monotonic() + seconds, []

    def repeat() -> None:
        while time.monotonic() < end:
            with suppress(OSError):
                action()
                completed.append(1)

    running = [threading.Thread(target=repeat) for _ in range(threads)]
    for each in running:
        each.start()
    for each in running:
        each.join()
    return len(completed)


def send_without_reading(
    connection: socket.socket, data: bytes, seconds: float, max_bytes: int
) -> int:
    """Send `data` repeatedly and read nothing; return how many bytes were accepted."""
    connection.settimeout(1.0)
    sent, end = 0, time.monotonic() + seconds
    with suppress(OSError):
        while time.monotonic() < end and sent < max_bytes:
            sent += connection.send(data)
    return sent


@ensureDeferred
async def test_ten_thousand_idle_connections_do_not_block_active_clients(
    raw_cluster: RawCluster,
) -> None:
    """The oldest are closed with 503; clients that send too slowly are closed by the timeouts."""
    before = resident_bytes(raw_cluster.cloud.pid)
    connect = raw_cluster.entry_points["cloud"].connect
    trickling = await deferToThread(open_connections, connect, 50)
    idle = await deferToThread(open_connections, connect, 10_000)
    try:
        assert len(idle) == 10_000, "this machine allows too few open files: see ulimit -Hn"
        await deferToThread(check_health_responds, raw_cluster)
        await raw_cluster.check_serves()
        max_open = MAX_IDLE + 150
        await wait_until(
            lambda: open_file_count(raw_cluster.cloud.pid) < max_open, "the oldest to be closed"
        )
        grown = resident_bytes(raw_cluster.cloud.pid) - before
        print(f"\n10,000 connections: {grown / MB:.1f} MB")
        assert grown < 40 * MB
        if FRONT == "cloud":  # nginx keeps idle connections itself, for 20 s
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
        assert open_file_count(raw_cluster.cloud.pid) < 60, "slow senders are not closed in time"
    finally:
        for each in idle + trickling:
            each.close()


@ensureDeferred
async def test_a_flood_of_large_heads_does_not_delay_other_clients(raw_cluster: RawCluster) -> None:
    """Heads over the budget stay unread in the kernel's socket buffers."""
    before = resident_bytes(raw_cluster.cloud.pid)
    large = b"GET /x HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 60_000 + b"\r\n\r\n"

    def send_head_and_close() -> None:
        with raw_cluster.entry_points["cloud"].connect() as wire:
            wire.sendall(large)

    flood = deferToThread(repeat_in_threads, send_head_and_close, 6.0)
    for _ in range(3):
        await deferToThread(check_health_responds, raw_cluster)
    count = await flood
    grown = resident_bytes(raw_cluster.cloud.pid) - before
    print(f"\n{count} heads of 60 kB: {grown / MB:.1f} MB")
    assert count > 1000 and grown < 100 * MB
    await raw_cluster.check_serves()


@pytest.mark.parametrize("target", ["/alive", "/ctllm/openapi.json"])
@ensureDeferred
async def test_pipelined_requests_whose_responses_are_not_read_are_not_buffered(
    raw_cluster: RawCluster, target: str
) -> None:
    """Neither the cloud nor the desktop grows."""
    entry_point = raw_cluster.entry_points["cloud"]
    head = (
        f"GET {target} HTTP/1.1\r\nHost: x\r\n".encode()
        + entry_point.credential_header
        + b"\r\n\r\n"
    )
    pids = (raw_cluster.cloud.pid, raw_cluster.desktop.pid)
    before = [resident_bytes(pid) for pid in pids]
    with await deferToThread(entry_point.connect) as wire:
        await deferToThread(send_without_reading, wire, head * 1000, 6.0, 60 * MB)
        await deferToThread(check_health_responds, raw_cluster)
        grown = [resident_bytes(pid) - was for pid, was in zip(pids, before, strict=True)]
    print(f"\n{[f'{size / MB:.1f} MB' for size in grown]}")
    assert max(grown) < 12 * MB
    await raw_cluster.check_serves()


@ensureDeferred
async def test_requests_over_a_users_limit_get_429_and_others_are_served(
    raw_cluster: RawCluster,
) -> None:
    """The error has the format of the path's API."""
    entry_point = raw_cluster.entry_points["cloud"]
    start = (
        b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n" + entry_point.credential_header
    )
    open_requests = await deferToThread(open_connections, entry_point.connect, 40)
    try:
        for each in open_requests:
            each.sendall(start + b"\r\n\r\n")

        async def refused() -> bytes:
            head = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            response = await entry_point.send(head + entry_point.credential_header + b"\r\n\r\n")
            return response if b" 429 " in response else b""

        response = await wait_until(refused, "the limit to be reached")
        assert b"Retry-After" in response and b"40 of your requests are in progress" in response
        bob = await raw_cluster.cluster.create_token("bob")
        status, _, _ = await raw_cluster.cluster.request("PUT", "/ctllm/proxy", token=bob)
        assert status == 200
        status, _, response_body = await raw_cluster.cluster.request("GET", "/api/tags", token=bob)
        assert status == 503 and b"None of your desktops" in response_body
    finally:
        for each in open_requests:
            each.close()
    await wait_until(lambda: _is_serving(raw_cluster), "requests to succeed again")


@pytest.mark.skipif(FRONT == "nginx", reason="its requests take no descriptors of the cloud")
@ensureDeferred
async def test_one_user_cannot_exhaust_1024_file_descriptors(cluster: Cluster) -> None:
    """Of 300 concurrent requests most get 429; another user gets no 503."""
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
    body = json.dumps(
        {"model": "llama3.2", "messages": [{"role": "user", "content": "x"}]}
    ).encode()
    raw = (
        f"POST /api/chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {alice}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    connections: list[socket.socket] = []

    def flood() -> None:
        for _ in range(300):
            connections.append(
                socket.create_connection(("127.0.0.1", cluster.cloud_port), timeout=30)
            )
            connections[-1].sendall(raw)

    def refused_count() -> int:
        ready, _, _ = select.select(connections, [], [], 0)
        return sum(b" 429 " in each.recv(100, socket.MSG_PEEK) for each in ready)

    try:
        await deferToThread(flood)
        await wait_until(lambda: refused_count() > 200, "most to be refused")
        for _ in range(20):
            status, _, response_body = await cluster.request("GET", "/ctllm/proxy", token=bob)
            assert status == 200, response_body
        status, headers, _ = await cluster.request("GET", "/api/tags", token=alice)
        assert status == 429 and "retry-after" in headers
        status, _, response_body = await cluster.request("PUT", "/ctllm/proxy", token=bob)
        assert status == 200, response_body
    finally:
        for each in connections:
            each.close()


async def _is_serving(raw_cluster: RawCluster) -> bool:
    status, _, _ = await raw_cluster.cluster.request(
        "POST", "/alive", b"x", raw_cluster.cluster.api_key
    )
    return status == 200


@ensureDeferred
async def test_a_compression_bomb_is_never_inflated(raw_cluster: RawCluster) -> None:
    """It is relayed as it is, and neither cloud nor desktop grows by its content."""
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
    path = "/ctllm/session"
    status, _, response_body = await raw_cluster.cluster.request(
        "POST", path, gzip.compress(b"{}"), headers=headers
    )
    assert status == 400 and "invalid" in json.loads(response_body)["error"]["message"]
