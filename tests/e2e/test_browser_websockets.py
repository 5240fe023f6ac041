"""WebSockets of browsers: the token is among the subprotocols, and the Origin is on the list."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet import defer
from twisted.internet.threads import deferToThread

from tests.e2e.chromium import Chromium
from tests.e2e.cluster import Cluster
from tests.e2e.raw_client import RawClient

PROTOCOL = "ctllm.tunnel.v1"
HANDSHAKE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
#: Opens a WebSocket; gives what was agreed on, or how it ended.
OPEN = """([url, protocols]) => new Promise(done => {
    const socket = new WebSocket(url, protocols);
    socket.onopen = () => { done('open ' + socket.protocol); socket.close(); };
    socket.onerror = () => done('refused');
})"""


@dataclass
class World:
    """A cloud that allows one other origin, and a server with pages of any origin."""

    cluster: Cluster
    allowed: str
    other: str
    token: str  # with the scope of a desktop
    page_token: str

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.cluster.cloud_port}/ws/tunnel"


def subprotocol(token: str) -> str:
    return "ctllm.bearer." + urlsafe_b64encode(token.encode()).rstrip(b"=").decode()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Start the cloud and two other sites, which serve Ollama's page."""
    cluster = Cluster(tmp_path_factory.mktemp("browser-websockets"))

    async def start() -> World:
        allowed, other = (
            f"http://127.0.0.1:{cluster.start_fake_ollama('llama3.2')[1]}" for _ in range(2)
        )
        await cluster.start_cloud(f"--cors-origins={allowed}")
        token = await cluster.create_token("alice", "desktop")
        return World(cluster, allowed, other, token, await cluster.create_token("alice"))

    yield pytest_twisted.blockon(defer.ensureDeferred(start()))
    pytest_twisted.blockon(defer.ensureDeferred(cluster.stop()))


async def handshake(world: World, *headers: str, path: str = "/ws/tunnel") -> dict[str, str]:
    """Send a handshake without any other header; return the response's headers and status."""

    def exchange() -> dict[str, str]:
        client = RawClient(world.cluster.cloud_port)
        host = f"Host: 127.0.0.1:{world.cluster.cloud_port}"
        lines = [f"GET {path} HTTP/1.1", host, *HANDSHAKE, *headers, "", ""]
        client.socket.sendall("\r\n".join(lines).encode())
        head = client.read_head()
        client.close()
        return {**head, "raw": client.received.decode("latin-1")}

    return await deferToThread(exchange)


def offer(*protocols: str) -> str:
    return f"Sec-WebSocket-Protocol: {', '.join(protocols)}"


@ensureDeferred
async def test_a_token_among_the_subprotocols_opens_and_is_never_sent_back(world: World) -> None:
    own = f"Origin: http://127.0.0.1:{world.cluster.cloud_port}"
    for headers in (
        (offer(PROTOCOL, subprotocol(world.token)),),
        (offer(subprotocol(world.token), PROTOCOL), own),
        (offer(PROTOCOL), offer(subprotocol(world.token)), f"Origin: {world.allowed}"),
    ):
        response = await handshake(world, *headers)
        assert response["status"] == "101", response
        assert response["sec-websocket-protocol"] == PROTOCOL
        assert "bearer" not in response["raw"].lower()
    for secret in (world.token, subprotocol(world.token)):
        assert all(secret not in each.output for each in world.cluster.processes)


@ensureDeferred
async def test_refused_handshakes(world: World) -> None:
    """By their token, and by their origin whatever the token."""
    good = offer(PROTOCOL, subprotocol(world.token))
    for status, *headers in (
        ("401", offer(PROTOCOL)),
        ("401", offer(PROTOCOL, "ctllm.bearer.")),
        ("401", offer(PROTOCOL, "ctllm.bearer.!!!")),
        ("401", offer(PROTOCOL, subprotocol(world.token[:-4]))),
        ("403", offer(PROTOCOL, subprotocol(world.page_token))),
        ("400", offer(PROTOCOL, subprotocol(world.token), subprotocol(world.token))),
        ("403", good, f"Origin: {world.other}"),
        ("403", good, "Origin: null"),
        ("403", good, f"Origin: {world.allowed}", f"Origin: {world.other}"),
        ("403", offer(PROTOCOL), f"Origin: {world.other}", f"Authorization: Bearer {world.token}"),
    ):
        response = await handshake(world, *headers)
        assert response["status"] == status, (headers, response)
        assert world.token not in response["raw"]
    for path in ("/", "/api/tags", "/v1/responses", "/ctllm/session", "/ws/other"):
        response = await handshake(world, good, f"Origin: {world.other}", path=path)
        assert response["status"] == "403", (path, response)


@ensureDeferred
async def test_in_a_browser_only_pages_on_the_list_open_one(
    world: World, chromium: Chromium
) -> None:
    """With a token. The cookie of the session, which the browser would send, opens none."""
    tab = await chromium.tab()
    link = await world.cluster.create_invite("alice")
    await tab.open(link)
    await tab.click("Log in as alice")
    await tab.sees("#user-name", "alice")
    entry = subprotocol(world.token)

    async def outcome(*protocols: str) -> Any:
        return await tab.do(lambda page: page.evaluate(OPEN, [world.url, [PROTOCOL, *protocols]]))

    assert await outcome(entry) == f"open {PROTOCOL}"
    assert await outcome() == "refused"
    await tab.open(world.allowed)
    assert await outcome(entry) == f"open {PROTOCOL}"
    assert await outcome() == "refused"
    await tab.open(world.other)
    assert await outcome(entry) == "refused"
    assert await outcome() == "refused"
    tab.complaints = [each for each in tab.complaints if "WebSocket connection" not in each]
    await tab.close()
