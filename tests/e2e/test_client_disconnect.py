"""When a client disconnects, in any disconnect and phase, Ollama's connection closes at once."""

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
from tests.e2e.cluster import FRONT, Cluster, wait_until
from tests.e2e.raw_client import RawClient, parse_chunked_body
from tests.fake_ollama import Record, Script

T = TypeVar("T")
CHAT = {"model": "llama3.2", "messages": [{"role": "user", "content": "hello"}]}
BLOB = "/api/blobs/sha256:" + "0" * 64
#: Seconds; longer than any test waits.
LONG = 300.0
#: Seconds within which Ollama's connection has to close.
CLOSE_TIMEOUT = 1.0


def close(client: RawClient) -> None:
    """Close the connection with a FIN."""
    client.socket.close()


def reset(client: RawClient) -> None:
    """Close the connection with a RST."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.socket.close()


def half_close(client: RawClient) -> None:
    """Shut down the sending side only; ctllm treats it as a disconnect, as Ollama does."""
    client.socket.shutdown(socket.SHUT_WR)


Disconnect = Callable[[RawClient], None]
each_disconnect = pytest.mark.parametrize(
    "disconnect", [close, reset, half_close], ids=lambda function: function.__name__
)


@pytest.fixture(autouse=True)
def fresh(shared: Cluster) -> None:
    shared.ollama.reset()


async def in_thread(work: Callable[..., T], *arguments: Any) -> T:
    return await deferToThread(work, *arguments)


async def connect(port: int) -> RawClient:
    return await in_thread(RawClient, port)


def upload(cluster: Cluster, client: RawClient, sent: int, length: int, path: str = BLOB) -> None:
    """Start an upload of `length` bytes and send `sent` of them."""
    client.socket.sendall(
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {cluster.api_key}\r\n"
        f"Content-Length: {length}\r\n\r\n".encode()
        + b"x" * sent
    )


async def wait_for_requests(
    cluster: Cluster, path: str = "/api/chat", count: int = 1
) -> list[Record]:
    """Wait until the fake Ollama has `count` requests for `path`; return them."""

    def requests() -> list[Record]:
        return [record for record in cluster.ollama.requests if record.path == path]

    await wait_until(lambda: len(requests()) >= count, f"{count} requests for {path}")
    return requests()


async def assert_closed_soon(record: Record, began: float) -> None:
    """Assert that Ollama's connection closes within CLOSE_TIMEOUT of `began`."""
    await wait_until(lambda: record.closed_by, "the connection to Ollama to close", 10)
    assert record.closed_by == "client"
    assert record.closed_at is not None
    assert record.closed_at - began < CLOSE_TIMEOUT


PHASES = {
    "queued": (Script(delay_before_head=LONG), CHAT),
    "loading": (Script(load_seconds=LONG), CHAT),
    "streaming": (Script(lines=10_000, line_interval=0.02), CHAT),
    "silent in the stream": (Script(lines=10, pause_after=(2, LONG)), CHAT),
    "not streaming": (Script(load_seconds=LONG), {**CHAT, "stream": False}),
}


@each_disconnect
@pytest.mark.parametrize("phase", PHASES)
@ensureDeferred
async def test_a_disconnect_stops_ollama_in_every_phase(
    shared: Cluster, phase: str, disconnect: Disconnect
) -> None:
    script, body = PHASES[phase]
    shared.ollama.script("/api/chat", script)
    client = await connect(shared.cloud_port)
    client.send_request("POST", "/api/chat", shared.api_key, body)
    [record] = await wait_for_requests(shared)
    if phase in ("streaming", "silent in the stream"):
        await in_thread(client.read_lines, 2)
    await wait_until(lambda: record.phase != "receiving", "Ollama to process the request")
    began = reactor.seconds()
    disconnect(client)
    await assert_closed_soon(record, began)
    client.close()


