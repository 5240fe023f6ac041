"""Flow control for one direction of one stream.

All offsets are absolute: they count bytes from the start of the direction. The end of the direction
counts as one more byte, so that an acknowledgement also covers the end. The send buffer holds every
byte that is not acknowledged, and is therefore also the replay buffer after a lost connection.
"""

from __future__ import annotations

from ctllm.errors import Gone, ProtocolViolation
from ctllm.tunnel.frames import MAX_DATA

#: The most bytes that one read from a socket delivers. A writer is paused while less is available.
READ_SIZE = 64 * 1024


class SendBuffer:
    """The sending end of a direction: the bytes that may have to be sent, or sent again.

    It holds up to `window` unacknowledged bytes, plus one read and one chunk. It also retains the
    last `retain` bytes after they are acknowledged, for a client that resumes the response.
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
        self.base_offset = 0  # of the first byte in the buffer
        self.acked = 0
        self._blocked_at = -1  # the value of `acked` when the next line exceeded the window
        self.sent = 0
        self.written = 0
        self.ended = False
        self.end_sent = False
        self.end_acked = False

    @property
    def buffered(self) -> int:
        """Number of bytes in memory."""
        return len(self._bytes)

    @property
    def available(self) -> int:
        """Bytes left in the window; negative after a read that exceeded it."""
        return self.window - (self.written - self.acked)

    @property
    def has_drained(self) -> bool:
        """Whether a paused writer should resume. The threshold is higher than that of `append`."""
        return self.available >= self.window // 2

    def append(self, data: bytes) -> bool:
        """Add bytes to send; return whether the writer must pause, as another read might not fit.

        A writer that pauses adds at most one read too many.
        """
        self._bytes += data
        self.written += len(data)
        return self.window - self.written + self.acked < self._min_free

    def next_chunk(self, limit: int) -> tuple[int, bytearray] | None:
        """Return the offset and the bytes of the next chunk to send, or None.

        A chunk has about `limit` bytes and fits in the window. It is cut after a line or an event,
        so that the receiver gets whole lines; a line longer than `limit` extends the chunk, up to
        the limit of a frame.
        """
        start, end, reach = self.sent, self.written, self.acked + self.window
        if end > reach or end - start > limit:
            end = min(reach, start + limit)
            if end > start:
                end = self._cut_offset(start, end, min(reach, self.written))
        if end <= start:
            return None
        self.sent = end
        return start, self._bytes[start - self.base_offset : end - self.base_offset]

    def _cut_offset(self, start: int, end: int, reach: int) -> int:
        """Return where the chunk from `start` to about `end` ends; 0 if it waits for the window."""
        low, high = start - self.base_offset, end - self.base_offset
        mark = b"\n\n" if self._bytes.endswith(b"\n\n") else b"\n"
        found = self._bytes.rfind(mark, low, high)
        if found < 0:
            found = self._bytes.find(mark, max(low, high - 1), low + MAX_DATA)
        line_end = self.base_offset + found + len(mark)
        if found < 0 or (line_end > reach and start - self.acked <= self.window // 2):
            return end  # no line ends here, or the window may never hold the whole line
        if line_end > reach:
            self._blocked_at = self.acked
            return 0
        return line_end

    def mark_end_sent(self) -> bool:
        """Return whether to send END now; true once for each attachment."""
        if self.ended and not self.end_sent and self.sent == self.written:
            self.end_sent = True
            return True
        return False

    @property
    def can_send(self) -> bool:
        """Whether there is data, or the end, to send now."""
        if self.sent < self.written:
            return self.sent < self.acked + self.window and self.acked != self._blocked_at
        return self.ended and not self.end_sent

    def acknowledge(self, offset: int) -> None:
        """Apply an acknowledgement of all bytes before `offset`.

        Raises ProtocolViolation if they were not sent, or if an earlier ACK was higher.
        """
        if not self.acked <= offset <= self.sent + self.end_sent:
            raise ProtocolViolation(
                "An ACK is for bytes that were not sent, or is lower than the previous ACK."
            )
        self.end_acked = offset > self.written
        self.acked = min(offset, self.written)
        self._trim()

    def rewind(self, offset: int) -> None:
        """Send again from `offset`; raises Gone if those bytes are no longer in the buffer."""
        if not self.base_offset <= offset <= self.written + self.ended:
            raise Gone("These bytes of the response are no longer stored.")
        self.sent = min(offset, self.written)
        self.acked = min(self.acked, offset)
        self._blocked_at = -1
        self.end_sent = offset > self.written
        self.end_acked = False

    def clear(self) -> int:
        """Discard the buffered bytes and return how many there were."""
        buffered = len(self._bytes)
        self._bytes.clear()
        self.base_offset = self.written
        return buffered

    def _trim(self) -> None:
        floor = min(self.acked, max(self.base_offset, self.written - self.retain))
        if floor > self.base_offset:
            del self._bytes[: floor - self.base_offset]
            self.base_offset = floor


class ReceiveWindow:
    """The receiving end of a direction: checks offsets and decides when to acknowledge."""

    __slots__ = ("_ack_threshold", "acked", "consumed", "end_offset", "received", "window")

    def __init__(self, window: int) -> None:
        self.window = window
        # A low threshold keeps the sender's buffer small; a high one saves frames.
        self._ack_threshold = max(1, min(window // 4, 8 * 1024))
        self.received = 0
        self.consumed = 0
        self.acked = 0
        self.end_offset: int | None = None

    @property
    def is_complete(self) -> bool:
        """Whether END was received and every byte before it was consumed."""
        return self.end_offset is not None and self.consumed == self.end_offset

    @property
    def next_offset(self) -> int:
        """The offset from which the sender should continue; the end counts as one byte."""
        return self.received + (self.end_offset is not None)

    def receive(self, offset: int, length: int) -> None:
        """Count a DATA frame; raises ProtocolViolation if it is out of order or over the window."""
        if offset != self.received:
            raise ProtocolViolation(f"DATA has offset {offset}; expected {self.received}.")
        if self.end_offset is not None:
            raise ProtocolViolation("DATA after END.")
        if not length:
            raise ProtocolViolation("A DATA frame has no data.")
        if offset + length > self.acked + self.window:
            raise ProtocolViolation("DATA exceeds the window.")
        self.received = offset + length

    def receive_end(self, offset: int) -> None:
        """Record END; raises ProtocolViolation unless `offset` is what was received."""
        if offset != self.received or self.end_offset is not None:
            raise ProtocolViolation(f"END has offset {offset}; expected {self.received}.")
        self.end_offset = offset

    def consume_all(self) -> bool:
        """Count everything received as passed on to the reader; return whether to send an ACK."""
        self.consumed = self.received
        if self.end_offset is None:
            return self.consumed - self.acked >= self._ack_threshold
        return self.acked <= self.consumed == self.end_offset

    def acknowledge(self) -> int:
        """Return the offset of the ACK to send now."""
        self.acked = self.consumed + self.is_complete
        return self.acked

    def restart(self, offset: int) -> None:
        """Receive from `offset` on, for another reader."""
        self.received = self.consumed = self.acked = offset
        self.end_offset = None
