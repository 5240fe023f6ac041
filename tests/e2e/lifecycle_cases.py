"""The life of a user's streaming proxy, whatever runs it, as its user sees it."""

from __future__ import annotations

import http.client
import json
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred

from tests.e2e.cluster import Program, World, until
from tests.fake_ollama import Script

CHAT = {"model": "llama3.2", "messages": [{"role": "user", "content": "hello"}]}
#: What a client sees whose answer broke off.
BROKEN = (http.client.IncompleteRead, ConnectionError)


async def start(world: World, token: str) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Ask for the proxy of whoever has this token."""
    status, headers, body = await world.http("PUT", "/ctllm/proxy", token=token)
    return status, headers, json.loads(body)


async def state(world: World, token: str) -> dict[str, Any]:
    """How the proxy of whoever has this token is."""
    _, _, body = await world.http("GET", "/ctllm/proxy", token=token)
    told: dict[str, Any] = json.loads(body)
    return told


async def works(world: World, token: str) -> bool:
    """Whether a request gets to the desktop; 503 says not yet, 502 that a dying proxy had it."""
    status, headers, body = await world.http("GET", "/api/version", token=token)
    assert status in (200, 502) or (status == 503 and int(headers["retry-after"]) > 0), body
    return status == 200


async def streaming(world: World, token: str) -> Deferred[Any]:
    """An answer of which some lines have come, and no end is in sight."""
    assert world.ollama is not None
    world.ollama.script("/api/chat", Script(lines=100_000, line_interval=0.05))
    answer = Deferred.fromCoroutine(world.http("POST", "/api/chat", CHAT, token))
    await world.ollama.wait_for(lambda record: record.lines_sent > 3)
    return answer


async def broken(answer: Deferred[Any]) -> None:
    """An answer that ends soon, and not as if it were whole."""
    try:
        status, _, body = await answer.addTimeout(10, reactor)
    except BROKEN:
        return
    raise AssertionError(f"status {status} and a clean end: {body[-200:]!r}")


def audit(world: World) -> list[dict[str, Any]]:
    """The lines of the audit."""
    text = (world.state("cloud") / "cloud" / "audit.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


async def with_desktop(world: World, *options: str) -> Program:
    """A cloud, and alice's desktop connected to it."""
    cloud = await world.cloud(*options)
    world.ollama, ollama = world.start_ollama("llama3.2")
    await world.desktop("alice", ollama)
    world.alice = await world.token("alice")
    await until(lambda: works(world, world.alice), "the way to be open")
    return cloud