@each_disconnect
@ensureDeferred
async def test_a_disconnect_during_an_upload_stops_it(
    shared: Cluster, disconnect: Disconnect
) -> None:
    client = await connect(shared.cloud_port)
    upload(shared, client, 100_000, 1_000_000)
    [record] = await wait_for_requests(shared, BLOB)
    await deferLater(reactor, 0.2)
    assert record.closed_by is None
    began = reactor.seconds()
    disconnect(client)
    await assert_closed_soon(record, began)
    client.close()


def is_closed_by_desktop(request: ChunkRequest) -> bool:
    """Return whether the desktop has closed its connection, though data is still unread."""
    poller = select.poll()
    poller.register(request.transport.fileno(), select.POLLRDHUP)
    return bool(poller.poll(0))


def has_unread_data(client: RawClient) -> bool:
    """Return whether the cloud has more than 32 KiB of unread data from the client."""
    client_port, server_port = (
        name[1] for name in (client.socket.getsockname(), client.socket.getpeername())
    )
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        if int(local[9:], 16) == server_port and int(remote[9:], 16) == client_port:
            return int(queues[9:], 16) > 32_768
    raise AssertionError("The client's connection is closed.")


@pytest.mark.skipif(FRONT == "nginx", reason="nginx notices it when the body is read again")
@ensureDeferred
async def test_a_disconnect_during_a_stalled_upload_is_noticed(cluster: Cluster) -> None:
    """Ollama does not read, so nothing before it reads either."""
    ollama = ChunkUpstream()
    cluster.ports.append(ollama)
    await cluster.start_cloud()
    await cluster.start_desktop("alice", ollama.port)
    cluster.api_key = await cluster.create_token("alice")
    for disconnect in (close, reset, half_close):
        client = await connect(cluster.cloud_port)
        upload(cluster, client, 0, 100_000_000)
        request = await ollama.next_request()
        request.transport.pauseProducing()
        while not has_unread_data(client):
            await in_thread(client.socket.sendall, bytes(65536))
            await deferLater(reactor, 0.02)
        assert not is_closed_by_desktop(request)
        began = reactor.seconds()
        disconnect(client)
        await wait_until(
            lambda request=request: is_closed_by_desktop(request),
            f"the end after {disconnect.__name__}",
            10,
        )
        assert reactor.seconds() - began < CLOSE_TIMEOUT
        client.close()


@ensureDeferred
async def test_a_disconnect_of_a_client_that_does_not_read_stops_ollama(shared: Cluster) -> None:
    """All buffers between Ollama and the client are full."""
    script = Script(size=200_000_000, line_bytes=1000, line_interval=0)
    shared.ollama.script("/api/generate", script)
    client = await connect(shared.cloud_port)
    body = {"model": "llama3.2", "prompt": "x"}
    await in_thread(
        client.send_request("POST", "/api/generate", shared.api_key, body).read_lines, 1
    )
    [record] = await wait_for_requests(shared, "/api/generate")
    sent = -1
    while sent != record.lines_sent:
        sent = record.lines_sent
        await deferLater(reactor, 0.3)
    began = reactor.seconds()
    client.close()
    await assert_closed_soon(record, began)


@ensureDeferred
async def test_a_hundred_queued_requests_are_cancelled_by_their_disconnects(
    shared: Cluster,
) -> None:
    shared.ollama.script("/api/chat", Script(delay_before_head=LONG))
    clients = [await connect(shared.cloud_port) for _ in range(100)]
    for client in clients:
        client.send_request("POST", "/api/chat", shared.api_key, CHAT)
    records = await wait_for_requests(shared, count=100)
    for client in clients:
        client.close()
    await wait_until(
        lambda: all(record.closed_by for record in records), "all connections to close", 10
    )
    assert {record.closed_by for record in records} == {"client"}


