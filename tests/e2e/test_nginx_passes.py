"""Requests on TCP connections that nginx's stream module accepts and passes to its servers.

nginx is Debian 13's, as its container starts it.
"""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
from collections.abc import Iterator

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread

from tests.e2e.container_nginx import APP
from tests.e2e.container_nginx_world import World, run_world
from tests.e2e.debian_system import DebianSystem
from tests.fake_ollama import Script

CHAT = json.dumps({"model": "llama3.2", "messages": [{"role": "user", "content": "Hi"}]})


@pytest.fixture(scope="module")
def world(trixie: DebianSystem, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A cloud whose proxies nginx reaches by itself, and alice's desktop."""
    yield from run_world(trixie, tmp_path_factory.mktemp("passes"))


def start_curl(world: World, *options: str) -> subprocess.Popen[str]:
    """Send a chat of alice by TLS."""
    port = world.nginx.port
    argv = [
        "curl", "-sSN", f"--cacert={world.nginx.authority}", f"--resolve={APP}:{port}:127.0.0.1",
        "-K-", *options, f"https://{APP}:{port}/api/chat",
    ]  # fmt: skip
    argv = [part for each in argv for part in each.partition("=")[::2] if part]
    curl = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert curl.stdin is not None
    token = world.cluster.api_key
    curl.stdin.write(f'header = "Authorization: Bearer {token}"\ndata = {json.dumps(CHAT)}\n')
    curl.stdin.close()
    return curl


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
@ensureDeferred
async def test_lines_arrive_as_they_are_written(world: World, version: str) -> None:
    """A client that leaves ends the generation."""
    ollama = world.cluster.ollama
    ollama.reset()
    ollama.script("/api/chat", Script(lines=3, pause_after=(2, 300.0)))
    curl = start_curl(world, version)
    assert curl.stdout is not None
    for _ in range(2):
        line = await deferToThread(curl.stdout.readline)
        assert json.loads(line)["done"] is False, world.nginx.log()
    (record,) = world.requests_for("/api/chat")
    assert (record.lines_sent, record.closed_by) == (2, None)
    curl.kill()
    await deferToThread(curl.wait)
    curl.stdout.close()
    await world.wait_for_record(lambda record: record.closed_by == "client")


@ensureDeferred
async def test_the_tunnel_of_a_desktop(world: World) -> None:
    """The proxy accepts the WebSocket and sends its first frame."""
    token = await world.cluster.create_token("alice", "desktop")

    def connect() -> bytes:
        context = ssl.create_default_context(cafile=str(world.nginx.authority))
        plain = socket.create_connection(("127.0.0.1", world.nginx.port), 20)
        with context.wrap_socket(plain, server_hostname=APP) as connection:
            connection.sendall(
                f"GET /ws/tunnel HTTP/1.1\r\nHost: {APP}\r\nUpgrade: websocket\r\n"
                "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                "Sec-WebSocket-Protocol: ctllm.tunnel.v1\r\n"
                f"Authorization: Bearer {token}\r\n\r\n".encode()
            )
            return connection.recv(4096)

    head = await deferToThread(connect)
    assert head.startswith(b"HTTP/1.1 101 "), head + world.nginx.log().encode()
