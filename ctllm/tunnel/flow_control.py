"""One direction of one exchange: what was sent, acknowledged, received and consumed.

All offsets are absolute: bytes since the direction began, and the end counts as one more, so that
an acknowledgement tells whether the end has arrived. The bytes that were sent and are not yet
acknowledged are the window and also the replay buffer, so a lost connection loses none.
"""

from __future__ import annotations

from ctllm.errors import Gone, ProtocolViolation
from ctllm.tunnel.frames import MAX_DATA

#: What one read of a socket may deliver. A writer is asked to pause while less than this is free.
READ_SIZE = 64 * 1024


class SendBuffer:
    """The sending end. Holds `window` unacknowledged bytes, a read and a chunk, and the tail kept.

    `keep` bytes stay behind what was acknowledged, for those who may come back for them.
    """

    __slots__ = (
        "_blocked_at",
        "_bytes",
        "_min_free",
        "acked",
        "base_offset",
        "end_acked",
        "end_sent",
        "ended",
        "retain",
        "sent",
        "window",
        "written",
    )

    def __init__(self, window: int, retain: int = 0) -> None:
        self.window = window
        self._min_free = min(READ_SIZE, window // 2)
        self.retain = retain
        self._bytes = bytearray()
        self.base_offset = 0  # offset of the first byte that is held
        self.acked = 0
        self._blocked_at = -1  # what was acknowledged when there was no room for the next line
        self.sent = 0
        self.written = 0
        self.ended = False
        self.end_sent = False
        self.end_acked = False

    @property
    def buffered(self) -> int:
        """Bytes in memory."""
        return len(self._bytes)

    @property
    def available(self) -> int:
        """Bytes that may be put before the window is full; below zero after an overfull read."""
        return self.window - (self.written - self.acked)

    @property
    def is_full(self) -> bool:
        """Whether the writer should pause: another read might not fit."""
        return self.window - self.written + self.acked < self._min_free

    @property
    def has_drained(self) -> bool:
        """Whether a paused writer should go on: later than not `full`, so as not to flutter."""
        return self.available >= self.window // 2

    def append(self, data: bytes) -> None:
        """Append bytes. The writer heeds `full`; at most one read and a chunk more are held."""
        self._bytes += data
        self.written += len(data)

    def next_chunk(self, limit: int) -> tuple[int, bytearray] | None:
        """The next piece to send and its offset: about `limit` bytes, and within the window.

        A piece that must be cut is cut after a line or an event, so that what was written whole
        stays whole for the reader; a longer one (of at most a frame) makes the piece longer.
        """
        start = self.sent
        reach = min(self.written, self.acked + self.window)
        end = min(reach, start + limit)
        if end <= start:
            return None
        if end < self.written:
            end = self._cut_offset(start, end, reach)
        if not end:
            return None
        self.sent = end
        return start, self._bytes[start - self.base_offset : end - self.base_offset]

    def _cut_offset(self, start: int, end: int, reach: int) -> int:
        """Where a piece from `start` to about `end` ends; 0 where it waits for more room."""
        low, high = start - self.base_offset, end - self.base_offset
        mark = b"\n\n" if self._bytes.endswith(b"\n\n") else b"\n"
        found = self._bytes.rfind(mark, low, high)
        if found < 0:
            found = self._bytes.find(mark, max(low, high - 1), low + MAX_DATA)
        line_end = self.base_offset + found + len(mark)
        if found < 0 or (line_end > reach and start - self.acked <= self.window // 2):
            return end  # there is none, or waiting for room might be in vain
        if line_end > reach:
            self._blocked_at = self.acked
            return 0
        return line_end

    def mark_end_sent(self) -> bool:
        """Whether the end is due now; it is said once for each attachment."""
        if self.ended and not self.end_sent and self.sent == self.written:
            self.end_sent = True
            return True
        return False

    @property
    def can_send(self) -> bool:
        """Whether there is something to send now."""
        if self.sent < self.written:
            return self.sent < self.acked + self.window and self.acked != self._blocked_at
        return self.ended and not self.end_sent

    def acknowledge(self, offset: int) -> None:
        """The peer has consumed all before `offset`; raises ProtocolViolation if it cannot have."""
        if not self.acked <= offset <= self.sent + self.end_sent:
            raise ProtocolViolation("an acknowledgement of bytes that were not sent, or taken back")
        self.end_acked = offset > self.written
        self.acked = min(offset, self.written)
        self._trim()

    def rewind(self, offset: int) -> None:
        """Send again from `offset`; raises Gone where those bytes are not kept any more."""
        if not self.base_offset <= offset <= self.written + self.ended:
            raise Gone("those bytes are not kept any more")
        self.sent = min(offset, self.written)
        self.acked = min(self.acked, offset)
        self._blocked_at = -1
        self.end_sent = offset > self.written
        self.end_acked = False

    def clear(self) -> int:
        """Drop what is held, for it is over; gives how much that was."""
        held = len(self._bytes)
        self._bytes.clear()
        self.base_offset = self.written
        return held

    def _trim(self) -> None:
        floor = min(self.acked, max(self.base_offset, self.written - self.retain))
        if floor > self.base_offset:
            del self._bytes[: floor - self.base_offset]
            self.base_offset = floor


class ReceiveWindow:
    """The receiving end: counts, and says when an acknowledgement is due."""

    __slots__ = ("_ack_threshold", "acked", "consumed", "end_offset", "received", "window")

    def __init__(self, window: int) -> None:
        self.window = window
        # Often enough that the sender's replay buffer stays small, seldom enough to cost nothing.
        self._ack_threshold = max(1, min(window // 4, 8 * 1024))
        self.received = 0
        self.consumed = 0
        self.acked = 0
        self.end_offset: int | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the end is known and everything before it was consumed."""
        return self.end_offset is not None and self.consumed == self.end_offset

    @property
    def next_offset(self) -> int:
        """Where the sender should go on from; the end counts as one."""
        return self.received + (self.end_offset is not None)

    def receive(self, offset: int, length: int) -> None:
        """Count a piece; raises ProtocolViolation if it is out of order or over the window."""
        if offset != self.received:
            raise ProtocolViolation(f"bytes from {offset} where {self.received} was next")
        if self.end_offset is not None:
            raise ProtocolViolation("bytes after the end")
        if not length:
            raise ProtocolViolation("a DATA frame without data")
        if offset + length > self.acked + self.window:
            raise ProtocolViolation("bytes beyond the window")
        self.received = offset + length

    def receive_end(self, offset: int) -> None:
        """The sender says that its direction ends at `offset`."""
        if offset != self.received or self.end_offset is not None:
            raise ProtocolViolation(f"an end at {offset} where {self.received} was next")
        self.end_offset = offset

    def consume_all(self) -> None:
        """Everything received so far was taken by whoever reads."""
        self.consumed = self.received

    @property
    def is_ack_due(self) -> bool:
        """Whether the sender should hear how far we are."""
        if self.is_complete:
            return self.acked <= self.consumed
        return self.consumed - self.acked >= self._ack_threshold

    def acknowledge(self) -> int:
        """The offset to tell the sender now."""
        self.acked = self.consumed + self.is_complete
        return self.acked

    def restart(self, offset: int) -> None:
        """Begin again at `offset`, as after being taken up by another reader."""
        self.received = self.consumed = self.acked = offset
        self.end_offset = None
