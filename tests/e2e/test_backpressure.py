"""Much data, and readers that do not keep up: no process may hold more than its windows."""

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
#: How much is sent; set it to 2048 to see the same for two gigabytes.
AMOUNT = int(os.environ.get("CTLLM_TEST_MEGABYTES", "64")) * MB
#: The most that any process may grow by.
MOST = 32 * MB
#: How long the slow reader stands still; a minute shows the same.
STALL = float(os.environ.get("CTLLM_TEST_STALL", "10"))
CHAT = {"model": "llama3.2", "messages": [{"role": "user", "content": "hello"}]}


def resident(pid: int, what: str) -> int:
    """Bytes of memory of a process: VmRSS is what it has now, VmHWM the most it ever had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (found,) = [line.split()[1] for line in lines if line.startswith(what + ":")]
    return int(found) * 1024


class Growth:
    """How much the processes of a world grow from here on."""

    def __init__(self, cluster: Cluster) -> None:
        cloud, desktop = cluster.processes[:2]
        (proxy,) = child_pids(cloud.pid)
        self._pids = {"cloud": cloud.pid, "desktop": desktop.pid, "proxy": proxy}
        self._before = {name: resident(pid, "VmRSS") for name, pid in self._pids.items()}

    def __call__(self) -> dict[str, int]:
        most = {name: resident(pid, "VmHWM") for name, pid in self._pids.items()}
        return {name: most[name] - self._before[name] for name in most}

    def check(self) -> None:
        grown = self()
        print({name: f"{size / MB:.1f} MB" for name, size in grown.items()})
        assert max(grown.values()) < MOST, grown


def pieces(amount: int) -> Iterator[bytes]:
    for number in range(amount // MB):
        yield bytes([number % 256]) * MB


async def started(cluster: Cluster) -> Growth:
    await cluster.start_cloud()
    cluster.ollama, port = cluster.start_fake_ollama("llama3.2")
    await cluster.start_desktop("alice", port)
    cluster.api_key = await cluster.run_ctllm("alice", "keys", "add", "--manage", "tests")
    await cluster.wait_for_api_key()
    return Growth(cluster)


def upload(cluster: Cluster, digest: str) -> bytes:
    client = RawClient(cluster.cloud_port)
    lines = [f"POST /api/blobs/sha256:{digest} HTTP/1.1", "Host: x", f"Content-Length: {AMOUNT}"]
    lines += [f"Authorization: Bearer {cluster.api_key}", "", ""]
    client.socket.sendall("\r\n".join(lines).encode())
    for piece in pieces(AMOUNT):
        client.socket.sendall(piece)
    return client.read_until(b"\r\n\r\n")


def download(cluster: Cluster, stall: float = 0.0) -> tuple[int, float]:
    """Read a chat to its end: how many bytes of it came, and when it was whole."""
    client = RawClient(cluster.cloud_port).send_request("POST", "/api/chat", cluster.api_key, CHAT)
    got, tail = 0, b""
    if stall:
        client.read_until(b"\r\n\r\n")
        time.sleep(stall)
    while not tail.endswith(b"\r\n0\r\n\r\n"):
        piece = client.socket.recv(MB)
        assert piece, tail
        got, tail = got + len(piece), (tail + piece)[-100:]
    client.socket.close()
    return got, time.monotonic()


@linux_only
@ensureDeferred
async def test_a_large_upload(cluster: Cluster) -> None:
    """It arrives as it was sent, and passes through every process a little at a time."""
    growth = await started(cluster)
    hashed = hashlib.sha256()
    for piece in pieces(AMOUNT):
        hashed.update(piece)
    answer = await deferToThread(upload, cluster, hashed.hexdigest())
    assert answer.startswith(b"HTTP/1.1 201"), answer
    [record] = [r for r in cluster.ollama.requests if r.path.startswith("/api/blobs")]
    assert (record.body_length, record.body_sha256) == (AMOUNT, hashed.hexdigest())
    growth.check()


@linux_only
@ensureDeferred
async def test_a_large_answer(cluster: Cluster) -> None:
    """All of it comes, and no process keeps it."""
    growth = await started(cluster)
    cluster.ollama.script("/api/chat", Script(size=AMOUNT, line_bytes=16_000, line_interval=0))
    got, _ = await deferToThread(download, cluster)
    assert got >= AMOUNT
    growth.check()


@linux_only
@ensureDeferred
async def test_who_stalls_slows_nobody_else(cluster: Cluster) -> None:
    """A reader beside one that stands still has all of its answer meanwhile."""
    growth = await started(cluster)
    script = Script(size=8 * MB, line_bytes=16_000, line_interval=0)
    cluster.ollama.script("/api/chat", script)
    stalled = deferToThread(download, cluster, STALL)
    await cluster.ollama.wait_for(lambda record: record.lines_sent > 0)
    _, read = await deferToThread(download, cluster)
    got, last = await stalled
    assert read < last, "the one that read had to wait for the one that did not"
    assert got > 7 * MB
    growth.check()
