"""Valid and invalid WebSocket frames for both ends of a tunnel.

A payload is a tunnel frame or random bytes. Nothing may be raised, the buffered bytes are bounded,
and no timer outlives its connection.
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
from tests.fuzz.http import ClosingTransport, split_randomly
from tests.fuzz.tunnel import initiator, mutated, random_frame, responder

HELLO = encode_json_frame(FrameKind.HELLO, CONNECTION_ID, Hello(1, 1000, Desktop("d" * 32, "d")))
UPGRADE = (
    b"GET /ws/tunnel HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Protocol: ctllm.tunnel.v1\r\n\r\n"
)
SWITCHING_PROTOCOLS = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Protocol: ctllm.tunnel.v1\r\nSec-WebSocket-Accept: %b\r\n\r\n"
)
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_LENGTHS = (0, 1, 125, 126, 65535, 65536, MAX_MESSAGE, MAX_MESSAGE + 1, 1 << 40, (1 << 64) - 1)


def open_proxy_socket(rng: Random, clock: Any) -> tuple[Any, ClosingTransport]:
    """Return the proxy's end, open, in most cases after HELLO."""
    peer: Any = initiator(rng)
    peer.connection_lost(0.0)

    def hello_received(socket: Any, message: bytes) -> None:
        socket.attach_tunnel(peer)
        peer.receive_message(message)

    socket, transport = (
        ProxyWebSocketFactory(clock, hello_received, 20, 10).buildProtocol(None),
        ClosingTransport(),
    )
    socket.makeConnection(transport)
    socket.dataReceived(UPGRADE)
    if rng.random() < 0.8:
        socket.dataReceived(websocket_frame(rng, HELLO, 0x82, masked=True))
    return socket, transport


def open_bridge_socket(rng: Random, clock: Any) -> tuple[Any, ClosingTransport]:
    """Return the desktop's end, open."""
    peer: Any = responder(rng)
    peer.connection_lost(0.0)

    def make() -> BridgeWebSocket:
        return BridgeWebSocket(clock, peer, lambda _: peer.connection_made(), lambda *_: None)

    socket: Any = BridgeWebSocketFactory("ws://x/ws/tunnel", {}, clock, make, 20, 10).buildProtocol(
        None
    )
    transport = ClosingTransport()
    socket.makeConnection(transport)
    (key,) = [
        line[19:]
        for line in transport.value().split(b"\r\n")
        if line.startswith(b"Sec-WebSocket-K")
    ]
    socket.dataReceived(SWITCHING_PROTOCOLS % b64encode(sha1(key + _GUID).digest()))
    return socket, transport


def websocket_frame(rng: Random, payload: bytes, first_byte: int, masked: bool) -> bytes:
    """Return a frame with the shortest encoding of its length."""
    size, bit, key = len(payload), 0x80 if masked else 0, bytes(4) if masked else b""
    if size < 126:
        return bytes((first_byte, bit | size)) + key + payload
    if size < 65536:
        return bytes((first_byte, bit | 126)) + struct.pack("!H", size) + key + payload
    return bytes((first_byte, bit | 127)) + struct.pack("!Q", size) + key + payload


def random_websocket_frame(rng: Random, masked: bool) -> bytes:
    """Return a frame: valid, of any opcode, of a wrong length, or mutated."""
    ids = [bytes(16), b"x" * 16]
    payload = random_frame(rng, ids) if rng.random() < 0.5 else rng.randbytes(rng.randrange(140))
    first = rng.choice((0x82, 0x82, 0x82, 0x02, 0x00, 0x80, 0x81, 0x88, 0x89, 0x8A, 0xC2, 0x09,
                        rng.randrange(256)))  # fmt: skip
    masked = masked if rng.random() < 0.97 else not masked
    if rng.random() < 0.05:
        bit = 0x80 if masked else 0
        return bytes((first, bit | 127)) + struct.pack("!Q", rng.choice(_LENGTHS)) + payload
    frame = websocket_frame(rng, payload, first, masked)
    return mutated(rng, frame) if rng.random() < 0.2 else frame


def fuzz_websocket(rng: Random, frames: int) -> int:
    """Send `frames` frames, to a new socket after each close; return how many closed."""
    closed, sent = 0, 0
    txaio_config: Any = vars(txaio)["config"]
    original_loop, txaio_config.loop = txaio_config.loop, None
    try:
        while sent < frames:
            clock = txaio_config.loop = Clock()
            make_peer = rng.choice((open_proxy_socket, open_bridge_socket))
            socket, transport = make_peer(rng, clock)
            for _ in range(rng.randrange(1, 40)):
                sent += 1
                for chunk in split_randomly(
                    rng, random_websocket_frame(rng, masked=make_peer is open_proxy_socket)
                ):
                    socket.dataReceived(chunk)
                clock.advance(0)
                assert buffered_bytes(socket) <= 2 * MAX_MESSAGE, buffered_bytes(socket)
                if transport.is_closed or socket.is_closing:
                    closed += 1
                    break
            socket.connectionLost(transport.reason)
            clock.advance(100)  # autobahn's own timers expire
            pending_calls = [call for call in clock.getDelayedCalls() if call.active()]
            assert not pending_calls, pending_calls
    finally:
        txaio_config.loop = original_loop
    return closed


def buffered_bytes(socket: Any) -> int:
    """Return how many bytes of incomplete frames and messages a socket buffers."""
    parts = getattr(socket, "message_data", None) or ()
    return len(socket._frame_decoder) + len(socket.data or b"") + sum(map(len, parts))
