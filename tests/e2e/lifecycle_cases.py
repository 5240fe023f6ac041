"""The lifecycle of a user's streaming proxy as a client sees it, for tests of each spawner."""

from __future__ import annotations

import http.client
import json
import signal
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred

from tests.e2e.cluster import ChildProcess, Cluster, wait_until
from tests.fake_ollama import Script

CHAT = {"model": "llama3.2", "messages": [{"role": "user", "content": "hello"}]}
#: The exceptions of a client whose response is incomplete.
BROKEN = (http.client.IncompleteRead, ConnectionError)


async def start_proxy(cluster: Cluster, token: str) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Start the proxy of the token's user; return status, headers and body."""
    status, headers, body = await cluster.request("PUT", "/ctllm/proxy", token=token)
    return status, headers, json.loads(body)


async def proxy_state(cluster: Cluster, token: str) -> dict[str, Any]:
    """Return the state of the proxy of the token's user."""
    _, _, body = await cluster.request("GET", "/ctllm/proxy", token=token)
    state: dict[str, Any] = json.loads(body)
    return state


async def is_reachable(cluster: Cluster, token: str) -> bool:
    """Return whether a request reaches the desktop; until then the status is 503 or 502."""
    status, headers, body = await cluster.request("GET", "/api/version", token=token)
    assert status in (200, 502) or (status == 503 and int(headers["retry-after"]) > 0), body
    return status == 200


async def start_stream(cluster: Cluster, token: str) -> Deferred[Any]:
    """Start an endless response; wait until some lines are sent."""
    cluster.ollama.script("/api/chat", Script(lines=100_000, line_interval=0.05))
    response = Deferred.fromCoroutine(cluster.request("POST", "/api/chat", CHAT, token))
    await cluster.ollama.wait_for(lambda record: record.lines_sent > 3)
    return response


async def assert_broken(response: Deferred[Any], timeout: float = 10) -> None:
    """Assert that the response ends within `timeout` seconds and is incomplete."""
    try:
        status, _, body = await response.addTimeout(timeout, reactor)
    except BROKEN:
        return
    raise AssertionError(f"The response is complete, with status {status}: {body[-200:]!r}")


async def assert_stream_outlives(cluster: Cluster, cloud: ChildProcess) -> None:
    """Kill the cloud in the middle of alice's response, and assert that it is complete."""
    cluster.ollama.script("/api/chat", Script(lines=60, line_interval=0.05))
    request = cluster.request("POST", "/api/chat", CHAT, cluster.alice_token)
    response = Deferred.fromCoroutine(request)
    await cluster.ollama.wait_for(lambda record: record.lines_sent > 3)
    await cloud.stop(signal.SIGKILL)
    status, _, body = await response
    lines = body.splitlines()
    assert (status, len(lines), json.loads(lines[-1])["done"]) == (200, 61, True)


def audit_records(cluster: Cluster) -> list[dict[str, Any]]:
    """Return the records of the audit log."""
    text = (cluster.state_dir("cloud") / "cloud" / "audit.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


async def start_with_desktop(cluster: Cluster, *options: str) -> ChildProcess:
    """Start a cloud and a desktop of alice; wait until requests reach the desktop."""
    cloud = await cluster.start_cloud(*options)
    cluster.ollama, ollama = cluster.start_fake_ollama("llama3.2")
    await cluster.start_desktop("alice", ollama)
    cluster.alice_token = await cluster.create_token("alice")
    await wait_until(
        lambda: is_reachable(cluster, cluster.alice_token), "requests to reach the desktop"
    )
    return cloud
