"""Encoding and decoding of the tunnel's frames.

A WebSocket message holds one or more whole frames. A frame is a header of 21 bytes (kind, payload
length, stream id; big-endian) and a payload. ``docs/tunnel.md`` specifies each kind.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Annotated, TypeVar

import msgspec

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.common.sanitize import MAX_LOGGED_CHARS, sanitize_line
from ctllm.errors import ProtocolViolation

VERSION = 1
SUBPROTOCOL = "ctllm.tunnel.v1"
#: The stream id of frames that concern the connection itself.
CONNECTION_ID = bytes(16)

HEADER = struct.Struct("!BI16s")
OFFSET = struct.Struct("!Q")
_DATA_HEADER = struct.Struct("!BI16sQ")

#: Maximum bytes of a body in one DATA frame, without the offset. Senders use much less, unless a
#: single line is longer.
MAX_DATA = 256 * 1024
#: Maximum bytes of a JSON payload: in OPEN and HEAD, and in HELLO and STATUS, which have lists.
MAX_HEAD = 128 * 1024
MAX_LIST = 1024 * 1024
#: Maximum bytes of a message that a receiver accepts. Senders stop well below it.
MAX_MESSAGE = 2 * 1024 * 1024
#: Maximum bytes of the session assertion in AUTHORIZE.
MAX_AUTHORIZATION = 8 * 1024
#: The capability of a proxy that accepts AUTHORIZE.
AUTHORIZE_CAPABILITY = "authorize"
#: The capability of a desktop that enforces Ctllm-Allowed-Models.
ALLOWED_MODELS_CAPABILITY = "allowed-models"
#: The capability of a desktop that responds to requests for its own resources.
RESOURCES_CAPABILITY = "resources"
#: Maximum number of models in one STATUS; a proxy stores the names for each desktop.
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
    AUTHORIZE = 11


_DATA_KIND = int(FrameKind.DATA)  # access to a member of an enum is slow

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
    FrameKind.AUTHORIZE: MAX_AUTHORIZATION,
}
_MAX_BY_NUMBER = [
    _MAX_PAYLOAD.get(FrameKind(n), 0) if n in set(FrameKind) else 0 for n in range(256)
]


class Desktop(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The identity of a desktop: its id of 32 hexadecimal digits and its name for people."""

    id: str
    name: str


class Hello(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first frame of each side, sent by the desktop and then by the proxy.

    `window` is the number of unacknowledged bytes that this side accepts for one direction of one
    stream. `streams` has the hexadecimal ids of the streams that this side still has.
    """

    version: int
    window: int
    desktop: Desktop | None = None
    capabilities: tuple[str, ...] = ()
    streams: tuple[str, ...] = msgspec.field(name="exchanges", default=())


class Status(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The state of a desktop's Ollama ("up", "down" or "demo"), replacing the previous one."""

    ollama: str
    version: str = ""
    models: Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_MODELS)] = ()


class Reason(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why a stream (RESET) or the connection (BYE) ends: an error code and a sentence."""

    code: str
    message: str


def encode_frame(kind: FrameKind, stream_id: bytes, payload: bytes = b"") -> bytes:
    """Encode a frame."""
    return HEADER.pack(kind, len(payload), stream_id) + payload


def encode_offset_frame(kind: FrameKind, stream_id: bytes, offset: int) -> bytes:
    """Encode a frame whose payload is an absolute offset (END, ACK, ATTACH)."""
    return HEADER.pack(kind, OFFSET.size, stream_id) + OFFSET.pack(offset)


def encode_data_header(stream_id: bytes, offset: int, length: int) -> bytes:
    """Encode what precedes the `length` bytes of a DATA frame."""
    return _DATA_HEADER.pack(_DATA_KIND, 8 + length, stream_id, offset)


def encode_json_frame(kind: FrameKind, stream_id: bytes, value: msgspec.Struct) -> bytes:
    """Encode a frame whose payload is JSON."""
    return encode_frame(kind, stream_id, msgspec.json.encode(value))


T = TypeVar("T")


def decode_json_payload(payload: bytes, kind: type[T]) -> T:
    """Decode a JSON payload; raises ProtocolViolation."""
    try:
        return decode_json(payload, kind)
    except InvalidJson as error:
        name = kind.__name__.upper()
        raise ProtocolViolation(
            f"The payload of {name} is invalid: {sanitize_line(error, MAX_LOGGED_CHARS)}"
        ) from None


def decode_offset(payload: bytes) -> int:
    """Decode a payload that is an absolute offset; raises ProtocolViolation."""
    if len(payload) != OFFSET.size:
        raise ProtocolViolation("An offset must have eight bytes.")
    offset: int = OFFSET.unpack(payload)[0]
    return offset


def split_frames(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield the kind, stream id and payload of each frame; raises ProtocolViolation."""
    position, end = 0, len(message)
    unpack_from: Callable[[bytes, int], tuple[int, int, bytes]] = HEADER.unpack_from
    while position < end:
        if end - position < HEADER.size:
            raise ProtocolViolation("A frame header is truncated.")
        kind, length, stream_id = unpack_from(message, position)
        if length > _MAX_BY_NUMBER[kind]:
            raise ProtocolViolation(
                f"A frame of kind {kind} with {length} bytes is unknown or too large."
            )
        start = position + HEADER.size
        position = start + length
        if position > end:
            raise ProtocolViolation("The payload of a frame is truncated.")
        yield kind, stream_id, message[start:position]
