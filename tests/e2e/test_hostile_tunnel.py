"""A desktop that sends rubbish: it is dropped, and nothing of it reaches anybody else."""

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


def handshake(token: str, protocol: str = "ctllm.tunnel.v1") -> bytes:
    """A bridge's request."""
    return (
        "GET /ws/tunnel HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"Sec-WebSocket-Protocol: {protocol}\r\n"
        "Sec-WebSocket-Extensions: permessage-deflate\r\n"
        f"Authorization: Bearer {token}\r\n\r\n"
    ).encode()


def dialled(port: int, token: str) -> socket.socket:
    """A bridge's WebSocket, just after its 101."""
    wire = socket.create_connection(("127.0.0.1", port), timeout=20)
    wire.sendall(handshake(token))
    said = b""
    while b"\r\n\r\n" not in said:
        piece = wire.recv(1)
        assert piece, said
        said += piece
    assert b" 101 " in said.split(b"\r\n")[0], said
    assert b"extensions" not in said.lower(), "nothing is compressed"
    return wire


def message(first: int, payload: bytes, masked: bool = True) -> bytes:
    """One WebSocket frame whose first byte is `first`."""
    length = bytes([(0x80 if masked else 0) | 126]) + struct.pack("!H", len(payload))
    return bytes([first]) + length + (bytes(4) if masked else b"") + payload


def ended(port: int, token: str, data: bytes) -> bool:
    """Whether the connection is closed on us after `data`, within 20 s."""
    with dialled(port, token) as wire:
        try:
            wire.sendall(data)
            while wire.recv(65536):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True


@ensureDeferred
async def test_rubbish_on_the_tunnel(cluster: Cluster) -> None:
    """Compressed, unmasked, endless, reserved or garbled frames end that connection only."""
    cloud = await cluster.start_cloud()
    cluster.ollama, port = cluster.start_fake_ollama("llama3.2")
    await cluster.start_desktop("alice", port)
    token = await cluster.create_token("alice", "desktop")
    alice = await cluster.create_token("alice")
    before = child_pids(cloud.pid)
    rng = random.Random(SEED)
    cases = {
        "compressed": message(0xC2, b"x" * 30),
        "unmasked": message(0x82, b"x" * 30, masked=False),
        "reserved bits": message(0xB2, b"x" * 30),
        "an unknown opcode": message(0x83, b"x" * 30),
        "a text": message(0x81, b"hello"),
        "a continuation of nothing": message(0x80, b"x" * 30),
        "a ping in pieces": message(0x09, b"x"),
        "a giant ping": message(0x89, b"x" * 200),
        "more than a message may have": b"\x82\xff" + struct.pack("!Q", 1 << 40) + bytes(4),
        "a negative length": b"\x82\xff" + b"\xff" * 8 + bytes(4),
        "a frame of the tunnel's before HELLO": message(0x82, b"\x05" + bytes(20)),
        "no HELLO but rubbish": message(0x82, rng.randbytes(300)),
        "a HELLO of another version": message(
            0x82, b"\x01" + struct.pack("!I", 26) + bytes(16) + b'{"version":9,"window":999}'
        ),
    }
    for name, data in cases.items():
        assert await deferToThread(ended, cluster.cloud_port, token, data), name
    for _ in range(150):
        data = message(0x82, rng.randbytes(rng.randrange(1, 400)))
        data = bytes([rng.randrange(256)]) + data[1:] if rng.random() < 0.5 else data
        with await deferToThread(dialled, cluster.cloud_port, token) as wire:
            wire.sendall(data + rng.randbytes(200))
    status, _, _ = await cluster.request("GET", "/api/tags", token=alice)
    assert status == 200
    assert child_pids(cloud.pid) == before, "the proxy lives"
    assert "Traceback" not in cloud.output, cloud.output


def heard(port: int, data: bytes) -> bytes:
    """All that comes on one connection after `data`, until it is closed on us."""
    said = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as wire:
        wire.sendall(data)
        while piece := wire.recv(65536):
            said += piece
    return said


@ensureDeferred
async def test_a_refused_tunnel_leaves_nobody_elses_connection_behind(cluster: Cluster) -> None:
    """What a front end sends next on it, for another user, never reaches the first one's proxy."""
    await cluster.start_cloud()
    cluster.ollama, port = cluster.start_fake_ollama("llama3.2")
    await cluster.start_desktop("alice", port)
    mallory = await cluster.create_token("mallory", "desktop")
    alice = await cluster.create_token("alice")
    hers = f"GET /api/tags HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {alice}\r\n\r\n".encode()
    open_now: list[socket.socket] = []
    try:
        for number in range(MAX_TUNNELS + 2):
            full = number == MAX_TUNNELS + 1
            refused = handshake(mallory) if full else handshake(mallory, "chat")
            if full or not number:  # first for its protocol, in the end for lack of room
                said = await deferToThread(heard, cluster.cloud_port, refused + hers)
                assert said.startswith(b"HTTP/1.1 429 " if full else b"HTTP/1.1 400 "), said
                assert b"\r\nConnection: close\r\n" in said, said
                assert said.count(b"HTTP/1.1") == 1, said
            else:
                open_now.append(await deferToThread(dialled, cluster.cloud_port, mallory))
    finally:
        for wire in open_now:
            wire.close()
    status, _, _ = await cluster.request("GET", "/api/tags", token=alice)
    assert status == 200
