"""A hostile desktop that violates the tunnel's protocol: only its own connection is closed."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from ctllm.tunnel.frames import (
    CONNECTION_ID,
    Desktop,
    FrameKind,
    Hello,
    Status,
    encode_frame,
    encode_json_frame,
    split_frames,
)
from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.process_info import child_pids, linux_only
from tests.e2e.raw_peers import RawCluster, start_raw_cluster
from tests.e2e.test_hostile_load import MB, send_without_reading
from tests.e2e.test_hostile_resources import resident_bytes
from tests.e2e.test_hostile_tunnel import open_tunnel

pytestmark = linux_only
HELLO = encode_json_frame(FrameKind.HELLO, CONNECTION_ID, Hello(1, 1000, Desktop("e" * 32, "evil")))
STATUS = encode_json_frame(
    FrameKind.STATUS, CONNECTION_ID, Status("down", "1", ("evil\x00\x1b[2J\r\n",))
)
VALID_HEAD = b'{"status":200,"reason":"","headers":[]}'


def masked_frame(payload: bytes, first_byte: int = 0x82) -> bytes:
    """Return a masked WebSocket frame."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack("!H", size & 0xFFFF)
    length = length if size < 65536 else b"\xff" + struct.pack("!Q", size)
    return bytes([first_byte]) + length + bytes(4) + payload


class RawBridge:
    """A desktop's end of a tunnel on a plain socket."""

    def __init__(self, port: int, token: str, *frames: bytes) -> None:
        self.connection = open_tunnel(port, token)
        self._unread = b""
        self.send(HELLO, *frames)

    def send(self, *frames: bytes) -> None:
        self.connection.sendall(masked_frame(b"".join(frames)))

    def messages(self) -> Iterator[tuple[int, bytes]]:
        """Yield each frame's opcode and payload until the proxy closes or is silent for 10 s."""
        self.connection.settimeout(10)
        with suppress(OSError):
            while data := self.connection.recv(65536):
                self._unread += data
                while (frame := self._next_frame()) is not None:
                    yield frame

    def _next_frame(self) -> tuple[int, bytes] | None:
        if len(self._unread) < 4:
            return None
        size, start = self._unread[1], 2
        if size == 126:
            size, start = struct.unpack_from("!H", self._unread, 2)[0], 4
        if len(self._unread) < start + size:
            return None
        opcode, payload = self._unread[0] & 15, self._unread[start : start + size]
        self._unread = self._unread[start + size :]
        return opcode, payload

    def next_stream_id(self) -> bytes:
        """Return the id of the next stream that the proxy opens."""
        for opcode, payload in self.messages():
            for kind, id, _ in split_frames(payload) if opcode == 2 else ():
                if kind == FrameKind.OPEN:
                    return id
        raise AssertionError("no stream was opened")

    def close_code(self) -> int:
        """Return the proxy's close code, or 0 without a close frame."""
        for opcode, payload in self.messages():
            if opcode == 8:
                return int(struct.unpack_from("!H", payload)[0])
        return 0


@pytest.fixture(scope="module")
def raw_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cluster with a raw Ollama."""
    cluster = Cluster(tmp_path_factory.mktemp("desktop"))
    yield pytest_twisted.blockon(Deferred.fromCoroutine(start_raw_cluster(cluster)))
    pytest_twisted.blockon(Deferred.fromCoroutine(cluster.stop()))


async def connect_bridge(raw_cluster: RawCluster, *frames: bytes) -> RawBridge:
    token = await raw_cluster.cluster.create_token("alice", "desktop")
    return await deferToThread(RawBridge, raw_cluster.cluster.cloud_port, token, *frames)


async def request_evil_desktop(raw_cluster: RawCluster) -> tuple[int, bytes]:
    """Send a client's request to this desktop; return status and body."""
    status, _, body = await raw_cluster.cluster.request(
        "GET", "/x", token=raw_cluster.cluster.api_key, headers={"Ctllm-Desktop": "e" * 32}
    )
    return status, body


def _data_frame(id: bytes, offset: int, data: bytes) -> bytes:
    return encode_frame(FrameKind.DATA, id, struct.pack("!Q", offset) + data)


def _offset_frame(kind: FrameKind, id: bytes, offset: int) -> bytes:
    return encode_frame(kind, id, struct.pack("!Q", offset))


def _head_with(*lines: tuple[str, str]) -> bytes:
    return json.dumps({"status": 200, "reason": "", "headers": lines}).encode()


