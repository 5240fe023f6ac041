"""What both ends of a tunnel share: streams that outlive the connection they began on.

This code is sans-IO. The connection calls `receive_message` with each message, sends what
`next_message` returns whenever its transport has room, and calls `connection_lost`. A timer calls
`remove_expired` once a second. Times are seconds of any clock, and are passed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

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

_DATA_KIND = int(FrameKind.DATA)  # access to a member of an enum is slow
_OFFSET_SIZE = OFFSET.size

#: Bytes of data that a stream sends in its turn; a fast stream does not delay the others.
MAX_TURN = 16 * 1024
#: Bytes after which nothing more is added to a message.
TARGET_MESSAGE_SIZE = 128 * 1024
#: About the bytes that a turn costs besides its data.
_TURN_OVERHEAD = 64
#: Maximum number of closed streams whose ids are stored, because late frames may arrive for them.
MAX_CLOSED_IDS = 8192
#: Maximum number of control frames that wait to be sent; more mean that the peer does not read.
MAX_CONTROL_FRAMES = 16384
#: Maximum characters of an error message in RESET and BYE.
MAX_REASON = 500

#: The message that both ends give for an exception in this program.
INTERNAL_ERROR_MESSAGE = "An internal error occurred in ctllm; its log has the details."

StreamT = TypeVar("StreamT", bound=Stream)


class TunnelConnection(Protocol):
    """The connection that a tunnel currently uses."""

    def schedule_flush(self) -> None:
        """Send what `next_message` returns, soon."""

    def stream_failed(self, stream_id: bytes, error: Exception) -> None:
        """Log an exception raised by a sink of a stream."""


def validate_hello(hello: Hello) -> None:
    """Raise ProtocolViolation if no tunnel can begin with `hello`."""
    if hello.version != VERSION:
        raise ProtocolViolation(
            f"The peer speaks tunnel version {hello.version}, this end version {VERSION}."
        )
    if not 1 <= hello.window <= 1 << 30:
        raise ProtocolViolation("The window in HELLO must be 1 to 2^30.")


class TunnelPeer(Generic[StreamT]):
    """One end of a tunnel.

    `window` is the number of unacknowledged bytes that this end accepts in each direction of a
    stream, `grace` the seconds for which a stream waits for another connection.
    """

    def __init__(self, window: int, grace: float, max_streams: int) -> None:
        self.window = window
        self.grace = grace
        self.max_streams = max_streams
        self.streams: dict[bytes, StreamT] = {}
        self.is_established = False  # whether the peer's HELLO came on this connection
        self._connection: TunnelConnection | None = None
        self._established_observers: list[Callable[[], None]] = []
        self._bye_observers: list[Callable[[Reason], None]] = []
        self._peer_window = 0
        self._peer_capabilities: frozenset[str] = frozenset()
        self._send_queue: deque[Stream] = deque()
        self._control_frames: list[bytes] = []
        self._closed_ids: dict[bytes, None] = {}
        self._control_overflowed = False

    @property
    def peer_window(self) -> int:
        """The number of unacknowledged bytes that the peer accepts in a direction of a stream."""
        return self._peer_window

    @property
    def peer_capabilities(self) -> frozenset[str]:
        """The capabilities in the peer's HELLO on the current connection."""
        return self._peer_capabilities if self.is_established else frozenset()

    def add_established_observer(self, observer: Callable[[], None]) -> None:
        """Call `observer` whenever the peer's HELLO was accepted."""
        self._established_observers.append(observer)

    def add_bye_observer(self, observer: Callable[[Reason], None]) -> None:
        """Call `observer` with the reason of each BYE."""
        self._bye_observers.append(observer)

    # -- the connection's side

    def attach_connection(self, connection: TunnelConnection) -> None:
        """Use `connection` from now on."""
        self._connection = connection

    def receive_message(self, message: bytes) -> None:
        """Process a message; raises ProtocolViolation, upon which the caller calls `terminate`."""
        if self._control_overflowed:
            raise ProtocolViolation("The peer does not read the frames sent to it.")
        for kind, id, payload in split_frames(message):
            if kind == _DATA_KIND:
                self._handle_data(id, payload)
            elif id == CONNECTION_ID:
                self._handle_connection_frame(kind, payload)
            else:
                self._handle_stream_frame(kind, id, payload)

    def next_message(self) -> bytes:
        """Return the next message to send, or b"" if there is none."""
        frames: list[bytes | bytearray] = [*self._control_frames]
        self._control_frames.clear()
        size = sum(map(len, frames))
        while self.is_established and self._send_queue and size < TARGET_MESSAGE_SIZE:
            stream = self._send_queue.popleft()
            stream.is_queued = False
            if stream.id not in self.streams:
                continue
            size += _TURN_OVERHEAD + stream.collect_frames(MAX_TURN, frames)
            buffer = stream.send_buffer
            if buffer.sent < buffer.written and stream.can_send:
                self.schedule(stream)
        return b"".join(frames)

    def connection_lost(self, now: float) -> None:
        """Detach all streams: they wait for another connection until their time expires."""
        self.is_established = self._control_overflowed = False
        self._control_frames.clear()
        for stream in self._send_queue:
            stream.is_queued = False
        self._send_queue.clear()
        for each in self.streams.values():
            each.detach(now + self._retention(each))

    def terminate(self, error: CtllmError) -> bytes:
        """Fail all streams on this end with `error`; return the BYE to send last."""
        self.fail_all(error)
        self.is_established = False
        self._control_frames.clear()
        reason = Reason(error.code, error.message[:MAX_REASON])
        return encode_json_frame(FrameKind.BYE, CONNECTION_ID, reason)

    def reset_all(self, error: CtllmError) -> None:
        """Fail all streams on both ends with `error`."""
        for stream in self.streams.values():
            self._send_reset(stream.id, error)
        self.fail_all(error)

    def fail_all(self, error: CtllmError) -> None:
        """Fail all streams on this end with `error`."""
        for stream in list(self.streams.values()):
            self._fail_stream(stream, error)

    # -- frames

    def _handle_data(self, id: bytes, payload: bytes) -> None:
        stream = self.streams.get(id)
        if stream is None:
            self._check_late_frame(FrameKind.DATA, id)
            return
        if len(payload) < _OFFSET_SIZE:
            raise ProtocolViolation("A DATA frame has no offset.")
        try:
            stream.receive_data(OFFSET.unpack_from(payload)[0], payload[_OFFSET_SIZE:])
        except ProtocolViolation:
            raise
        except Exception as error:
            self._stream_crashed(stream, error)

    def _handle_connection_frame(self, kind: int, payload: bytes) -> None:
        if kind == FrameKind.BYE:
            reason = decode_json_payload(payload, Reason)
            for observer in self._bye_observers:
                observer(reason)
            if reason.code == ProtocolViolation.code:
                message = f"The other end of the tunnel reports: {reason.message}"
                self.fail_all(error_from_wire(reason.code, message))
        elif kind == FrameKind.HELLO:
            self.receive_hello(decode_json_payload(payload, Hello))
        else:
            self._receive_connection_frame(kind, payload)

    def _handle_stream_frame(self, kind: int, id: bytes, payload: bytes) -> None:
        if not self.is_established:
            raise ProtocolViolation("A frame of a stream precedes HELLO.")
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
        """Accept the peer's HELLO: frames flow from now on. Raises ProtocolViolation."""
        validate_hello(hello)
        if self.is_established:
            raise ProtocolViolation("A second HELLO came on the same connection.")
        self._peer_window = hello.window
        self._peer_capabilities = frozenset(hello.capabilities)
        self.is_established = True
        self._hello_received(hello)
        self._schedule_flush()

    def _check_late_frame(self, kind: int, id: bytes) -> None:
        """Raise ProtocolViolation for a frame of a stream that was not recently closed."""
        if id not in self._closed_ids:
            raise ProtocolViolation(f"A frame of kind {kind} is for an unknown stream.")

    # -- the end of a stream

    def _fail_stream(self, stream: StreamT, error: CtllmError) -> None:
        """Remove a stream and report `error` to its sink on this end."""
        self._remove(stream)
        try:
            self._notify_failed(stream, error)
        except Exception as failure:
            self._report_failure(stream.id, failure)

    def _stream_crashed(self, stream: StreamT, failure: Exception) -> None:
        """End, on both ends, the stream whose sink raised an exception, and no other."""
        self._report_failure(stream.id, failure)
        error = CtllmError(INTERNAL_ERROR_MESSAGE)
        if stream.id in self.streams:
            self._send_reset(stream.id, error)
        self._fail_stream(stream, error)

    def _report_failure(self, stream_id: bytes, failure: Exception) -> None:
        if self._connection is None:
            raise failure
        self._connection.stream_failed(stream_id, failure)

    # -- sending

    def schedule(self, stream: Stream) -> None:
        """Queue `stream`, which has something to send, for a turn."""
        if not stream.is_queued and self.is_established:
            stream.is_queued = True
            self._send_queue.append(stream)
            if self._connection is not None:
                self._connection.schedule_flush()

    def _schedule_flush(self) -> None:
        if self._connection is not None:
            self._connection.schedule_flush()

    def _send_control(self, frame: bytes) -> None:
        if not self.is_established:
            return
        if len(self._control_frames) >= MAX_CONTROL_FRAMES:
            # Not raised here, because the caller may be a sink: the next message reports it.
            self._control_overflowed = True
            return
        self._control_frames.append(frame)
        self._schedule_flush()

    def _send_reset(self, id: bytes, error: CtllmError) -> None:
        reason = Reason(error.code, error.message[:MAX_REASON])
        self._send_control(encode_json_frame(FrameKind.RESET, id, reason))

    # -- closed streams

    def _remove(self, stream: StreamT) -> None:
        if self.streams.pop(stream.id, None) is not None:
            self._remember_closed(stream.id)

    def _remember_closed(self, id: bytes) -> None:
        self._closed_ids[id] = None
        if len(self._closed_ids) > MAX_CLOSED_IDS:
            del self._closed_ids[next(iter(self._closed_ids))]

    # -- what initiator and responder do differently

    def _hello_received(self, hello: Hello) -> None:
        for observer in self._established_observers:
            observer()

    def remove_expired(self, now: float) -> None:
        """Fail the streams whose time has expired."""
        raise NotImplementedError

    def _retention(self, stream: StreamT) -> float:
        """Return the seconds for which `stream` waits for another connection."""
        return self.grace

    def _notify_failed(self, stream: StreamT, error: CtllmError) -> None:
        """Report `error` to the sink of a removed stream."""
        raise NotImplementedError

    def _receive_connection_frame(self, kind: int, payload: bytes) -> None:
        raise ProtocolViolation(f"A frame of kind {kind} is not allowed here.")

    def _receive_unknown(self, kind: int, id: bytes, payload: bytes) -> None:
        self._check_late_frame(kind, id)

    def _receive_head(self, stream: StreamT, kind: int, payload: bytes) -> None:
        raise ProtocolViolation(f"A frame of kind {kind} is not allowed here.")

    def _receive_end(self, stream: StreamT, offset: int) -> None:
        raise NotImplementedError

    def _receive_ack(self, stream: StreamT, offset: int) -> None:
        raise NotImplementedError

    def _receive_attach(self, stream: StreamT, offset: int) -> None:
        raise NotImplementedError
