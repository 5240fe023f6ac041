"""What both ends of a tunnel share: exchanges over one connection after another.

Sans-IO: the shell calls `receive` with each message, sends what `outgoing` returns whenever its
transport has room, says `disconnected`, and calls `sweep` now and then. `wake` is called when
there is something to send. Time is seconds from any clock, passed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from ctllm.errors import CtllmError, ProtocolViolation, error_from_wire
from ctllm.tunnel.frames import (
    CONNECTION_ID,
    OFFSET,
    VERSION,
    FrameKind,
    Hello,
    Reason,
    decode_json_payload,
    decode_offset,
    encode_json_frame,
    split_frames,
)
from ctllm.tunnel.stream import Stream

_DATA_KIND = int(
    FrameKind.DATA
)  # an enumeration's members are slow to get at on the path of a token

#: One stream's turn, so that a fast one does not keep the others waiting.
MAX_TURN = 16 * 1024
#: How full one message is made.
TARGET_MESSAGE_SIZE = 128 * 1024
_TURN_OVERHEAD = 64  # bytes that an stream's turn costs besides its data, or about
#: How many ended exchanges are remembered: their last frames may still be under way.
MAX_CLOSED_IDS = 8192
#: More frames about nothing than this waiting to be sent means that the peer does not read.
MAX_CONTROL_FRAMES = 16384

#: What both sides hear of a failure of this program.
INTERNAL_ERROR_MESSAGE = "something in ctllm broke; its log says what"

StreamT = TypeVar("StreamT", bound=Stream)


def _raise(error: Exception) -> None:
    raise error


def validate_hello(hello: Hello) -> None:
    """Raise ProtocolViolation for a HELLO that no tunnel can begin with."""
    if hello.version != VERSION:
        raise ProtocolViolation(f"tunnel version {hello.version}; this side speaks {VERSION}")
    if not 1 <= hello.window <= 1 << 30:
        raise ProtocolViolation("a window of impossible size")


class TunnelPeer(Generic[StreamT]):
    """One end of a tunnel."""

    def __init__(self, window: int, grace: float, max_streams: int) -> None:
        self.window = window
        self.grace = grace
        self.max_streams = max_streams
        self.streams: dict[bytes, StreamT] = {}
        self.is_established = False
        self.wake: Callable[[], None] = lambda: None
        self.on_bye: Callable[[Reason], None] = lambda reason: None
        self.on_crash: Callable[[Exception], None] = _raise
        self._peer_window = 0
        self._send_queue: deque[Stream] = deque()
        self._control_frames: list[bytes] = []
        self._closed_ids: dict[bytes, None] = {}
        self._control_overflowed = False  # the peer does not read what it is told

    # -- the shell's side

    def receive_message(self, message: bytes) -> None:
        """Take one message; raises ProtocolViolation, after which the shell calls `violated`."""
        if self._control_overflowed:
            raise ProtocolViolation("frames are not being read")
        for kind, id, payload in split_frames(message):
            if kind == _DATA_KIND:
                self._handle_data(id, payload)
            elif id == CONNECTION_ID:
                self._handle_connection_frame(kind, payload)
            else:
                self._handle_stream_frame(kind, id, payload)

    def next_message(self) -> bytes:
        """The next message to send, or nothing."""
        frames: list[bytes | bytearray] = [*self._control_frames]
        self._control_frames.clear()
        size = sum(map(len, frames))
        while self.is_established and self._send_queue and size < TARGET_MESSAGE_SIZE:
            stream = self._send_queue.popleft()
            stream.is_queued = False
            if stream.id not in self.streams:
                continue
            size += _TURN_OVERHEAD + stream.collect_frames(MAX_TURN, frames)
            if stream.can_send:
                self.schedule(stream)
        return b"".join(frames)

    def connection_lost(self, now: float) -> None:
        """The connection was lost: exchanges wait for another, for the grace time."""
        self.is_established = self._control_overflowed = False
        self._control_frames.clear()
        for stream in self._send_queue:
            stream.is_queued = False
        self._send_queue.clear()
        for stream in self.streams.values():
            stream.detach(now + self._retention(stream))

    def terminate(self, error: CtllmError) -> bytes:
        """End every stream with `error`; returns the last message for the peer."""
        self.fail_all(error)
        self.is_established = False
        self._control_frames.clear()
        return encode_json_frame(
            FrameKind.BYE, CONNECTION_ID, Reason(error.code, error.message[:500])
        )

    def reset_all(self, error: CtllmError) -> None:
        """End every stream on both sides with `error`."""
        for stream in self.streams.values():
            self._send_reset(stream.id, error)
        self.fail_all(error)

    def fail_all(self, error: CtllmError) -> None:
        """End every stream on this side with `error`."""
        for stream in list(self.streams.values()):
            self._fail_stream(stream, error)

    # -- frames

    def _handle_data(self, id: bytes, payload: bytes) -> None:
        stream = self.streams.get(id)
        if stream is None:
            self._check_late_frame(FrameKind.DATA, id)
            return
        if len(payload) < 8:
            raise ProtocolViolation("a DATA frame without its offset")
        try:
            self._receive_data(stream, OFFSET.unpack_from(payload)[0], payload[8:])
        except ProtocolViolation:
            raise
        except Exception as error:
            self._stream_crashed(stream, error)

    def _handle_connection_frame(self, kind: int, payload: bytes) -> None:
        if kind == FrameKind.BYE:
            reason = decode_json_payload(payload, Reason)
            self.on_bye(reason)
            if reason.code == ProtocolViolation.code:
                self.fail_all(
                    error_from_wire(
                        reason.code, f"the other end of the tunnel says: {reason.message}"
                    )
                )
        elif kind == FrameKind.HELLO:
            self.receive_hello(decode_json_payload(payload, Hello))
        else:
            self._receive_connection_frame(kind, payload)

    def _handle_stream_frame(self, kind: int, id: bytes, payload: bytes) -> None:
        if not self.is_established:
            raise ProtocolViolation("a frame before HELLO")
        stream = self.streams.get(id)
        if stream is None:
            self._receive_unknown(kind, id, payload)
            return
        try:
            self._dispatch(stream, kind, payload)
        except ProtocolViolation:
            raise
        except Exception as error:
            self._stream_crashed(stream, error)

    def _dispatch(self, stream: StreamT, kind: int, payload: bytes) -> None:
        if kind == FrameKind.RESET:
            reason = decode_json_payload(payload, Reason)
            self._fail_stream(stream, error_from_wire(reason.code, reason.message))
        elif kind == FrameKind.ACK:
            self._receive_ack(stream, decode_offset(payload))
        elif kind == FrameKind.END:
            self._receive_end(stream, decode_offset(payload))
        elif kind == FrameKind.ATTACH:
            self._receive_attach(stream, decode_offset(payload))
        else:
            self._receive_head(stream, kind, payload)

    def receive_hello(self, hello: Hello) -> None:
        """Take the peer's HELLO: frames may flow from now on."""
        validate_hello(hello)
        if self.is_established:
            raise ProtocolViolation("a second HELLO")
        self._peer_window = hello.window
        self.is_established = True
        self._hello_received(hello)
        self.wake()

    def _check_late_frame(self, kind: int, id: bytes) -> None:
        """A frame for an stream that is not (any more): late is fine, unknown is not."""
        if id not in self._closed_ids:
            raise ProtocolViolation(f"a frame of kind {kind} for an unknown stream")

    # -- one stream's end

    def _fail_stream(self, stream: StreamT, error: CtllmError) -> None:
        """Forget an stream and tell this side's user of it; that this fails is nobody else's."""
        self._remove(stream)
        try:
            self._notify_failed(stream, error)
        except Exception as failure:
            self.on_crash(failure)

    def _stream_crashed(self, stream: StreamT, failure: Exception) -> None:
        """Whoever uses an stream on this side failed: it ends on both sides, and no other."""
        self.on_crash(failure)
        error = CtllmError(INTERNAL_ERROR_MESSAGE)
        if stream.id in self.streams:
            self._send_reset(stream.id, error)
        self._fail_stream(stream, error)

    # -- bookkeeping

    def schedule(self, stream: Stream) -> None:
        """An stream has something to send: give it a turn."""
        if not stream.is_queued and self.is_established:
            stream.is_queued = True
            self._send_queue.append(stream)
            self.wake()

    def _send_control(self, frame: bytes) -> None:
        if not self.is_established:
            return
        if len(self._control_frames) >= MAX_CONTROL_FRAMES:
            self._control_overflowed = (
                True  # who is told of it is the peer, and not whoever is just calling
            )
            return
        self._control_frames.append(frame)
        self.wake()

    def _send_reset(self, id: bytes, error: CtllmError) -> None:
        self._send_control(
            encode_json_frame(FrameKind.RESET, id, Reason(error.code, error.message[:500]))
        )

    def _remove(self, stream: StreamT) -> None:
        if self.streams.pop(stream.id, None) is not None:
            self._remember_closed(stream.id)

    def _remember_closed(self, id: bytes) -> None:
        """An stream ended: its last frames may still be under way."""
        self._closed_ids[id] = None
        if len(self._closed_ids) > MAX_CLOSED_IDS:
            del self._closed_ids[next(iter(self._closed_ids))]

    # -- what the two ends do differently

    def _hello_received(self, hello: Hello) -> None:
        raise NotImplementedError

    def remove_expired(self, now: float) -> None:
        """Give up the exchanges whose time is over."""
        raise NotImplementedError

    def _retention(self, stream: StreamT) -> float:
        return self.grace

    def _notify_failed(self, stream: StreamT, error: CtllmError) -> None:
        """Tell this side's user of a forgotten stream that it is over."""
        raise NotImplementedError

    def _receive_connection_frame(self, kind: int, payload: bytes) -> None:
        raise ProtocolViolation(f"a frame of kind {kind} where none is due")

    def _receive_unknown(self, kind: int, id: bytes, payload: bytes) -> None:
        self._check_late_frame(kind, id)

    def _receive_head(self, stream: StreamT, kind: int, payload: bytes) -> None:
        raise ProtocolViolation(f"a frame of kind {kind} where none is due")

    def _receive_data(self, stream: StreamT, offset: int, data: bytes) -> None:
        raise NotImplementedError

    def _receive_end(self, stream: StreamT, offset: int) -> None:
        raise NotImplementedError

    def _receive_ack(self, stream: StreamT, offset: int) -> None:
        raise NotImplementedError

    def _receive_attach(self, stream: StreamT, offset: int) -> None:
        raise NotImplementedError