#: Frames sent on a stream of that id; each closes the connection with 1002.
VIOLATIONS: dict[str, Callable[[bytes], bytes]] = {
    "CR LF in a header value": lambda id: encode_frame(
        FrameKind.HEAD, id, _head_with(("A", "b\r\nEvil: 1"))
    ),
    "CR LF in a header name": lambda id: encode_frame(
        FrameKind.HEAD, id, _head_with(("A\r\nEvil", "b"))
    ),
    "an oversized head": lambda id: encode_frame(
        FrameKind.HEAD, id, _head_with(("A", "b" * 140_000))
    ),
    "DATA before HEAD": lambda id: _data_frame(id, 0, b"x"),
    "DATA over the window": lambda id: (
        encode_frame(FrameKind.HEAD, id, VALID_HEAD)
        + b"".join(_data_frame(id, at, bytes(262_144)) for at in (0, 262_144, 524_288))
    ),
    "DATA at a wrong offset": lambda id: (
        encode_frame(FrameKind.HEAD, id, VALID_HEAD) + _data_frame(id, 1 << 40, b"x")
    ),
    "ACK of bytes not sent": lambda id: _offset_frame(FrameKind.ACK, id, 1 << 40),
    "END at a wrong offset": lambda id: (
        encode_frame(FrameKind.HEAD, id, VALID_HEAD) + _offset_frame(FrameKind.END, id, 5)
    ),
    "ATTACH without a request": lambda id: _offset_frame(FrameKind.ATTACH, id, 0),
    "OPEN by the desktop": lambda id: encode_frame(FrameKind.OPEN, b"y" * 16, b"{}"),
    "DATA of an unknown stream": lambda id: _data_frame(b"z" * 16, 0, b"x"),
    "a second HELLO": lambda id: HELLO,
}


@ensureDeferred
async def test_each_protocol_violation_closes_the_connection_with_1002(
    raw_cluster: RawCluster,
) -> None:
    """The waiting client gets 502 or an incomplete response, without any injected header."""
    for name, violation in VIOLATIONS.items():
        bridge = await connect_bridge(raw_cluster, STATUS)
        await wait_until(lambda: _is_listed(raw_cluster), "the desktop to be listed")
        waiting = Deferred.fromCoroutine(request_evil_desktop(raw_cluster))
        waiting.addErrback(lambda _: (0, b""))
        id = await deferToThread(bridge.next_stream_id)
        await deferToThread(bridge.send, violation(id))
        assert await deferToThread(bridge.close_code) == 1002, name
        status, body = await waiting
        assert status in (0, 502) and b"Evil" not in body, (name, status, body)
        bridge.connection.close()
    await wait_until(lambda: _is_unlisted(raw_cluster), "the desktop to be removed")
    await raw_cluster.check_serves()


async def _is_listed(raw_cluster: RawCluster) -> bool:
    token = await raw_cluster.cluster.create_token("alice")
    return "evil" in [each["name"] for each in await raw_cluster.cluster.list_desktops(token)]


async def _is_unlisted(raw_cluster: RawCluster) -> bool:
    return not await _is_listed(raw_cluster)


@ensureDeferred
async def test_floods_of_valid_frames_do_not_grow_the_proxy(raw_cluster: RawCluster) -> None:
    """Pings whose pongs are not read, empty fragments, STATUS frames, long lists of models."""
    (proxy,) = child_pids(raw_cluster.cloud.pid)
    models = tuple(f"{number:01000}" for number in range(1000))
    floods = {
        "pings": masked_frame(b"x" * 125, 0x89) * 500,
        "empty fragments": masked_frame(b"", 0x00) * 5000,
        "repeated STATUS": masked_frame(STATUS * 1000),
        "long lists of models": masked_frame(
            encode_json_frame(FrameKind.STATUS, CONNECTION_ID, Status("down", "1", models))
        ),
        "ACKs of an unknown stream": masked_frame(
            _offset_frame(FrameKind.ACK, b"y" * 16, 0) * 1000
        ),
    }
    for name, flood in floods.items():
        bridge = await connect_bridge(raw_cluster)
        before = resident_bytes(proxy)
        if name == "empty fragments":
            bridge.connection.sendall(masked_frame(b"", 0x02))
        sent = await deferToThread(send_without_reading, bridge.connection, flood, 5.0, 40 * MB)
        grown = resident_bytes(proxy) - before
        print(f"\n{name}: {sent / MB:.1f} MB sent, {grown / MB:.1f} MB grown")
        assert grown < 16 * MB, name
        bridge.connection.close()
        await wait_until(lambda: _is_unlisted(raw_cluster), "the desktop to be removed")
        await raw_cluster.check_serves()
    assert child_pids(raw_cluster.cloud.pid) == [proxy]


@ensureDeferred
async def test_tunnels_without_a_hello_are_limited_and_time_out(raw_cluster: RawCluster) -> None:
    """More than twice a user's desktops get 429; pings do not extend the timeout of 30 s."""
    token = await raw_cluster.cluster.create_token("alice", "desktop")
    tunnels: list[socket.socket] = []

    def fill() -> str:
        try:
            while len(tunnels) < 200:
                tunnels.append(open_tunnel(raw_cluster.cluster.cloud_port, token))
        except AssertionError as refused:
            return str(refused)
        return ""

    assert "429" in await deferToThread(fill) and len(tunnels) < 70

    def ping_until_closed() -> list[bytes]:
        received = []
        for _ in range(25):
            for tunnel in tunnels:
                with suppress(OSError):
                    tunnel.send(masked_frame(b"", 0x89))
            time.sleep(1)
        for tunnel in tunnels:
            tunnel.settimeout(30)
            received.append(b"".join(iter(partial(tunnel.recv, 4096), b"")))
        return received

    closing_bytes = await deferToThread(ping_until_closed)
    assert all(b"\x03\xea" in each for each in closing_bytes), closing_bytes
    bridge = await connect_bridge(raw_cluster, STATUS)
    await wait_until(lambda: _is_listed(raw_cluster), "a new desktop to be accepted")
    bridge.connection.close()
