"""The life of a user's streaming proxy, whatever runs it, as its user sees it."""

from __future__ import annotations

import http.client
import json
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred

from tests.e2e.cluster import ChildProcess, Cluster, wait_until
from tests.fake_ollama import Script

CHAT = {"model": "llama3.2", "messages": [{"role": "user", "content": "hello"}]}
#: What a client sees whose answer broke off.
BROKEN = (http.client.IncompleteRead, ConnectionError)


async def start_proxy(cluster: Cluster, token: str) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Ask for the proxy of whoever has this token."""
    status, headers, body = await cluster.request("PUT", "/ctllm/proxy", token=token)
    return status, headers, json.loads(body)


async def proxy_state(cluster: Cluster, token: str) -> dict[str, Any]:
    """How the proxy of whoever has this token is."""
    _, _, body = await cluster.request("GET", "/ctllm/proxy", token=token)
    told: dict[str, Any] = json.loads(body)
    return told


async def is_reachable(cluster: Cluster, token: str) -> bool:
    """Whether a request gets to the desktop; 503 says not yet, 502 that a dying proxy had it."""
    status, headers, body = await cluster.request("GET", "/api/version", token=token)
    assert status in (200, 502) or (status == 503 and int(headers["retry-after"]) > 0), body
    return status == 200


async def start_stream(cluster: Cluster, token: str) -> Deferred[Any]:
    """An answer of which some lines have come, and no end is in sight."""
    cluster.ollama.script("/api/chat", Script(lines=100_000, line_interval=0.05))
    answer = Deferred.fromCoroutine(cluster.request("POST", "/api/chat", CHAT, token))
    await cluster.ollama.wait_for(lambda record: record.lines_sent > 3)
    return answer


async def assert_broken(response: Deferred[Any]) -> None:
    """An answer that ends soon, and not as if it were whole."""
    try:
        status, _, body = await response.addTimeout(10, reactor)
    except BROKEN:
        return
    raise AssertionError(f"status {status} and a clean end: {body[-200:]!r}")


def audit_records(cluster: Cluster) -> list[dict[str, Any]]:
    """The lines of the audit."""
    text = (cluster.state_dir("cloud") / "cloud" / "audit.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


async def start_with_desktop(cluster: Cluster, *options: str) -> ChildProcess:
    """A cloud, and alice's desktop connected to it."""
    cloud = await cluster.start_cloud(*options)
    cluster.ollama, ollama = cluster.start_fake_ollama("llama3.2")
    await cluster.start_desktop("alice", ollama)
    cluster.alice_token = await cluster.create_token("alice")
    await wait_until(lambda: is_reachable(cluster, cluster.alice_token), "the way to be open")
    return cloud
