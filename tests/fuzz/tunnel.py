"""Frames of a hostile peer against both ends of a tunnel.

A frame is made by a small grammar from what the end under attack knows (its exchange ids, offsets
near its own), then some are mutated. After every message the end must hold no more than its
windows allow, and nothing but `ProtocolViolation` may be raised.
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

WINDOW, MOST = 1000, 16
OK = ResponseHead(200, b"OK", ())
POST = RequestHead(b"POST", b"/api/chat", ((b"A", b"b"),))


class SilentSink:
    """A Caller and a Call that take everything, and now and then wait a while."""

    def __init__(self) -> None:
        self.over = False
        self.got = 0

    def write_head(self, head: ResponseHead) -> None:
        assert not self.over

    def write(self, piece: bytes) -> None:
        assert not self.over
        self.got += len(piece)

    write = write

    def finish(self) -> None:
        assert not self.over

    def fail(self, error: Exception) -> None:
        assert not self.over
        self.over = True

    def cancel(self, error: Exception) -> None:
        self.over = True

    def pause_response(self) -> None: ...
    def resume_response(self) -> None: ...
    def pause_request_body(self) -> None: ...
    def resume_request_body(self) -> None: ...


def initiator(rng: Random) -> Initiator:
    """A proxy's end, greeted, with some exchanges under way."""
    made = Initiator(WINDOW, 30, MOST)
    made.receive_message(
        encode_json_frame(FrameKind.HELLO, CONNECTION_ID, Hello(1, WINDOW, Desktop("d", "d")))
    )
    for _ in range(rng.randrange(1, 8)):
        asked = made.start_request(POST, SilentSink(), rng.choice((0, 0, 60)))
        asked.write(bytes(rng.randrange(1, 2000)))
        if rng.random() < 0.7:
            asked.finish()
        if rng.random() < 0.2:
            asked.pause_response()
    made.next_message()
    return made


def responder(rng: Random) -> Responder:
    """A desktop's end, greeted; work answers by itself."""
    callers: list[Any] = []

    def accept(head: RequestHead, caller: Any) -> Any:
        callers.append(caller)
        return SilentSink()

    made = Responder(
        WINDOW,
        30,
        MOST,
        request_handler=accept,
        resume_buffer_bytes=WINDOW,
        desktop=Desktop("d", "d"),
    )

    made.connection_made()
    made.receive_message(encode_json_frame(FrameKind.HELLO, CONNECTION_ID, Hello(1, WINDOW)))
    for _ in range(rng.randrange(1, 8)):
        payload = b'{"method":"GET","target":"/","headers":[],"resume":%d}' % rng.choice((0, 9))
        made.receive_message(encode_frame(FrameKind.OPEN, rng.randbytes(16), payload))
    for caller in callers:
        caller.write_head(OK)
        caller.write(bytes(rng.randrange(1, 500)))
        if rng.random() < 0.5:
            caller.finish()
    made.next_message()
    return made


def held(end: Any) -> int:
    """How many bytes of bodies an end keeps."""
    return sum(stream.send_buffer.buffered for stream in end.streams.values())


_HEADS: tuple[Any, ...] = ({"status": 200, "reason": "", "headers": []},
          {"status": 100, "reason": "x", "headers": [["a", "b"]]},
          {"status": 200, "reason": "", "headers": [["a\r\n", "b"]]},
          {"method": "GET", "target": "/x", "headers": [["a", "b"]], "resume": 0},
          {"method": "G T", "target": "x", "headers": [["", ""]], "resume": -1},
          {"version": 1, "window": 5}, {"version": 1, "window": 1 << 31},
          {"ollama": "up", "models": ["m"]}, {"code": "cancelled", "message": "m"},
          {"code": "nonsense", "message": "\ud800"}, [], None, {"a": [[[[]]]]})  # fmt: skip
_OFFSETS = (0, 1, 2, 100, WINDOW, WINDOW + 1, 65536, 1 << 31, (1 << 63) - 1, (1 << 64) - 1)


def some_frame(rng: Random, ids: list[bytes]) -> bytes:
    """One frame, as a rule of a right form."""
    kind = rng.choice((3, 4, 4, 5, 5, 5, 5, 6, 7, 8, 8, 9, rng.randrange(256)))
    unknown = rng.choice((CONNECTION_ID, bytes(15) + b"x"))
    id = rng.choice(ids) if ids and rng.random() < 0.9 else unknown
    if kind in (5, 6, 8, 9):
        payload = rng.choice((*_OFFSETS, rng.randrange(2000))).to_bytes(8, "big")
        payload += rng.randbytes(rng.randrange(1, 50)) if kind == 5 else b""
    else:
        payload = json.dumps(rng.choice(_HEADS)).encode()
    made = encode_frame(kind, id, payload)  # type: ignore[arg-type]
    return mutated(rng, made) if rng.random() < 0.3 else made


def mutated(rng: Random, data: bytes) -> bytes:
    """`data` with a few bytes changed, cut out or doubled."""
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(changed) + 1)
        how = rng.randrange(4)
        if how == 0 and at < len(changed):
            changed[at] = rng.randrange(256)
        elif how == 1:
            del changed[at : at + rng.randrange(1, 9)]
        elif how == 2:
            changed[at:at] = changed[at : at + rng.randrange(1, 30)]
        elif how == 3:
            changed[at:at] = rng.choice((b"\0", b"\xff" * 4, b"\r\n", b"{", b'"', b"\x7f\xff"))
    return bytes(changed)


def attack(rng: Random, frames: int) -> int:
    """Send so many frames, at new ends after each violation; give how many violations."""
    violations, sent = 0, 0
    while sent < frames:
        end: Any = rng.choice((initiator, responder))(rng)
        bound = (MOST + 1) * 4 * WINDOW
        for _ in range(rng.randrange(1, 40)):
            count = rng.choice((1, 1, 1, 3))
            message = b"".join(some_frame(rng, list(end.streams)) for _ in range(count))
            sent += count
            try:
                end.receive_message(message)
                end.next_message()
            except ProtocolViolation as violation:
                violations += 1
                end.terminate(violation)
                assert not end.streams
                break
            assert len(end.streams) <= MOST and held(end) <= bound, held(end)
        end.connection_lost(0.0)
        end.remove_expired(1e9)
        assert not end.streams
    return violations
