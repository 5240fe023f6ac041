"""A client that leaves, however and whenever it does: Ollama's connection closes at once."""

from __future__ import annotations

import json
import select
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from tests.e2e.chunk_upstream import ChunkRequest, ChunkUpstream
from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.raw_client import RawClient, parse_chunked_body
from tests.fake_ollama import Record, Script

T = TypeVar("T")
CHAT = {"model": "llama3.2", "messages": [{"role": "user", "content": "hello"}]}
BLOB = "/api/blobs/sha256:" + "0" * 64
#: Seconds: longer than any test waits.
LONG = 300.0
#: Seconds within which Ollama's connection is to be closed.
SOON = 1.0


def close(client: RawClient) -> None:
    """In order."""
    client.socket.close()


def reset(client: RawClient) -> None:
    """As when a process is killed that had not read everything, or a network says no."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.socket.close()


def half_close(client: RawClient) -> None:
    """Say no more, though still listening: it counts as leaving, as it does to Ollama itself."""
    client.socket.shutdown(socket.SHUT_WR)


Way = Callable[[RawClient], None]
ways = pytest.mark.parametrize("way", [close, reset, half_close], ids=lambda way: way.__name__)


@pytest.fixture(autouse=True)
def fresh(shared: Cluster) -> None:
    shared.ollama.reset()


async def thread(work: Callable[..., T], *arguments: Any) -> T:
    return await deferToThread(work, *arguments)


async def connected(port: int) -> RawClient:
    return await thread(RawClient, port)


def upload(cluster: Cluster, client: RawClient, sent: int, length: int, path: str = BLOB) -> None:
    """Begin an upload of `length` bytes, and send so many of them."""
    client.socket.sendall(
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {cluster.api_key}\r\n"
        f"Content-Length: {length}\r\n\r\n".encode()
        + b"x" * sent
    )


async def seen(cluster: Cluster, path: str = "/api/chat", count: int = 1) -> list[Record]:
    """The requests for `path` that the fake Ollama has, once there are `count`."""

    def those() -> list[Record]:
        return [record for record in cluster.ollama.requests if record.path == path]

    await wait_until(lambda: len(those()) >= count, f"{count} requests for {path}")
    return those()


async def left(record: Record, began: float) -> None:
    """Assert that Ollama's connection was closed soon after `began`."""
    await wait_until(lambda: record.closed_by, "the connection to Ollama to close", 10)
    assert record.closed_by == "client"
    assert record.closed_at is not None
    assert record.closed_at - began < SOON


PHASES = {
    "queued": (Script(delay_before_head=LONG), CHAT),
    "loading": (Script(load_seconds=LONG), CHAT),
    "streaming": (Script(lines=10_000, line_interval=0.02), CHAT),
    "silent in the stream": (Script(lines=10, pause_after=(2, LONG)), CHAT),
    "not streaming": (Script(load_seconds=LONG), {**CHAT, "stream": False}),
}


@ways
@pytest.mark.parametrize("phase", PHASES)
@ensureDeferred
async def test_while_it_is_answered(shared: Cluster, phase: str, way: Way) -> None:
    """Queued, while a model loads, in the stream or waiting for an answer that does not."""
    script, body = PHASES[phase]
    shared.ollama.script("/api/chat", script)
    client = await connected(shared.cloud_port)
    client.send_request("POST", "/api/chat", shared.api_key, body)
    [record] = await seen(shared)
    if "stream" in phase and phase != "not streaming":
        await thread(client.read_lines, 2)
    await wait_until(lambda: record.phase != "receiving", "the work to begin")
    began = reactor.seconds()
    way(client)
    await left(record, began)
    client.close()


@ways
@ensureDeferred
async def test_while_it_uploads(shared: Cluster, way: Way) -> None:
    """Half a blob, and then nothing more."""
    client = await connected(shared.cloud_port)
    upload(shared, client, 100_000, 1_000_000)
    [record] = await seen(shared, BLOB)
    await deferLater(reactor, 0.2)
    assert record.closed_by is None
    began = reactor.seconds()
    way(client)
    await left(record, began)
    client.close()


def hung_up(asked: ChunkRequest) -> bool:
    """Whether the desktop closed its connection, though what it sent is still to be read."""
    looking = select.poll()
    looking.register(asked.transport.fileno(), select.POLLRDHUP)
    return bool(looking.poll(0))


def unread(client: RawClient) -> bool:
    """Whether much of what it sent has reached the cloud's machine, and nobody there reads it."""
    ours, theirs = (name[1] for name in (client.socket.getsockname(), client.socket.getpeername()))
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        if int(local[9:], 16) == theirs and int(remote[9:], 16) == ours:
            return int(queues[9:], 16) > 32_768
    raise AssertionError("the connection is gone")


@ensureDeferred
async def test_while_its_upload_is_stalled(cluster: Cluster) -> None:
    """Ollama reads nothing, so neither does anybody on the way; that the client left is seen."""
    ollama = ChunkUpstream()
    cluster.ports.append(ollama)
    await cluster.start_cloud()
    await cluster.start_desktop("alice", ollama.port)
    cluster.api_key = await cluster.create_token("alice")
    for way in (close, reset, half_close):
        client = await connected(cluster.cloud_port)
        upload(cluster, client, 0, 100_000_000)
        asked = await ollama.next_request()
        asked.transport.pauseProducing()
        while not unread(client):
            await thread(client.socket.sendall, bytes(65536))
            await deferLater(reactor, 0.02)
        assert not hung_up(asked)
        began = reactor.seconds()
        way(client)
        await wait_until(lambda asked=asked: hung_up(asked), f"the end after {way.__name__}", 10)
        assert reactor.seconds() - began < SOON
        client.close()


