"""Frames of WebSocket, right and wrong, against both ends of a tunnel's.

What a frame carries is now and then a tunnel's message, else anything. Nothing may be raised, what
is kept has a bound, and no timer outlives its connection.
"""

from __future__ import annotations

import struct
from base64 import b64encode
from hashlib import sha1
from random import Random
from typing import Any

import txaio
from twisted.internet.task import Clock

from ctllm.tunnel.frames import (
    CONNECTION_ID,
    MAX_MESSAGE,
    Desktop,
    FrameKind,
    Hello,
    encode_json_frame,
)
from ctllm.tunnel.websocket.factories import BridgeWebSocketFactory, ProxyWebSocketFactory
from ctllm.tunnel.websocket.protocols import BridgeWebSocket
from tests.fuzz.http import ClosingTransport, pieces
from tests.fuzz.tunnel import initiator, mutated, responder, some_frame

HELLO = encode_json_frame(FrameKind.HELLO, CONNECTION_ID, Hello(1, 1000, Desktop("d" * 32, "d")))
UPGRADE = (
    b"GET /ws/tunnel HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Protocol: ctllm.tunnel.v1\r\n\r\n"
)
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Protocol: ctllm.tunnel.v1\r\nSec-WebSocket-Accept: %b\r\n\r\n"
)
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_LENGTHS = (0, 1, 125, 126, 65535, 65536, MAX_MESSAGE, MAX_MESSAGE + 1, 1 << 40, (1 << 64) - 1)


def proxy(rng: Random, clock: Any) -> tuple[Any, ClosingTransport]:
    """The proxy's end, open, and most often greeted."""
    end: Any = initiator(rng)
    end.connection_lost(0.0)

    def greeted(socket: Any, message: bytes) -> None:
        socket.attach_tunnel(end)
        end.receive_message(message)

    socket, wire = (
        ProxyWebSocketFactory(clock, greeted, 20, 10).buildProtocol(None),
        ClosingTransport(),
    )
    socket.makeConnection(wire)
    socket.dataReceived(UPGRADE)
    if rng.random() < 0.8:
        socket.dataReceived(framed(rng, HELLO, 0x82, masked=True))
    return socket, wire


def bridge(rng: Random, clock: Any) -> tuple[Any, ClosingTransport]:
    """The bridge's end, open."""
    end: Any = responder(rng)
    end.connection_lost(0.0)

    def make() -> BridgeWebSocket:
        return BridgeWebSocket(clock, end, lambda _: end.connection_made(), lambda *_: None)

    socket: Any = BridgeWebSocketFactory("ws://x/ws/tunnel", {}, clock, make, 20, 10).buildProtocol(
        None
    )
    wire = ClosingTransport()
    socket.makeConnection(wire)
    (key,) = [
        line[19:] for line in wire.value().split(b"\r\n") if line.startswith(b"Sec-WebSocket-K")
    ]
    socket.dataReceived(SWITCHED % b64encode(sha1(key + _GUID).digest()))
    return socket, wire


def framed(rng: Random, payload: bytes, first: int, masked: bool) -> bytes:
    """One frame; its length is written in the shortest way."""
    size, bit, key = len(payload), 0x80 if masked else 0, bytes(4) if masked else b""
    if size < 126:
        return bytes((first, bit | size)) + key + payload
    if size < 65536:
        return bytes((first, bit | 126)) + struct.pack("!H", size) + key + payload
    return bytes((first, bit | 127)) + struct.pack("!Q", size) + key + payload


def anything(rng: Random, masked: bool) -> bytes:
    """One frame: right, of any kind, of a wrong length, or mutated."""
    ids = [bytes(16), b"x" * 16]
    payload = some_frame(rng, ids) if rng.random() < 0.5 else rng.randbytes(rng.randrange(140))
    first = rng.choice((0x82, 0x82, 0x82, 0x02, 0x00, 0x80, 0x81, 0x88, 0x89, 0x8A, 0xC2, 0x09,
                        rng.randrange(256)))  # fmt: skip
    masked = masked if rng.random() < 0.97 else not masked
    if rng.random() < 0.05:
        bit = 0x80 if masked else 0
        return bytes((first, bit | 127)) + struct.pack("!Q", rng.choice(_LENGTHS)) + payload
    made = framed(rng, payload, first, masked)
    return mutated(rng, made) if rng.random() < 0.2 else made


def attack(rng: Random, frames: int) -> int:
    """Send so many frames, at new ends once one closed; give how many closed."""
    closed, sent = 0, 0
    txaio_config: Any = vars(txaio)["config"]
    before, txaio_config.loop = txaio_config.loop, None
    try:
        while sent < frames:
            clock = txaio_config.loop = Clock()
            made = rng.choice((proxy, bridge))
            socket, wire = made(rng, clock)
            for _ in range(rng.randrange(1, 40)):
                sent += 1
                for piece in pieces(rng, anything(rng, masked=made is proxy)):
                    socket.dataReceived(piece)
                clock.advance(0)
                assert kept(socket) <= 2 * MAX_MESSAGE, kept(socket)
                if wire.gone or socket.is_closing:
                    closed += 1
                    break
            socket.connectionLost(wire.reason)
            clock.advance(100)  # autobahn's timers do nothing, but stay a while
            left = [call for call in clock.getDelayedCalls() if call.active()]
            assert not left, left
    finally:
        txaio_config.loop = before
    return closed


def kept(socket: Any) -> int:
    """How many bytes an end keeps of what is not whole."""
    parts = getattr(socket, "message_data", None) or ()
    return len(socket._frame_decoder) + len(socket.data or b"") + sum(map(len, parts))
