"""A desktop that stays away, or is not there: clients hear so, and nothing is left of it."""

from __future__ import annotations

import json
import re
import statistics
from typing import Any

from pytest_twisted import ensureDeferred
from twisted.internet import reactor

from ctllm.fastpath.websocket_mask import apply_mask
from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.faulty_cluster import FaultyCluster, ResponseReader, send_request
from tests.fake_ollama import Script

CHAT = {"model": "llama3.2", "messages": [{"role": "user", "content": "hi"}], "stream": True}
#: What each dialect is asked, how its errors look, and what it must not say where none is due.
DIALECTS = {
    "/api/chat": (rb'\n{"error":"[^"]*"}\n$', b'"done":true'),
    "/v1/chat/completions": (rb'\n\ndata: {"error":{[^}]*}}\n\n$', b"[DONE]"),
    "/v1/messages": (rb'\n\nevent: error\ndata: {"type":"error",.*}\n\n$', b"message_stop"),
}


async def asked(faulty: FaultyCluster, path: str, **headers: str) -> ResponseReader:
    body = {**CHAT, "max_tokens": 1000}
    reader = await send_request(
        faulty.client_relay.port, "POST", path, faulty.token, body, **headers
    )
    faulty.readers.append(reader)
    return reader


def held_by(hello: bytes) -> Any:
    """The exchanges that a bridge says it holds, in the masked frame with its HELLO."""
    start = 4 if hello[1] & 0x7F == 126 else 2
    payload = apply_mask(hello[start + 4 :], hello[start : start + 4])
    return json.loads(payload[21 : 21 + int.from_bytes(payload[1:5], "big")])["exchanges"]


@ensureDeferred
async def test_gone_for_longer_than_the_grace_time(faulty: FaultyCluster) -> None:
    """An error in each dialect and no end; generation is ended; nothing stays in any memory."""
    ollama, faulty.ollama_port = faulty.cluster.start_fake_ollama("llama3.2")
    quick = ("--reconnect-grace-seconds=3", "--ping-interval-seconds=1", "--ping-timeout-seconds=1")
    await faulty.start(*quick)
    wire = await faulty.add_desktop(*quick)
    readers = []
    for path in DIALECTS:
        ollama.script(path, Script(lines=10_000, line_interval=0.05))
        readers.append(await asked(faulty, path))
    readers.append(await asked(faulty, "/api/chat", ctllm_resume="3"))
    waiting = await asked(faulty, "/api/generate")
    for reader in readers:
        await wait_until(lambda reader=reader: len(reader.body) > 1000, "the answers to begin")
    wire.blackhole()
    began = reactor.seconds()
    for reader, (error, end) in zip(readers, DIALECTS.values(), strict=False):
        await reader.wait_closed(20)
        assert (reader.status, reader.complete) == (200, False)
        assert re.search(error, reader.body, re.DOTALL), bytes(reader.body[-500:])
        assert b"did not reconnect" in reader.body
        assert end not in reader.body
    print("clients heard after", round(reactor.seconds() - began, 1))
    await readers[-1].wait_closed(20)
    await waiting.wait_closed()
    records = [r for r in ollama.requests if r.path in DIALECTS]
    assert len(records) == 4
    await wait_until(
        lambda: all(r.closed_by == "client" for r in records), "generation to be ended"
    )
    await wait_until(lambda: gone(faulty), "the proxy to forget it")
    assert await faulty.metric("ctllm_requests_in_progress") == 0
    hellos: list[bytes] = []

    def watch(data: bytes) -> bytes:
        if data[0] == 0x82 and not hellos:
            hellos.append(data)
        return data

    wire.to_target.tamper = watch
    wire.reset()
    wire.accept_mode = "forward"
    await wait_until(lambda: hellos, "the desktop to be back")
    assert held_by(hellos[0]) == []


async def gone(faulty: FaultyCluster) -> bool:
    proxy = await faulty.proxy_status()
    return (proxy["exchanges"], proxy["desktops"]) == (0, 0)


@ensureDeferred
async def test_an_offline_desktop_is_known_at_once(cluster: Cluster) -> None:
    """503 with Retry-After in each dialect, in milliseconds, whether it was ever there or not."""
    faulty = await FaultyCluster(cluster).start()
    await faulty.add_desktop()
    await faulty.desktops[0].stop()
    told = {
        "/api/chat": lambda body: body["error"],
        "/v1/chat/completions": lambda body: body["error"]["message"],
        "/v1/messages": lambda body: (body["type"] == "error") and body["error"]["message"],
        "/v1/responses": lambda body: body["error"]["message"],
    }
    took = []
    for path, message in list(told.items()) * 25:
        began = reactor.seconds()
        reader = await (await asked(faulty, path)).wait_closed()
        took.append(reader.completed_at - began)
        assert (reader.status, reader.complete) == (503, True)
        assert int(reader.headers["retry-after"]) > 0
        assert "desktop" in message(json.loads(bytes(reader.body)))
    print("median of", len(took), "refusals:", round(1000 * statistics.median(took), 1), "ms")
    assert statistics.median(took) < 1.0