@ensureDeferred
async def test_a_disconnect_while_the_proxy_starts_leaves_no_request(cluster: Cluster) -> None:
    """The next client is served."""
    cluster.ollama, port = cluster.start_fake_ollama("llama3.2")
    cloud = await cluster.start_cloud()
    await cluster.start_desktop("alice", port)
    cluster.api_key = await cluster.create_token("alice")
    carol = await cluster.create_token("carol")
    client = await connect(cluster.cloud_port)
    client.send_request("POST", "/api/chat", carol, CHAT)
    client.close()
    status, _, body = await cluster.request("GET", "/api/tags", token=carol)
    assert (status, "None of your desktops" in body.decode()) == (503, True), cloud.output
    status, _, _ = await cluster.request(
        "POST", "/api/chat", {**CHAT, "stream": False}, cluster.api_key
    )
    assert status == 200
    assert len(await wait_for_requests(cluster)) == 1

    async def no_requests_in_progress() -> bool:
        _, _, metrics = await cluster.request("GET", "/metrics", port=cluster.metrics_port)
        return b"\nctllm_requests_in_progress 0" in metrics

    await wait_until(no_requests_in_progress, "the requests to end")
    assert "Traceback" not in cloud.output


# -- several requests on one connection


def two_requests(cluster: Cluster) -> bytes:
    head = f"Host: x\r\nAuthorization: Bearer {cluster.api_key}\r\n"
    body = json.dumps({**CHAT, "stream": True}).encode()
    length = f"Content-Length: {len(body)}\r\n\r\n"
    return b"".join(
        f"POST {path} HTTP/1.1\r\n{head}{length}".encode() + body
        for path in ("/api/chat", "/v1/chat/completions")
    )


@ensureDeferred
async def test_pipelined_requests_are_served_in_order(shared: Cluster) -> None:
    """The second waits for the end of the first; the responses are not mixed."""
    shared.ollama.script("/api/chat", Script(lines=("one ", "two ", "three "), line_interval=0.1))
    client = await connect(shared.cloud_port)
    client.socket.sendall(two_requests(shared))
    await in_thread(client.read_lines, 2)
    assert not [record for record in shared.ollama.requests if record.path.startswith("/v1/")]
    first, end, rest = (await in_thread(client.read_until, b"0\r\n\r\n")).partition(b"0\r\n\r\n")
    client.received = rest
    second = await in_thread(client.read_until, b"0\r\n\r\n")
    body, complete = parse_chunked_body(first + end)
    assert complete
    assert "".join(json.loads(ln)["message"]["content"] for ln in body.splitlines()) == (
        "one two three "
    )
    body, complete = parse_chunked_body(second)
    assert complete
    assert body.endswith(b"data: [DONE]\n\n")
    client.close()


@each_disconnect
@ensureDeferred
async def test_a_disconnect_cancels_all_pipelined_requests(
    shared: Cluster, disconnect: Disconnect
) -> None:
    """The first is stopped, and the second never reaches Ollama."""
    shared.ollama.script("/api/chat", Script(load_seconds=LONG))
    client = await connect(shared.cloud_port)
    client.socket.sendall(two_requests(shared))
    [record] = await wait_for_requests(shared)
    began = reactor.seconds()
    disconnect(client)
    await assert_closed_soon(record, began)
    status, _, _ = await shared.request("GET", "/api/tags", token=shared.api_key)
    assert status == 200
    assert not [record for record in shared.ollama.requests if record.path.startswith("/v1/")]
    client.close()


@ensureDeferred
async def test_a_disconnect_behind_a_large_pipelined_request_is_noticed(shared: Cluster) -> None:
    """More is pipelined than the cloud reads ahead."""
    shared.ollama.script("/api/chat", Script(load_seconds=LONG))
    client = await connect(shared.cloud_port)
    client.send_request("POST", "/api/chat", shared.api_key, CHAT)
    [record] = await wait_for_requests(shared)
    upload(shared, client, 100_000, 10_000_000)
    while not has_unread_data(client):
        await in_thread(client.socket.sendall, bytes(16384))
        await deferLater(reactor, 0.02)
    assert record.closed_by is None
    began = reactor.seconds()
    client.close()
    await assert_closed_soon(record, began)
