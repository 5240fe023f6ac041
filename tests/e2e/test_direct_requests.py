"""nginx sends requests to streaming proxies itself, while the cloud restarts and users sign out."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from tests.e2e.cluster import ChildProcess, Cluster, wait_until
from tests.e2e.containers import ContainerInspector
from tests.e2e.lifecycle_cases import CHAT, is_reachable, start_with_desktop
from tests.fake_ollama import Script

STREAMS = 200
WORDS = tuple(f"word{number} " for number in range(50))
LINE_INTERVAL = 0.3  # seconds
OPTIONS = ("--docker-network=none",)


class Stream(Protocol):
    """A client that reads a response to its end."""

    transport: Any

    def __init__(self, token: str, path: str = "/api/chat") -> None:
        self.received = bytearray()
        self.ended = False
        body = json.dumps(CHAT)
        self._request = (
            f"POST {path} HTTP/1.1\r\nHost: ctllm.test\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        )

    def connectionMade(self) -> None:
        self.transport.write(self._request.encode())

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        if self.received.endswith(b"\r\n0\r\n\r\n"):
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended = True

    @property
    def lines(self) -> list[bytes]:
        """The lines of JSON, of which the last one may be incomplete."""
        return [bytes(line) for line in self.received.split(b"\n") if line.startswith(b"{")]

    @property
    def is_complete(self) -> bool:
        """Whether the response ended as it should."""
        return self.received.endswith(b"\r\n0\r\n\r\n")

    @property
    def text(self) -> str:
        return "".join(json.loads(line)["message"]["content"] for line in self.lines)


class DirectCluster:
    """A cloud that starts containers, nginx in front of it, and alice's desktop."""

    def __init__(self, cluster: Cluster, engine: ContainerInspector) -> None:
        self.cluster, self._engine = cluster, engine
        self.cloud: ChildProcess

    async def start(self) -> None:
        self.cloud = await start_with_desktop(self.cluster, *self._engine.options, *OPTIONS)
        self.cluster.api_key = await self.cluster.run_ctllm("alice", "keys", "add", "tests")
        await self.cluster.wait_for_api_key()

    async def open_stream(self, token: str) -> Stream:
        """Start a response; wait for its head."""
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.cluster.cloud_port)
        stream: Stream = await connectProtocol(endpoint, Stream(token))
        return stream

    async def kill(self) -> None:
        await self.cloud.stop(signal.SIGKILL)

    async def restart(self) -> None:
        self.cloud = await self.cluster.start_cloud(*self._engine.options, *OPTIONS)


@pytest_twisted.async_yield_fixture()
async def direct(engine: ContainerInspector, cluster: Cluster) -> AsyncIterator[DirectCluster]:
    """A cluster behind nginx."""
    if cluster.nginx is None:
        cluster.use_nginx()
    started = DirectCluster(cluster, engine)
    await started.start()
    yield started


async def wait_for_lines(streams: list[Stream], number: int) -> None:
    """Wait until each of the streams has so many lines."""
    await wait_until(
        lambda: all(len(each.lines) >= number for each in streams), f"{number} lines", 60
    )


@ensureDeferred
async def test_a_killed_cloud_cuts_no_stream_and_new_requests_wait(direct: DirectCluster) -> None:
    """Also with a large body, which is unread meanwhile, and with an API key of the desktop."""
    cluster = direct.cluster
    cluster.ollama.script("/api/chat", Script(lines=WORDS, line_interval=LINE_INTERVAL))
    streams = [await direct.open_stream(cluster.alice_token) for _ in range(STREAMS)]
    await wait_for_lines(streams, 3)
    await direct.kill()
    large = json.dumps({"model": "llama3.2", "input": "x" * 30_000_000}).encode()
    waiting: list[Deferred[Any]] = [
        Deferred.fromCoroutine(each)
        for each in (
            cluster.request("GET", "/api/version", token=cluster.alice_token),
            cluster.request("POST", "/api/embed", large, cluster.api_key),
            cluster.request("GET", "/v1/models", token=cluster.api_key),
        )
    ]
    await deferLater(reactor, 1.0)  # the time that the cloud is away
    assert not any(each.called for each in waiting)
    await direct.restart()
    for each in waiting:
        status, _, body = await each
        assert status == 200, body
    await wait_until(lambda: all(each.ended for each in streams), "the streams to end", 60)
    assert [each.is_complete for each in streams] == [True] * STREAMS
    assert {each.text for each in streams} == {"".join(WORDS)}
    closed_by = {each.closed_by for each in cluster.ollama.requests if each.path == "/api/chat"}
    assert closed_by == {"server"}


@ensureDeferred
async def test_signing_out_ends_the_streams_of_that_session_only(direct: DirectCluster) -> None:
    """Also of a session that ends while the cloud does not run."""
    cluster = direct.cluster
    cluster.ollama.script("/api/chat", Script(lines=10_000, line_interval=0.1))
    sessions = cluster.state_dir("cloud") / "cloud" / "sessions"
    known = set(sessions.iterdir())
    first = await cluster.create_token("alice")
    (first_file,) = set(sessions.iterdir()) - known
    second = await cluster.create_token("alice")
    (second_file,) = set(sessions.iterdir()) - known - {first_file}
    staying, leaving, removed = [
        await direct.open_stream(token) for token in (cluster.api_key, first, second)
    ]
    await wait_for_lines([staying, leaving, removed], 3)

    first_file.unlink()  # as another process does that signs a user out
    await wait_until(lambda: leaving.ended, "the stream to end", 10)
    assert not leaving.is_complete and not staying.ended and not removed.ended

    await direct.kill()
    second_file.unlink()
    await direct.restart()
    await wait_until(lambda: removed.ended, "the stream to end", 10)
    assert not removed.is_complete
    seen = len(staying.lines)
    await wait_for_lines([staying], seen + 20)
    assert not staying.ended and await is_reachable(cluster, cluster.alice_token)
    ended = [each for each in cluster.ollama.requests if each.closed_by]
    assert len([each for each in ended if each.path == "/api/chat"]) == 2
    staying.transport.loseConnection()
    await wait_until(lambda: staying.ended, "the client to leave")
