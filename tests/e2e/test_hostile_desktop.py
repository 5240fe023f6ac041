"""A desktop that knows the tunnel well and means harm: only its own connection suffers."""

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
    """One masked WebSocket frame."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack("!H", size & 0xFFFF)
    length = length if size < 65536 else b"\xff" + struct.pack("!Q", size)
    return bytes([first_byte]) + length + bytes(4) + payload


class RawBridge:
    """A bridge on a bare socket."""

    def __init__(self, port: int, token: str, *frames: bytes) -> None:
        self.connection = open_tunnel(port, token)
        self._unread = b""
        self.send(HELLO, *frames)

    def send(self, *frames: bytes) -> None:
        self.connection.sendall(masked_frame(b"".join(frames)))

    def messages(self) -> Iterator[tuple[int, bytes]]:
        """Opcode and payload of what the proxy says, until it closes or is silent for 10 s."""
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
        """The id of the next exchange that the proxy opens."""
        for opcode, payload in self.messages():
            for kind, id, _ in split_frames(payload) if opcode == 2 else ():
                if kind == FrameKind.OPEN:
                    return id
        raise AssertionError("nothing was opened")

    def close_code(self) -> int:
        """The code with which the proxy closes."""
        for opcode, payload in self.messages():
            if opcode == 8:
                return int(struct.unpack_from("!H", payload)[0])
        return 0


@pytest.fixture(scope="module")
def raw_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A line with a raw Ollama."""
    cluster = Cluster(tmp_path_factory.mktemp("desktop"))
    yield pytest_twisted.blockon(Deferred.fromCoroutine(start_raw_cluster(cluster)))
    pytest_twisted.blockon(Deferred.fromCoroutine(cluster.stop()))


async def connect_bridge(raw_cluster: RawCluster, *frames: bytes) -> RawBridge:
    token = await raw_cluster.cluster.create_token("alice", "desktop")
    return await deferToThread(RawBridge, raw_cluster.cluster.cloud_port, token, *frames)


async def request_evil_desktop(raw_cluster: RawCluster) -> tuple[int, bytes]:
    """What a client hears who asks this desktop."""
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


#: What is said in answer to an exchange of that id; each ends the connection with 1002.
VIOLATIONS: dict[str, Callable[[bytes], bytes]] = {
    "a header that is two": lambda id: encode_frame(
        FrameKind.HEAD, id, _head_with(("A", "b\r\nEvil: 1"))
    ),
    "a name that is two": lambda id: encode_frame(
        FrameKind.HEAD, id, _head_with(("A\r\nEvil", "b"))
    ),
    "a giant head": lambda id: encode_frame(FrameKind.HEAD, id, _head_with(("A", "b" * 140_000))),
    "bytes before the head": lambda id: _data_frame(id, 0, b"x"),
    "bytes over the window": lambda id: (
        encode_frame(FrameKind.HEAD, id, VALID_HEAD)
        + b"".join(_data_frame(id, at, bytes(262_144)) for at in (0, 262_144, 524_288))
    ),
    "bytes from elsewhere": lambda id: (
        encode_frame(FrameKind.HEAD, id, VALID_HEAD) + _data_frame(id, 1 << 40, b"x")
    ),
    "an acknowledgement of what was not sent": lambda id: _offset_frame(FrameKind.ACK, id, 1 << 40),
    "an end elsewhere": lambda id: (
        encode_frame(FrameKind.HEAD, id, VALID_HEAD) + _offset_frame(FrameKind.END, id, 5)
    ),
    "an attachment that nobody asked for": lambda id: _offset_frame(FrameKind.ATTACH, id, 0),
    "an exchange that it opens itself": lambda id: encode_frame(FrameKind.OPEN, b"y" * 16, b"{}"),
    "bytes of somebody else's exchange": lambda id: _data_frame(b"z" * 16, 0, b"x"),
    "a second greeting": lambda id: HELLO,
}


