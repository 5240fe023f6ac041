"""A desktop that stays disconnected: clients get errors, and its state is discarded."""

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
#: For each path: the pattern of an error in the stream, and the mark of a complete response.
DIALECTS = {
    "/api/chat": (rb'\n{"error":"[^"]*"}\n$', b'"done":true'),
    "/v1/chat/completions": (rb'\n\ndata: {"error":{[^}]*}}\n\n$', b"[DONE]"),
    "/v1/messages": (rb'\n\nevent: error\ndata: {"type":"error",.*}\n\n$', b"message_stop"),
}


async def start_request(faulty: FaultyCluster, path: str, **headers: str) -> ResponseReader:
    body = {**CHAT, "max_tokens": 1000}
    reader = await send_request(
        faulty.client_relay.port, "POST", path, faulty.token, body, **headers
    )
    faulty.readers.append(reader)
    return reader


def announced_requests(hello: bytes) -> Any:
    """Return the requests that a bridge announces in its HELLO, from a masked WebSocket frame."""
    start = 4 if hello[1] & 0x7F == 126 else 2
    payload = apply_mask(hello[start + 4 :], hello[start : start + 4])
    return json.loads(payload[21 : 21 + int.from_bytes(payload[1:5], "big")])["exchanges"]


@ensureDeferred
async def test_a_desktop_lost_for_the_grace_time_fails_its_requests(faulty: FaultyCluster) -> None:
    """Each response ends with an error of its dialect, Ollama stops, and no state remains."""
    ollama, faulty.ollama_port = faulty.cluster.start_fake_ollama("llama3.2")
    timeouts = (
        "--reconnect-grace-seconds=3",
        "--ping-interval-seconds=1",
        "--ping-timeout-seconds=1",
    )
    await faulty.start(*timeouts)
    relay = await faulty.add_desktop(*timeouts)
    readers = []
    for path in DIALECTS:
        ollama.script(path, Script(lines=10_000, line_interval=0.05))
        readers.append(await start_request(faulty, path))
    readers.append(await start_request(faulty, "/api/chat", ctllm_resume="3"))
    waiting = await start_request(faulty, "/api/generate")
    for reader in readers:
        await wait_until(lambda reader=reader: len(reader.body) > 1000, "the responses to begin")
    relay.blackhole()
    began = reactor.seconds()
    for reader, (error, end) in zip(readers, DIALECTS.values(), strict=False):
        await reader.wait_closed(20)
        assert (reader.status, reader.complete) == (200, False)
        assert re.search(error, reader.body, re.DOTALL), bytes(reader.body[-500:])
        assert b"did not reconnect" in reader.body
        assert end not in reader.body
    print("errors after", round(reactor.seconds() - began, 1))
    await readers[-1].wait_closed(20)
    await waiting.wait_closed()
    records = [r for r in ollama.requests if r.path in DIALECTS]
    assert len(records) == 4
    await wait_until(
        lambda: all(r.closed_by == "client" for r in records), "Ollama's connections to close"
    )
    await wait_until(lambda: is_forgotten(faulty), "the proxy to forget the desktop")
    assert await faulty.metric("ctllm_requests_in_progress") == 0
    hellos: list[bytes] = []

    def record_hello(data: bytes) -> bytes:
        if data[0] == 0x82 and not hellos:
            hellos.append(data)
        return data

    relay.to_target.tamper = record_hello
    relay.reset()
    relay.accept_mode = "forward"
    await wait_until(lambda: hellos, "the desktop to reconnect")
    assert announced_requests(hellos[0]) == []


async def is_forgotten(faulty: FaultyCluster) -> bool:
    proxy = await faulty.proxy_status()
    return (proxy["exchanges"], proxy["desktops"]) == (0, 0)


@ensureDeferred
async def test_requests_for_an_offline_desktop_are_refused_at_once(cluster: Cluster) -> None:
    """With 503 and Retry-After in each dialect, within a second."""
    faulty = await FaultyCluster(cluster).start()
    await faulty.add_desktop()
    await faulty.desktops[0].stop()
    error_messages = {
        "/api/chat": lambda body: body["error"],
        "/v1/chat/completions": lambda body: body["error"]["message"],
        "/v1/messages": lambda body: (body["type"] == "error") and body["error"]["message"],
        "/v1/responses": lambda body: body["error"]["message"],
    }
    durations = []
    for path, message in list(error_messages.items()) * 25:
        began = reactor.seconds()
        reader = await (await start_request(faulty, path)).wait_closed()
        durations.append(reader.completed_at - began)
        assert (reader.status, reader.complete) == (503, True)
        assert int(reader.headers["retry-after"]) > 0
        assert "desktop" in message(json.loads(bytes(reader.body)))
    print(
        "median of",
        len(durations),
        "refusals:",
        round(1000 * statistics.median(durations), 1),
        "ms",
    )
    assert statistics.median(durations) < 1.0