@ensureDeferred
async def test_while_it_does_not_read(shared: Cluster) -> None:
    """Everything on the way is full of an answer that nobody reads any more."""
    script = Script(size=200_000_000, line_bytes=1000, line_interval=0)
    shared.ollama.script("/api/generate", script)
    client = await connected(shared.cloud_port)
    body = {"model": "llama3.2", "prompt": "x"}
    await thread(client.send_request("POST", "/api/generate", shared.api_key, body).read_lines, 1)
    [record] = await seen(shared, "/api/generate")
    sent = -1
    while sent != record.lines_sent:
        sent = record.lines_sent
        await deferLater(reactor, 0.3)
    began = reactor.seconds()
    client.close()
    await left(record, began)


@ensureDeferred
async def test_a_hundred_that_are_queued(shared: Cluster) -> None:
    """All of those who wait for their turn leave together, and none is left at Ollama's door."""
    shared.ollama.script("/api/chat", Script(delay_before_head=LONG))
    clients = [await connected(shared.cloud_port) for _ in range(100)]
    for client in clients:
        client.send_request("POST", "/api/chat", shared.api_key, CHAT)
    records = await seen(shared, count=100)
    for client in clients:
        client.close()
    await wait_until(lambda: all(record.closed_by for record in records), "all to be closed", 10)
    assert {record.closed_by for record in records} == {"client"}


@ensureDeferred
async def test_while_its_proxy_starts(cluster: Cluster) -> None:
    """Nothing is left of it, and the next one is served."""
    cluster.ollama, port = cluster.start_fake_ollama("llama3.2")
    cloud = await cluster.start_cloud()
    await cluster.start_desktop("alice", port)
    cluster.api_key = await cluster.create_token("alice")
    carol = await cluster.create_token("carol")
    client = await connected(cluster.cloud_port)
    client.send_request("POST", "/api/chat", carol, CHAT)
    client.close()
    status, _, body = await cluster.request("GET", "/api/tags", token=carol)
    assert (status, "None of your desktops" in body.decode()) == (503, True), cloud.output
    status, _, _ = await cluster.request(
        "POST", "/api/chat", {**CHAT, "stream": False}, cluster.api_key
    )
    assert status == 200
    assert len(await seen(cluster)) == 1

    async def nothing_is_left() -> bool:
        _, _, metrics = await cluster.request("GET", "/metrics", port=cluster.metrics_port)
        return b"\nctllm_requests_in_progress 0" in metrics

    await wait_until(nothing_is_left, "the exchanges to be over")
    assert "Traceback" not in cloud.output


# -- one connection, more than one request


def two_requests(cluster: Cluster) -> bytes:
    head = f"Host: x\r\nAuthorization: Bearer {cluster.api_key}\r\n"
    body = json.dumps({**CHAT, "stream": True}).encode()
    length = f"Content-Length: {len(body)}\r\n\r\n"
    return b"".join(
        f"POST {path} HTTP/1.1\r\n{head}{length}".encode() + body
        for path in ("/api/chat", "/v1/chat/completions")
    )


@ensureDeferred
async def test_pipelined_requests_are_answered_one_after_the_other(shared: Cluster) -> None:
    """The second waits for the first one's end; neither answer is mixed with the other."""
    shared.ollama.script("/api/chat", Script(lines=("one ", "two ", "three "), line_interval=0.1))
    client = await connected(shared.cloud_port)
    client.socket.sendall(two_requests(shared))
    await thread(client.read_lines, 2)
    assert not [record for record in shared.ollama.requests if record.path.startswith("/v1/")]
    first, end, rest = (await thread(client.read_until, b"0\r\n\r\n")).partition(b"0\r\n\r\n")
    client.received = rest
    second = await thread(client.read_until, b"0\r\n\r\n")
    said, whole = parse_chunked_body(first + end)
    assert whole
    assert "".join(json.loads(ln)["message"]["content"] for ln in said.splitlines()) == (
        "one two three "
    )
    said, whole = parse_chunked_body(second)
    assert whole
    assert said.endswith(b"data: [DONE]\n\n")
    client.close()


@ways
@ensureDeferred
async def test_pipelined_requests_of_one_that_left(shared: Cluster, way: Way) -> None:
    """The first is stopped, and the second never begins."""
    shared.ollama.script("/api/chat", Script(load_seconds=LONG))
    client = await connected(shared.cloud_port)
    client.socket.sendall(two_requests(shared))
    [record] = await seen(shared)
    began = reactor.seconds()
    way(client)
    await left(record, began)
    status, _, _ = await shared.request("GET", "/api/tags", token=shared.api_key)
    assert status == 200
    assert not [record for record in shared.ollama.requests if record.path.startswith("/v1/")]
    client.close()


@ensureDeferred
async def test_a_large_request_behind_one_that_is_answered(shared: Cluster) -> None:
    """More is pipelined than is read ahead: that the client left is seen all the same."""
    shared.ollama.script("/api/chat", Script(load_seconds=LONG))
    client = await connected(shared.cloud_port)
    client.send_request("POST", "/api/chat", shared.api_key, CHAT)
    [record] = await seen(shared)
    upload(shared, client, 100_000, 10_000_000)
    while not unread(client):
        await thread(client.socket.sendall, bytes(16384))
        await deferLater(reactor, 0.02)
    assert record.closed_by is None
    began = reactor.seconds()
    client.close()
    await left(record, began)
