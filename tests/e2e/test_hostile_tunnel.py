"""Invalid frames in a tunnel: its connection is closed, and no other connection is affected."""

from __future__ import annotations

import random
import socket
import struct

from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread

from ctllm.proxy.app import MAX_TUNNELS
from tests.e2e.cluster import Cluster
from tests.e2e.process_info import child_pids, linux_only

pytestmark = linux_only
SEED = 20261124


def upgrade_request(token: str, protocol: str = "ctllm.tunnel.v1") -> bytes:
    """Return a desktop's request to open a tunnel."""
    return (
        "GET /ws/tunnel HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"Sec-WebSocket-Protocol: {protocol}\r\n"
        "Sec-WebSocket-Extensions: permessage-deflate\r\n"
        f"Authorization: Bearer {token}\r\n\r\n"
    ).encode()


def open_tunnel(port: int, token: str) -> socket.socket:
    """Open a tunnel's WebSocket; return the socket after the 101 response."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.sendall(upgrade_request(token))
    received = b""
    while b"\r\n\r\n" not in received:
        byte = connection.recv(1)
        assert byte, received
        received += byte
    assert b" 101 " in received.split(b"\r\n")[0], received
    assert b"extensions" not in received.lower(), "compression was negotiated"
    return connection


def websocket_frame(first: int, payload: bytes, masked: bool = True) -> bytes:
    """Return a WebSocket frame whose first byte is `first`."""
    length = bytes([(0x80 if masked else 0) | 126]) + struct.pack("!H", len(payload))
    return bytes([first]) + length + (bytes(4) if masked else b"") + payload


def is_closed_after(port: int, token: str, data: bytes) -> bool:
    """Return whether the proxy closes the tunnel within 20 s after `data`."""
    with open_tunnel(port, token) as connection:
        try:
            connection.sendall(data)
            while connection.recv(65536):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True


@ensureDeferred
async def test_invalid_frames_close_only_their_own_connection(cluster: Cluster) -> None:
    cloud = await cluster.start_cloud()
    cluster.ollama, port = cluster.start_fake_ollama("llama3.2")
    await cluster.start_desktop("alice", port)
    token = await cluster.create_token("alice", "desktop")
    alice = await cluster.create_token("alice")
    before = child_pids(cloud.pid)
    rng = random.Random(SEED)
    cases = {
        "compressed": websocket_frame(0xC2, b"x" * 30),
        "unmasked": websocket_frame(0x82, b"x" * 30, masked=False),
        "reserved bits": websocket_frame(0xB2, b"x" * 30),
        "an unknown opcode": websocket_frame(0x83, b"x" * 30),
        "a text frame": websocket_frame(0x81, b"hello"),
        "a continuation without a message": websocket_frame(0x80, b"x" * 30),
        "a fragmented ping": websocket_frame(0x09, b"x"),
        "a giant ping": websocket_frame(0x89, b"x" * 200),
        "a message over the limit": b"\x82\xff" + struct.pack("!Q", 1 << 40) + bytes(4),
        "a negative length": b"\x82\xff" + b"\xff" * 8 + bytes(4),
        "a tunnel frame before HELLO": websocket_frame(0x82, b"\x05" + bytes(20)),
        "random bytes instead of HELLO": websocket_frame(0x82, rng.randbytes(300)),
        "a HELLO of another version": websocket_frame(
            0x82, b"\x01" + struct.pack("!I", 26) + bytes(16) + b'{"version":9,"window":999}'
        ),
    }
    for name, data in cases.items():
        assert await deferToThread(is_closed_after, cluster.cloud_port, token, data), name
    for _ in range(150):
        data = websocket_frame(0x82, rng.randbytes(rng.randrange(1, 400)))
        data = bytes([rng.randrange(256)]) + data[1:] if rng.random() < 0.5 else data
        with await deferToThread(open_tunnel, cluster.cloud_port, token) as connection:
            connection.sendall(data + rng.randbytes(200))
    status, _, _ = await cluster.request("GET", "/api/tags", token=alice)
    assert status == 200
    assert child_pids(cloud.pid) == before, "the proxy was replaced"
    assert "Traceback" not in cloud.output, cloud.output


def read_until_closed(port: int, data: bytes) -> bytes:
    """Send `data` on a new connection; return what is received until it closes."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(data)
        while chunk := connection.recv(65536):
            received += chunk
    return received


@ensureDeferred
async def test_a_connection_is_not_reused_after_a_refused_tunnel(cluster: Cluster) -> None:
    """The next request on it, of another user, never reaches the first user's proxy."""
    await cluster.start_cloud()
    cluster.ollama, port = cluster.start_fake_ollama("llama3.2")
    await cluster.start_desktop("alice", port)
    mallory = await cluster.create_token("mallory", "desktop")
    alice = await cluster.create_token("alice")
    alice_request = (
        f"GET /api/tags HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {alice}\r\n\r\n".encode()
    )
    open_now: list[socket.socket] = []
    try:
        for number in range(MAX_TUNNELS + 2):
            full = number == MAX_TUNNELS + 1
            refused = upgrade_request(mallory) if full else upgrade_request(mallory, "chat")
            if full or not number:  # first for its protocol, at the end for the limit
                response = await deferToThread(
                    read_until_closed, cluster.cloud_port, refused + alice_request
                )
                assert response.startswith(b"HTTP/1.1 429 " if full else b"HTTP/1.1 400 "), response
                assert b"\r\nConnection: close\r\n" in response, response
                assert response.count(b"HTTP/1.1") == 1, response
            else:
                open_now.append(await deferToThread(open_tunnel, cluster.cloud_port, mallory))
    finally:
        for connection in open_now:
            connection.close()
    status, _, _ = await cluster.request("GET", "/api/tags", token=alice)
    assert status == 200
