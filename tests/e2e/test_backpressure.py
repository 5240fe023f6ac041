"""Large bodies and slow clients: no process buffers more than its flow-control windows."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread

from tests.e2e.cluster import Cluster
from tests.e2e.process_info import child_pids, linux_only
from tests.e2e.raw_client import RawClient
from tests.fake_ollama import Script

MB = 1 << 20
#: Bytes that are sent; the variable has megabytes: 2048 tests two gigabytes.
AMOUNT = int(os.environ.get("CTLLM_TEST_MEGABYTES", "64")) * MB
#: Bytes by which the memory of a process may grow.
MAX_GROWTH = 32 * MB
#: Seconds for which the slow client does not read.
STALL = float(os.environ.get("CTLLM_TEST_STALL", "10"))
CHAT = {"model": "llama3.2", "messages": [{"role": "user", "content": "hello"}]}


def memory(pid: int, field: str) -> int:
    """Return bytes of memory of a process: VmRSS is the present amount, VmHWM the peak."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (kilobytes,) = [line.split()[1] for line in lines if line.startswith(field + ":")]
    return int(kilobytes) * 1024


class Growth:
    """Measures how much the memory of the cluster's processes grows from now on."""

    def __init__(self, cluster: Cluster) -> None:
        cloud, desktop = cluster.processes[:2]
        (proxy,) = child_pids(cloud.pid)
        self._pids = {"cloud": cloud.pid, "desktop": desktop.pid, "proxy": proxy}
        self._before = {name: memory(pid, "VmRSS") for name, pid in self._pids.items()}

    def measure(self) -> dict[str, int]:
        peak = {name: memory(pid, "VmHWM") for name, pid in self._pids.items()}
        return {name: peak[name] - self._before[name] for name in peak}

    def check(self) -> None:
        growth = self.measure()
        print({name: f"{size / MB:.1f} MB" for name, size in growth.items()})
        assert max(growth.values()) < MAX_GROWTH, growth


def blocks(amount: int) -> Iterator[bytes]:
    for number in range(amount // MB):
        yield bytes([number % 256]) * MB


async def start(cluster: Cluster) -> Growth:
    await cluster.start_cloud()
    cluster.ollama, port = cluster.start_fake_ollama("llama3.2")
    await cluster.start_desktop("alice", port)
    cluster.api_key = await cluster.run_ctllm("alice", "keys", "add", "--scope=manage", "tests")
    await cluster.wait_for_api_key()
    return Growth(cluster)


def upload(cluster: Cluster, digest: str) -> bytes:
    client = RawClient(cluster.cloud_port)
    lines = [f"POST /api/blobs/sha256:{digest} HTTP/1.1", "Host: x", f"Content-Length: {AMOUNT}"]
    lines += [f"Authorization: Bearer {cluster.api_key}", "", ""]
    client.socket.sendall("\r\n".join(lines).encode())
    for data in blocks(AMOUNT):
        client.socket.sendall(data)
    return client.read_until(b"\r\n\r\n")


def download(cluster: Cluster, stall: float = 0.0) -> tuple[int, float]:
    """Read a chat to its end; return the number of bytes and the time of the end."""
    client = RawClient(cluster.cloud_port).send_request("POST", "/api/chat", cluster.api_key, CHAT)
    size, tail = 0, b""
    if stall:
        client.read_until(b"\r\n\r\n")
        time.sleep(stall)
    while not tail.endswith(b"\r\n0\r\n\r\n"):
        data = client.socket.recv(MB)
        assert data, tail
        size, tail = size + len(data), (tail + data)[-100:]
    client.socket.close()
    return size, time.monotonic()


@linux_only
@ensureDeferred
async def test_a_large_upload_arrives_without_being_buffered(cluster: Cluster) -> None:
    growth = await start(cluster)
    digest = hashlib.sha256()
    for data in blocks(AMOUNT):
        digest.update(data)
    response = await deferToThread(upload, cluster, digest.hexdigest())
    assert response.startswith(b"HTTP/1.1 201"), response
    [record] = [r for r in cluster.ollama.requests if r.path.startswith("/api/blobs")]
    assert (record.body_length, record.body_sha256) == (AMOUNT, digest.hexdigest())
    growth.check()


@linux_only
@ensureDeferred
async def test_a_large_response_arrives_without_being_buffered(cluster: Cluster) -> None:
    growth = await start(cluster)
    cluster.ollama.script("/api/chat", Script(size=AMOUNT, line_bytes=16_000, line_interval=0))
    size, _ = await deferToThread(download, cluster)
    assert size >= AMOUNT
    growth.check()


@linux_only
@ensureDeferred
async def test_a_stalled_client_does_not_delay_another(cluster: Cluster) -> None:
    """The other client reads its complete response meanwhile."""
    growth = await start(cluster)
    script = Script(size=8 * MB, line_bytes=16_000, line_interval=0)
    cluster.ollama.script("/api/chat", script)
    stalled = deferToThread(download, cluster, STALL)
    await cluster.ollama.wait_for(lambda record: record.lines_sent > 0)
    _, completed_at = await deferToThread(download, cluster)
    size, stalled_completed_at = await stalled
    assert completed_at < stalled_completed_at, "The client waited for the stalled one."
    assert size > 7 * MB
    growth.check()
