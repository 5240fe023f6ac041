"""Plain WebSocket frames: final, binary, with a message in one frame (RFC 6455, section 5.2).

A tunnel consists of these. autobahn handles a frame in twenty calls, too many for each token of a
stream, so plain frames are encoded and decoded here. Everything else is left to autobahn: the
handshake, control frames, fragments and violations.
"""

from __future__ import annotations

import struct

from ctllm.fastpath.websocket_mask import KEY_LENGTH, apply_mask, key_source

_FINAL_BINARY = 0x82
_CONTROL = frozenset((0x88, 0x89, 0x8A))  # close, ping, pong: not fragmented, at most 125 bytes
_BEGINNINGS = (b"", bytes((_FINAL_BINARY,)))  # of a plain frame, too short to have a length
_MASKED = 0x80
_SHORT = struct.Struct("!H")
_LONG = struct.Struct("!Q")


def encode_frame(payload: bytes, masked: bool) -> bytes:
    """Encode `payload` as one frame; a client's frames are `masked`."""
    size, bit = len(payload), _MASKED if masked else 0
    if size < 126:
        head = bytes((_FINAL_BINARY, bit | size))
    elif size < 65536:
        head = bytes((_FINAL_BINARY, bit | 126)) + _SHORT.pack(size)
    else:
        head = bytes((_FINAL_BINARY, bit | 127)) + _LONG.pack(size)
    if not masked:
        return head + payload
    key = key_source.next_key()
    return head + key + apply_mask(payload, key)


class FrameDecoder:
    """Decodes plain frames of at most `max_payload` bytes; `masked` if the peer is the client."""

    def __init__(self, masked: bool, max_payload: int) -> None:
        self._masked = masked
        self._max_payload = max_payload
        self._buffer = bytearray()
        self._needed = 0  # bytes in the buffer before it is worth decoding

    def __len__(self) -> int:
        """Return the number of bytes that are buffered, of an incomplete frame."""
        return len(self._buffer)

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Return the payloads of complete plain frames, and the data for autobahn.

        The latter are complete control frames, so that autobahn is never left within a frame; and
        everything from a frame of any other kind on. Incomplete plain and control frames are
        buffered.
        """
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._needed:
                return [], b""
            data = bytes(self._buffer)
            self._buffer.clear()
        position, end = 0, len(data)
        start, size = self._data_frame_bounds(data, 0, end)
        if start > 0 and start + size == end:  # one frame, as for most lines
            return [self._payload(data, start, end)], b""
        payloads: list[bytes] = []
        control = bytearray()
        while position < end:
            start, size = self._data_frame_bounds(data, position, end)
            if start < 0:
                length = self._control_frame_length(data, position, end)
                if length < 0:
                    return payloads, bytes(control) + data[position:]
                if not length or position + length > end:
                    self._buffer += data[position:]
                    self._needed = length
                    break
                control += data[position : position + length]
                position += length
                continue
            if not start or start + size > end:
                self._buffer += data[position:]
                self._needed = start + size - position if start else 0
                break
            position = start + size
            payloads.append(self._payload(data, start, position))
        return payloads, bytes(control)

    def _payload(self, data: bytes, start: int, end: int) -> bytes:
        payload = data[start:end]
        return apply_mask(payload, data[start - KEY_LENGTH : start]) if self._masked else payload

    def _control_frame_length(self, data: bytes, position: int, end: int) -> int:
        """Return the length of a control frame; 0 if it is not known yet, -1 for other frames."""
        if data[position] not in _CONTROL:
            return -1
        if end - position < 2:
            return 0
        size = data[position + 1] & 0x7F
        if size > 125 or bool(data[position + 1] & _MASKED) is not self._masked:
            return -1
        return 2 + (KEY_LENGTH if self._masked else 0) + size

    def _data_frame_bounds(self, data: bytes, position: int, end: int) -> tuple[int, int]:
        """Return the payload's start and size; start 0 if not known yet, -1 if not plain."""
        if end - position < 2:
            return (0, 0) if data[position:end] in _BEGINNINGS else (-1, 0)
        if data[position] != _FINAL_BINARY:
            return -1, 0
        size = data[position + 1] & 0x7F
        if bool(data[position + 1] & _MASKED) is not self._masked:
            return -1, 0
        start = position + 2
        if size >= 126:
            field, least = (_SHORT, 126) if size == 126 else (_LONG, 65536)
            if end - start < field.size:
                return 0, 0
            size = field.unpack_from(data, start)[0]
            start += field.size
            if size < least or size > self._max_payload:
                return -1, 0
        return (start + KEY_LENGTH, size) if self._masked else (start, size)
