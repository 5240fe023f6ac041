"""One user uploads more than a proxy may buffer: every request gets a response."""

from __future__ import annotations

import json
import resource
import socket
import threading
from collections import Counter
from contextlib import suppress
from typing import Any

from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread

from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.process_info import (
    child_pids,
    is_running,
    linux_only,
    option,
    proc_status,
    resident_megabytes,
)
from tests.e2e.raw_client import RawClient
from tests.e2e.test_hostile_resources import chat_succeeds, start_cluster
from tests.fake_ollama import Script

pytestmark = linux_only
MEMORY_LIMIT = 128 << 20
UPLOADS, UPLOAD_BYTES = 300, 1_000_000


class Uploads:
    """Many large requests at once, from threads; `statuses` counts the responses by status."""

    def __init__(self, port: int, token: str) -> None:
        self.statuses: Counter[int] = Counter()
        self.without_retry_after = 0
        messages = [{"role": "user", "content": "x" * UPLOAD_BYTES}]
        body = {"model": "llama3.2", "messages": messages, "stream": False}
        self._body = json.dumps(body).encode()
        self._head = (
            "POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {token}\r\nContent-Length: {len(self._body)}\r\n\r\n"
        ).encode()
        self._port = port

    def run(self, count: int) -> None:
        """Send all requests; return when each has a response or is closed."""
        connections = [
            socket.create_connection(("127.0.0.1", self._port), 120) for _ in range(count)
        ]
        threads = [
            threading.Thread(target=self._upload, args=(connection,)) for connection in connections
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _upload(self, connection: socket.socket) -> None:
        response = b""
        with connection:
            with suppress(OSError):  # refused while it is being sent; the response can be read
                connection.sendall(self._head)
                connection.sendall(self._body)
            with suppress(OSError):  # counted as status 0
                response = connection.recv(65536)
        code = int(response.split(b" ", 2)[1]) if response.startswith(b"HTTP/1.1 ") else 0
        self.statuses[code] += 1
        if code in (429, 503):
            self.without_retry_after += b"\r\nRetry-After: " not in response


async def read_health(proxy: int) -> dict[str, Any]:
    """Return a proxy's /health."""

    def request() -> bytes:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(option(proxy, "socket"))
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            response = b""
            while chunk := connection.recv(65536):
                response += chunk
            return response

    return json.loads((await deferToThread(request)).partition(b"\r\n\r\n")[2])


@ensureDeferred
async def test_uploads_beyond_the_memory_limit_are_refused(cluster: Cluster) -> None:
    """Each gets 200, 429 or 503; another stream continues; all memory is released at the end."""
    cloud = (await start_cluster(cluster, f"--max-memory-bytes={MEMORY_LIMIT}")).pid
    (proxy,) = child_pids(cloud)
    cluster.ollama.script("/api/generate", Script(lines=3000, line_interval=0.05))
    stream = await deferToThread(RawClient, cluster.cloud_port)
    request_body = {"model": "llama3.2", "prompt": "go on"}
    await deferToThread(
        stream.send_request, "POST", "/api/generate", cluster.alice_token, request_body
    )
    await deferToThread(stream.read_lines, 2)
    uploads = Uploads(cluster.cloud_port, cluster.alice_token)
    await deferToThread(uploads.run, UPLOADS)
    peak = int(proc_status(proxy)["VmHWM"].split()[0]) / 1024
    print(f"\n{dict(uploads.statuses)}, {peak:.0f} MB peak")
    assert set(uploads.statuses) <= {200, 429, 503}, uploads.statuses
    assert uploads.statuses[200] > 0 and uploads.statuses.total() == UPLOADS
    assert uploads.without_retry_after == 0
    assert peak * (1 << 20) < MEMORY_LIMIT
    assert child_pids(cloud) == [proxy], "the proxy was not replaced"
    await deferToThread(stream.read_lines, 50)
    assert (await read_health(proxy))["exchanges"] == 1
    stream.close()

    async def is_everything_released() -> bool:
        health = await read_health(proxy)
        _, _, page = await cluster.request("GET", "/metrics", port=cluster.metrics_port)
        return (
            health["exchanges"] == health["held_bytes"] == 0
            and b"\nctllm_requests_in_progress 0.0\n" in page
        )

    await wait_until(is_everything_released, "all memory to be released")
    assert await chat_succeeds(cluster)


@ensureDeferred
async def test_a_memory_error_ends_the_proxy(cluster: Cluster) -> None:
    """The log states the reason, and the next request starts another proxy."""
    # The proxy keeps root's user: root in a container may not limit another user's process.
    cloud = await start_cluster(cluster, "--proxy-uids=off")
    (proxy,) = child_pids(cloud.pid)
    data_bytes = int(proc_status(proxy)["VmData"].split()[0]) << 10
    _, hard = resource.prlimit(proxy, resource.RLIMIT_DATA)
    resource.prlimit(proxy, resource.RLIMIT_DATA, (data_bytes + (2 << 20), hard))
    uploads = Uploads(cluster.cloud_port, cluster.alice_token)
    running = deferToThread(uploads.run, 30)
    await wait_until(lambda: not is_running(proxy), "the proxy to end")
    await running
    await wait_until(lambda: "needed more memory than its limit" in cloud.output, "the reason")
    assert "this proxy exits, and the cloud starts another" in cloud.output
    await wait_until(lambda: chat_succeeds(cluster), "another proxy")
    (other,) = child_pids(cloud.pid)
    assert other != proxy and resident_megabytes(other) < 100