@ensureDeferred
async def test_each_broken_rule_ends_the_connection_with_a_reason(raw_cluster: RawCluster) -> None:
    """1002; the client that waited gets 502, or an answer that breaks off, and no byte of it."""
    for name, answer in VIOLATIONS.items():
        bridge = await connect_bridge(raw_cluster, STATUS)
        await wait_until(lambda: _is_listed(raw_cluster), "the desktop to be known")
        waiting = Deferred.fromCoroutine(request_evil_desktop(raw_cluster))
        waiting.addErrback(lambda _: (0, b""))
        id = await deferToThread(bridge.next_stream_id)
        await deferToThread(bridge.send, answer(id))
        assert await deferToThread(bridge.close_code) == 1002, name
        status, body = await waiting
        assert status in (0, 502) and b"Evil" not in body, (name, status, body)
        bridge.connection.close()
    await wait_until(lambda: _is_unlisted(raw_cluster), "it to be gone")
    await raw_cluster.check_serves()


async def _is_listed(raw_cluster: RawCluster) -> bool:
    token = await raw_cluster.cluster.create_token("alice")
    return "evil" in [each["name"] for each in await raw_cluster.cluster.list_desktops(token)]


async def _is_unlisted(raw_cluster: RawCluster) -> bool:
    return not await _is_listed(raw_cluster)


@ensureDeferred
async def test_floods_of_what_is_allowed(raw_cluster: RawCluster) -> None:
    """Pings whose pongs are not read, pieces, status upon status, lists: memory has a bound."""
    (proxy,) = child_pids(raw_cluster.cloud.pid)
    models = tuple(f"{number:01000}" for number in range(1000))
    floods = {
        "pings": masked_frame(b"x" * 125, 0x89) * 500,
        "empty pieces": masked_frame(b"", 0x00) * 5000,
        "status upon status": masked_frame(STATUS * 1000),
        "long lists": masked_frame(
            encode_json_frame(FrameKind.STATUS, CONNECTION_ID, Status("down", "1", models))
        ),
        "resets of nothing": masked_frame(_offset_frame(FrameKind.ACK, b"y" * 16, 0) * 1000),
    }
    for name, flood in floods.items():
        bridge = await connect_bridge(raw_cluster)
        before = resident_bytes(proxy)
        if name == "empty pieces":
            bridge.connection.sendall(masked_frame(b"", 0x02))
        taken = await deferToThread(send_without_reading, bridge.connection, flood, 5.0, 40 * MB)
        grown = resident_bytes(proxy) - before
        print(f"\n{name}: {taken / MB:.1f} MB sent, {grown / MB:.1f} MB grown")
        assert grown < 16 * MB, name
        bridge.connection.close()
        await wait_until(lambda: _is_unlisted(raw_cluster), "it to be gone")
        await raw_cluster.check_serves()
    assert child_pids(raw_cluster.cloud.pid) == [proxy]


@ensureDeferred
async def test_sockets_that_never_say_hello(raw_cluster: RawCluster) -> None:
    """Beyond twice the desktops of a user 429; after half a minute they go, for all their pings."""
    token = await raw_cluster.cluster.create_token("alice", "desktop")
    silent: list[socket.socket] = []

    def fill() -> str:
        try:
            while len(silent) < 200:
                silent.append(open_tunnel(raw_cluster.cluster.cloud_port, token))
        except AssertionError as refused:
            return str(refused)
        return ""

    assert "429" in await deferToThread(fill) and len(silent) < 70

    def last_words() -> list[bytes]:
        heard = []
        for _ in range(25):
            for wire in silent:
                with suppress(OSError):
                    wire.send(masked_frame(b"", 0x89))
            time.sleep(1)
        for wire in silent:
            wire.settimeout(30)
            heard.append(b"".join(iter(partial(wire.recv, 4096), b"")))
        return heard

    words = await deferToThread(last_words)
    assert all(b"\x03\xea" in each for each in words), words
    bridge = await connect_bridge(raw_cluster, STATUS)
    await wait_until(lambda: _is_listed(raw_cluster), "another to be let in")
    bridge.connection.close()
