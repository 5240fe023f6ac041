"""Frames of a hostile peer against both ends of a tunnel.

Frames are generated from the peer's own stream ids and offsets, then some are mutated. After every
message the peer must buffer no more than its windows allow, and only `ProtocolViolation` may be
raised.
"""

from __future__ import annotations

import json
from random import Random
from typing import Any

from ctllm.errors import ProtocolViolation
from ctllm.http.message.head import RequestHead, ResponseHead
from ctllm.tunnel.frames import (
    CONNECTION_ID,
    Desktop,
    FrameKind,
    Hello,
    encode_frame,
    encode_json_frame,
)
from ctllm.tunnel.initiator import Initiator
from ctllm.tunnel.responder import Responder

WINDOW, MAX_STREAMS = 1000, 16
RESPONSE_HEAD = ResponseHead(200, b"OK", ())
REQUEST_HEAD = RequestHead(b"POST", b"/api/chat", ((b"A", b"b"),))


class CheckingSink:
    """A response and request sink that fails if it is used after its end."""

    def __init__(self) -> None:
        self.is_closed = False
        self.received_bytes = 0

    def write_head(self, head: ResponseHead) -> None:
        assert not self.is_closed

    def write(self, data: bytes) -> None:
        assert not self.is_closed
        self.received_bytes += len(data)

    write = write

    def finish(self) -> None:
        assert not self.is_closed

    def fail(self, error: Exception) -> None:
        assert not self.is_closed
        self.is_closed = True

    def cancel(self, error: Exception) -> None:
        self.is_closed = True

    def pause_response(self) -> None: ...
    def resume_response(self) -> None: ...
    def pause_request_body(self) -> None: ...
    def resume_request_body(self) -> None: ...


def initiator(rng: Random) -> Initiator:
    """Return a proxy's end after HELLO, with some open streams."""
    peer = Initiator(WINDOW, 30, MAX_STREAMS)
    peer.receive_message(
        encode_json_frame(FrameKind.HELLO, CONNECTION_ID, Hello(1, WINDOW, Desktop("d", "d")))
    )
    for _ in range(rng.randrange(1, 8)):
        request_sink = peer.start_request(REQUEST_HEAD, CheckingSink(), rng.choice((0, 0, 60)))
        request_sink.write(bytes(rng.randrange(1, 2000)))
        if rng.random() < 0.7:
            request_sink.finish()
        if rng.random() < 0.2:
            request_sink.pause_response()
    peer.next_message()
    return peer


def responder(rng: Random) -> Responder:
    """Return a desktop's end after HELLO, with some open streams and responses."""
    sinks: list[Any] = []

    def accept(head: RequestHead, caller: Any) -> Any:
        sinks.append(caller)
        return CheckingSink()

    made = Responder(
        WINDOW,
        30,
        MAX_STREAMS,
        request_handler=accept,
        resume_buffer_bytes=WINDOW,
        desktop=Desktop("d", "d"),
    )

    made.connection_made()
    made.receive_message(encode_json_frame(FrameKind.HELLO, CONNECTION_ID, Hello(1, WINDOW)))
    for _ in range(rng.randrange(1, 8)):
        payload = b'{"method":"GET","target":"/","headers":[],"resume":%d}' % rng.choice((0, 9))
        made.receive_message(encode_frame(FrameKind.OPEN, rng.randbytes(16), payload))
    for sink in sinks:
        sink.write_head(RESPONSE_HEAD)
        sink.write(bytes(rng.randrange(1, 500)))
        if rng.random() < 0.5:
            sink.finish()
    made.next_message()
    return made


def buffered_bytes(peer: Any) -> int:
    """Return how many bytes of bodies a peer buffers."""
    return sum(stream.send_buffer.buffered for stream in peer.streams.values())


_HEADS: tuple[Any, ...] = ({"status": 200, "reason": "", "headers": []},
          {"status": 100, "reason": "x", "headers": [["a", "b"]]},
          {"status": 200, "reason": "", "headers": [["a\r\n", "b"]]},
          {"method": "GET", "target": "/x", "headers": [["a", "b"]], "resume": 0},
          {"method": "G T", "target": "x", "headers": [["", ""]], "resume": -1},
          {"version": 1, "window": 5}, {"version": 1, "window": 1 << 31},
          {"ollama": "up", "models": ["m"]}, {"code": "cancelled", "message": "m"},
          {"code": "nonsense", "message": "\ud800"}, [], None, {"a": [[[[]]]]})  # fmt: skip
_OFFSETS = (0, 1, 2, 100, WINDOW, WINDOW + 1, 65536, 1 << 31, (1 << 63) - 1, (1 << 64) - 1)


def random_frame(rng: Random, ids: list[bytes]) -> bytes:
    """Return one frame, in most cases of a valid form."""
    kind = rng.choice((3, 4, 4, 5, 5, 5, 5, 6, 7, 8, 8, 9, rng.randrange(256)))
    unknown = rng.choice((CONNECTION_ID, bytes(15) + b"x"))
    id = rng.choice(ids) if ids and rng.random() < 0.9 else unknown
    if kind in (5, 6, 8, 9):
        payload = rng.choice((*_OFFSETS, rng.randrange(2000))).to_bytes(8, "big")
        payload += rng.randbytes(rng.randrange(1, 50)) if kind == 5 else b""
    else:
        payload = json.dumps(rng.choice(_HEADS)).encode()
    frame = encode_frame(kind, id, payload)  # type: ignore[arg-type]
    return mutated(rng, frame) if rng.random() < 0.3 else frame


def mutated(rng: Random, data: bytes) -> bytes:
    """Return `data` with a few bytes changed, removed, repeated or inserted."""
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        position = rng.randrange(len(changed) + 1)
        mutation = rng.randrange(4)
        if mutation == 0 and position < len(changed):
            changed[position] = rng.randrange(256)
        elif mutation == 1:
            del changed[position : position + rng.randrange(1, 9)]
        elif mutation == 2:
            changed[position:position] = changed[position : position + rng.randrange(1, 30)]
        elif mutation == 3:
            changed[position:position] = rng.choice(
                (b"\0", b"\xff" * 4, b"\r\n", b"{", b'"', b"\x7f\xff")
            )
    return bytes(changed)


def fuzz_tunnel(rng: Random, frames: int) -> int:
    """Send `frames` frames, to a new peer after each violation; return how many violations."""
    violations, sent = 0, 0
    while sent < frames:
        peer: Any = rng.choice((initiator, responder))(rng)
        max_buffered = (MAX_STREAMS + 1) * 4 * WINDOW
        for _ in range(rng.randrange(1, 40)):
            count = rng.choice((1, 1, 1, 3))
            message = b"".join(random_frame(rng, list(peer.streams)) for _ in range(count))
            sent += count
            try:
                peer.receive_message(message)
                peer.next_message()
            except ProtocolViolation as violation:
                violations += 1
                peer.terminate(violation)
                assert not peer.streams
                break
            assert len(peer.streams) <= MAX_STREAMS and buffered_bytes(peer) <= max_buffered, (
                buffered_bytes(peer)
            )
        peer.connection_lost(0.0)
        peer.remove_expired(1e9)
        assert not peer.streams
    return violations
