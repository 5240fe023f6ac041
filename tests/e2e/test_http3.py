"""HTTP/3: a client, nginx as its container starts it, a streaming proxy, a desktop and Ollama.

The system of this machine may have an nginx without HTTP/3, so nginx is Debian 13's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread

from tests.e2e.cluster import wait_until
from tests.e2e.container_nginx import APP
from tests.e2e.container_nginx_world import World, run_world
from tests.e2e.debian_system import DebianSystem
from tests.e2e.http3_client import Http3Client, Http3Stream
from tests.fake_ollama import Script

CHAT = json.dumps({"model": "llama3.2", "messages": [{"role": "user", "content": "Hi"}]}).encode()
#: What one address may do in a second; a burst of twice as many is allowed.
REQUESTS_PER_SECOND = 30
#: How many requests an nginx serves at once on a connection.
MAX_STREAMS = 128


@pytest.fixture(scope="module")
def world(trixie: DebianSystem, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A cloud whose proxies nginx reaches by itself, and alice's desktop."""
    folder = tmp_path_factory.mktemp("http3")
    yield from run_world(trixie, folder, CLIENT_REQUESTS_PER_SECOND=REQUESTS_PER_SECOND)


async def connect(world: World) -> Http3Client:
    """Open a connection by QUIC."""
    return await deferToThread(Http3Client, world.nginx.port, APP, world.nginx.authority)


@pytest_twisted.async_yield_fixture()
async def client(world: World) -> AsyncIterator[Http3Client]:
    """A connection by QUIC."""
    world.cluster.ollama.reset()
    client = await connect(world)
    yield client
    await deferToThread(client.close)


def send(
    world: World, client: Http3Client, path: str, body: bytes = b"", **headers: str
) -> Http3Stream:
    """Send a request of alice."""
    headers.setdefault("authorization", f"Bearer {world.cluster.api_key}")
    return client.send("POST" if body else "GET", path, body, headers)


@ensureDeferred
async def test_lines_arrive_as_they_are_written(world: World, client: Http3Client) -> None:
    """The first ones while the model still speaks, and all of them in the end."""
    ollama = world.cluster.ollama
    ollama.script("/api/chat", Script(lines=3, pause_after=(2, 300.0)), times=1)
    paused = send(world, client, "/api/chat", CHAT)
    assert await deferToThread(paused.read_head) == 200, world.nginx.log()
    lines = [json.loads(await deferToThread(paused.read_line)) for _ in range(2)]
    assert [each["done"] for each in lines] == [False, False]
    (record,) = world.requests_for("/api/chat")
    assert (record.lines_sent, record.closed_by) == (2, None)
    # Beside it, on the same connection.
    ollama.script("/api/chat", Script(lines=300, line_interval=0.001), times=1)
    complete = send(world, client, "/api/chat", CHAT)
    assert await deferToThread(complete.read_head) == 200
    answers = [json.loads(each) for each in (await deferToThread(complete.read)).splitlines()]
    assert [each["done"] for each in answers] == [False] * 300 + [True]


@ensureDeferred
async def test_a_client_that_leaves_ends_the_generation(world: World, client: Http3Client) -> None:
    """It cancels the stream, or closes the connection. Before the first line, too."""
    ollama = world.cluster.ollama
    for script in (Script(lines=100_000, line_interval=0.01), Script(load_seconds=300)):
        ollama.reset()
        ollama.script("/api/chat", script)
        stream = send(world, client, "/api/chat", CHAT)
        await world.wait_for_record(lambda record: record.phase in ("loading", "answering"))
        stream.cancel()
        await world.wait_for_record(lambda record: record.closed_by == "client")
    ollama.reset()
    ollama.script("/api/chat", Script(load_seconds=300))
    other = await connect(world)
    send(world, other, "/api/chat", CHAT)
    await world.wait_for_record(lambda record: record.phase == "loading")
    await deferToThread(other.close)
    await world.wait_for_record(lambda record: record.closed_by == "client")


@ensureDeferred
async def test_the_head_says_what_it_says_by_http_2(world: World, client: Http3Client) -> None:
    """HSTS, and that there is HTTP/3 at the port of HTTPS; 401 in the dialect of the path."""
    stream = send(world, client, "/v1/models", authorization="Bearer wrong")
    assert await deferToThread(stream.read_head) == 401
    assert stream.headers["alt-svc"] == f'h3=":{world.nginx.port}"; ma=86400'
    assert stream.headers["strict-transport-security"] == "max-age=63072000"
    assert stream.headers["www-authenticate"].startswith("Bearer")
    assert json.loads(await deferToThread(stream.read))["error"]["code"]


@ensureDeferred
async def test_a_large_body_passes_unchanged(world: World, client: Http3Client) -> None:
    """More than any buffer on the way. aioquic takes seconds for it."""
    body = json.dumps({"model": "llama3.2", "input": "x" * 5_000_000}).encode()
    stream = send(world, client, "/api/embed", body)
    assert await deferToThread(stream.read_head) == 200, world.nginx.log()
    (record,) = world.requests_for("/api/embed")
    assert record.body_length == len(body)
    assert record.body_sha256 == hashlib.sha256(body).hexdigest()


@ensureDeferred
async def test_an_address_is_limited_by_quic_too(world: World, client: Http3Client) -> None:
    """429 in the dialect of the path, with Retry-After; other requests are served."""
    streams = [send(world, client, "/v1/messages") for _ in range(MAX_STREAMS)]
    statuses = [await deferToThread(each.read_head) for each in streams]
    refused = [each for each, status in zip(streams, statuses, strict=True) if status == 429]
    assert 0 < len(refused) < MAX_STREAMS, statuses
    assert refused[0].headers["retry-after"] == "1"
    error = json.loads(await deferToThread(refused[0].read))
    assert error["error"]["type"] == "rate_limit_error"

    async def is_served() -> bool:
        return await deferToThread(send(world, client, "/api/tags").read_head) == 200

    await wait_until(is_served, "a request to be served again")


@ensureDeferred
async def test_a_renewal_cuts_no_stream(world: World, client: Http3Client) -> None:
    """Nginx takes the new certificate up while lines pass."""
    ollama = world.cluster.ollama
    ollama.script("/api/chat", Script(lines=100_000, line_interval=0.02))
    stream = send(world, client, "/api/chat", CHAT)
    assert await deferToThread(stream.read_head) == 200
    world.nginx.renew_certificate()

    async def is_renewed() -> bool:
        try:
            other = await connect(world)  # trusts the new certificate alone
        except ConnectionError:
            return False
        await deferToThread(other.close)
        return True

    await wait_until(is_renewed, "the new certificate")
    (record,) = world.requests_for("/api/chat")
    for _ in range(record.lines_sent + 200):  # of which many were read before
        assert json.loads(await deferToThread(stream.read_line))["done"] is False
    stream.cancel()
    await world.wait_for_record(lambda record: record.closed_by == "client")
