"""A stream of a tunnel: one request and its response, with flow control in both directions."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from ctllm.tunnel.flow_control import ReceiveWindow, SendBuffer
from ctllm.tunnel.frames import FrameKind, encode_data_header, encode_offset_frame


class StreamState(Enum):
    """Whether the frames of a stream flow."""

    LIVE = "live"
    DETACHED = "detached"  # the connection was lost
    ATTACHING = "attaching"  # the initiator sent ATTACH, the responder has not replied


class Stream:
    """One end of a stream.

    `schedule` is called with the stream when it has something to send.
    """

    def __init__(
        self,
        id: bytes,
        receive_window: ReceiveWindow,
        send_buffer: SendBuffer,
        schedule: Callable[[Stream], None],
    ) -> None:
        self.id = id
        self.receive_window = receive_window
        self.send_buffer = send_buffer
        self.state = StreamState.LIVE
        self.expires_at: float | None = None  # of a detached stream or a stored response
        self.is_queued = False  # for a turn to send
        self._schedule = schedule
        self._preamble = b""  # sent before anything else: OPEN, ATTACH, HEAD
        self._is_ack_due = False
        self._is_reader_paused = False
        self._is_writer_paused = False

    def collect_frames(self, max_data: int, frames: list[bytes | bytearray]) -> int:
        """Append the frames to send now to `frames`, with about `max_data` bytes of data.

        Returns their size in bytes, in which frames of a few bytes do not count.
        """
        size = len(self._preamble)
        if size:
            frames.append(self._preamble)
            self._preamble = b""
        if self.state is not StreamState.LIVE:
            return size
        if self._is_ack_due:
            self._is_ack_due = False
            offset = self.receive_window.acknowledge()
            frames.append(encode_offset_frame(FrameKind.ACK, self.id, offset))
        buffer = self.send_buffer
        chunk = buffer.next_chunk(max_data)
        if chunk is not None:
            offset, data = chunk
            length = len(data)
            frames += encode_data_header(self.id, offset, length), data
            size += length
        if buffer.ended and buffer.mark_end_sent():
            frames.append(encode_offset_frame(FrameKind.END, self.id, buffer.written))
        return size

    @property
    def can_send(self) -> bool:
        """Whether there is more to send in the next turn."""
        return self.state is StreamState.LIVE and self.send_buffer.can_send

    def detach(self, expires_at: float) -> None:
        """Wait for another connection until `expires_at`, or until an earlier time set before."""
        self.state = StreamState.DETACHED
        if self.expires_at is None:
            self.expires_at = expires_at
        self._preamble = b""

    def receive_data(self, offset: int, data: bytes) -> None:
        """Pass on data that the other end sent; raises ProtocolViolation."""
        raise NotImplementedError

    def _go_live(self) -> None:
        self.state = StreamState.LIVE
        self.expires_at = None
        self._is_ack_due = True  # the last ACK may have been lost with the connection
        self._schedule(self)

    def _buffer(self, data: bytes) -> bool:
        """Buffer `data` to send; return whether the writer must pause now."""
        is_full = self.send_buffer.append(data)
        if not self.is_queued:
            self._schedule(self)
        if is_full and not self._is_writer_paused:
            self._is_writer_paused = True
            return True
        return False

    def _apply_ack(self, offset: int) -> bool:
        """Apply the peer's ACK; return whether a paused writer must resume."""
        self.send_buffer.acknowledge(offset)
        if self.send_buffer.can_send:
            self._schedule(self)
        if self._is_writer_paused and self.send_buffer.has_drained:
            self._is_writer_paused = False
            return True
        return False

    def _mark_consumed(self) -> None:
        if not self._is_reader_paused and self.receive_window.consume_all():
            self._is_ack_due = True
            self._schedule(self)

    def _pause_reader(self) -> None:
        self._is_reader_paused = True

    def _resume_reader(self) -> None:
        self._is_reader_paused = False
        self._mark_consumed()
