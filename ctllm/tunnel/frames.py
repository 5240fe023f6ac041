"""Frames of the tunnel: bytes to values and back.

A WebSocket message holds one or more whole frames. A frame is a header of 21 bytes (kind, length
of the payload, exchange id; big-endian) and a payload; ``docs/tunnel.md`` tells each kind. The
id of a frame that is about the connection itself is all zeros.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Annotated, Any, TypeVar

import msgspec

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.common.sanitize import MAX_LOGGED_CHARS, sanitize_line
from ctllm.errors import ProtocolViolation

VERSION = 1
SUBPROTOCOL = "ctllm.tunnel.v1"
CONNECTION_ID = bytes(16)

HEADER = struct.Struct("!BI16s")
OFFSET = struct.Struct("!Q")
_DATA_HEADER = struct.Struct("!BI16sQ")

#: Most bytes of an answer or request body in one DATA frame, besides its offset. Senders cut far
#: below, unless a single line is longer.
MAX_DATA = 256 * 1024
#: Most bytes of the payloads that are JSON: heads and reasons; HELLO and STATUS carry lists.
MAX_HEAD = 128 * 1024
MAX_LIST = 1024 * 1024
#: Most bytes of one message. A sender stops filling well below; this is what a receiver refuses.
MAX_MESSAGE = 2 * 1024 * 1024
#: Most models that one STATUS names: a proxy keeps the names of each desktop.
MAX_MODELS = 1000


class FrameKind(IntEnum):
    """The first byte of a frame."""

    HELLO = 1
    STATUS = 2
    OPEN = 3
    HEAD = 4
    DATA = 5
    END = 6
    RESET = 7
    ACK = 8
    ATTACH = 9
    BYE = 10


_DATA_KIND = int(FrameKind.DATA)  # an enumeration's members are slow to get at

_MAX_PAYLOAD = {
    FrameKind.HELLO: MAX_LIST,
    FrameKind.STATUS: MAX_LIST,
    FrameKind.OPEN: MAX_HEAD,
    FrameKind.HEAD: MAX_HEAD,
    FrameKind.DATA: MAX_DATA + OFFSET.size,
    FrameKind.END: OFFSET.size,
    FrameKind.RESET: 4096,
    FrameKind.ACK: OFFSET.size,
    FrameKind.ATTACH: OFFSET.size,
    FrameKind.BYE: 4096,
}
_MAX_BY_NUMBER = [
    _MAX_PAYLOAD.get(FrameKind(n), 0) if n in set(FrameKind) else 0 for n in range(256)
]


class Desktop(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which desktop a bridge belongs to."""

    id: str
    name: str


class Hello(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What each side says first: the bridge before the proxy.

    `window` is how many bytes beyond its acknowledgements this side takes for one direction of
    one exchange; `exchanges` (hexadecimal ids) those that it still holds.
    """

    version: int
    window: int
    desktop: Desktop | None = None
    capabilities: tuple[str, ...] = ()
    streams: tuple[str, ...] = msgspec.field(name="exchanges", default=())


class Status(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the desktop knows of its Ollama ("up", "down", "demo"); replaces what it said."""

    ollama: str
    version: str = ""
    models: Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_MODELS)] = ()


class Reason(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why an exchange (RESET) or the connection (BYE) ends: a wire code and a sentence."""

    code: str
    message: str


def encode_frame(kind: FrameKind, stream_id: bytes, payload: bytes = b"") -> bytes:
    """One frame as bytes."""
    return HEADER.pack(kind, len(payload), stream_id) + payload


def encode_offset_frame(kind: FrameKind, stream_id: bytes, offset: int) -> bytes:
    """One frame whose payload is an absolute offset (END, ACK, ATTACH)."""
    return HEADER.pack(kind, OFFSET.size, stream_id) + OFFSET.pack(offset)


def encode_data_header(stream_id: bytes, offset: int, length: int) -> bytes:
    """What precedes the `length` bytes of a DATA frame."""
    return _DATA_HEADER.pack(_DATA_KIND, 8 + length, stream_id, offset)


def encode_json_frame(kind: FrameKind, stream_id: bytes, value: msgspec.Struct) -> bytes:
    """One frame whose payload is JSON."""
    return encode_frame(kind, stream_id, msgspec.json.encode(value))


T = TypeVar("T")


def decode_json_payload(payload: bytes, kind: type[T]) -> T:
    """Decode a JSON payload; raises ProtocolViolation."""
    try:
        return decode_json(payload, kind)
    except InvalidJson as error:
        name = kind.__name__.upper()
        raise ProtocolViolation(
            f"a {name} payload that is not right: {sanitize_line(error, MAX_LOGGED_CHARS)}"
        ) from None


def decode_offset(payload: bytes) -> int:
    """The absolute offset that a payload is; raises ProtocolViolation."""
    if len(payload) != OFFSET.size:
        raise ProtocolViolation("an offset that is not eight bytes long")
    found: int = OFFSET.unpack(payload)[0]
    return found


def split_frames(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield (kind, exchange id, payload) of each frame; raises ProtocolViolation at a bad one."""
    position, end = 0, len(message)
    unpack_from: Any = HEADER.unpack_from
    while position < end:
        if end - position < HEADER.size:
            raise ProtocolViolation("a frame header that is cut short")
        kind, length, stream_id = unpack_from(message, position)
        if length > _MAX_BY_NUMBER[kind]:
            what = f"a frame of kind {kind} and {length} bytes: unknown or too large"
            raise ProtocolViolation(what)
        start = position + HEADER.size
        position = start + length
        if position > end:
            raise ProtocolViolation("a frame whose payload is cut short")
        yield kind, stream_id, message[start:position]
