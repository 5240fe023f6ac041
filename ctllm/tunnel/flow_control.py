"""One direction of one exchange: what was sent, acknowledged, received and consumed.

All offsets are absolute: bytes since the direction began, and the end counts as one more, so that
an acknowledgement tells whether the end has arrived. The bytes that were sent and are not yet
acknowledged are the window and also the replay buffer, so a lost connection loses none.
"""

from __future__ import annotations

from ctllm.errors import Gone, ProtocolViolation
from ctllm.tunnel.frames import MAX_DATA

#: What one read of a socket may deliver. A writer is asked to pause while less than this is free.
READ = 64 * 1024


class SendBuffer:
    """The sending end. Holds `window` unacknowledged bytes, a read and a chunk, and the tail kept.

    `keep` bytes stay behind what was acknowledged, for those who may come back for them.
    """

    __slots__ = (
        "_bytes",
        "_low",
        "_stuck",
        "acked",
        "base",
        "end_acked",
        "end_sent",
        "ended",
        "keep",
        "sent",
        "window",
        "written",
    )

    def __init__(self, window: int, keep: int = 0) -> None:
        self.window = window
        self._low = min(READ, window // 2)
        self.keep = keep
        self._bytes = bytearray()
        self.base = 0  # offset of the first byte that is held
        self.acked = 0
        self._stuck = -1  # what was acknowledged when there was no room for the next line
        self.sent = 0
        self.written = 0
        self.ended = False
        self.end_sent = False
        self.end_acked = False

    @property
    def held(self) -> int:
        """Bytes in memory."""
        return len(self._bytes)

    @property
    def room(self) -> int:
        """Bytes that may be put before the window is full; below zero after an overfull read."""
        return self.window - (self.written - self.acked)

    @property
    def full(self) -> bool:
        """Whether the writer should pause: another read might not fit."""
        return self.window - self.written + self.acked < self._low

    @property
    def drained(self) -> bool:
        """Whether a paused writer should go on: later than not `full`, so as not to flutter."""
        return self.room >= self.window // 2

    def put(self, piece: bytes) -> None:
        """Append bytes. The writer heeds `full`; at most one read and a chunk more are held."""
        self._bytes += piece
        self.written += len(piece)

    def take(self, limit: int) -> tuple[int, bytearray] | None:
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
            end = self._cut(start, end, reach)
        if not end:
            return None
        self.sent = end
        return start, self._bytes[start - self.base : end - self.base]

    def _cut(self, start: int, end: int, reach: int) -> int:
        """Where a piece from `start` to about `end` ends; 0 where it waits for more room."""
        low, high = start - self.base, end - self.base
        mark = b"\n\n" if self._bytes.endswith(b"\n\n") else b"\n"
        found = self._bytes.rfind(mark, low, high)
        if found < 0:
            found = self._bytes.find(mark, max(low, high - 1), low + MAX_DATA)
        whole = self.base + found + len(mark)
        if found < 0 or (whole > reach and start - self.acked <= self.window // 2):
            return end  # there is none, or waiting for room might be in vain
        if whole > reach:
            self._stuck = self.acked
            return 0
        return whole

    def take_end(self) -> bool:
        """Whether the end is due now; it is said once for each attachment."""
        if self.ended and not self.end_sent and self.sent == self.written:
            self.end_sent = True
            return True
        return False

    @property
    def ready(self) -> bool:
        """Whether there is something to send now."""
        if self.sent < self.written:
            return self.sent < self.acked + self.window and self.acked != self._stuck
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
        if not self.base <= offset <= self.written + self.ended:
            raise Gone("those bytes are not kept any more")
        self.sent = min(offset, self.written)
        self.acked = min(self.acked, offset)
        self._stuck = -1
        self.end_sent = offset > self.written
        self.end_acked = False

    def clear(self) -> int:
        """Drop what is held, for it is over; gives how much that was."""
        held = len(self._bytes)
        self._bytes.clear()
        self.base = self.written
        return held

    def _trim(self) -> None:
        floor = min(self.acked, max(self.base, self.written - self.keep))
        if floor > self.base:
            del self._bytes[: floor - self.base]
            self.base = floor


class ReceiveWindow:
    """The receiving end: counts, and says when an acknowledgement is due."""

    __slots__ = ("_step", "acked", "consumed", "final", "received", "window")

    def __init__(self, window: int) -> None:
        self.window = window
        # Often enough that the sender's replay buffer stays small, seldom enough to cost nothing.
        self._step = max(1, min(window // 4, 8 * 1024))
        self.received = 0
        self.consumed = 0
        self.acked = 0
        self.final: int | None = None

    @property
    def complete(self) -> bool:
        """Whether the end is known and everything before it was consumed."""
        return self.final is not None and self.consumed == self.final

    @property
    def reach(self) -> int:
        """Where the sender should go on from; the end counts as one."""
        return self.received + (self.final is not None)

    def accept(self, offset: int, length: int) -> None:
        """Count a piece; raises ProtocolViolation if it is out of order or over the window."""
        if offset != self.received:
            raise ProtocolViolation(f"bytes from {offset} where {self.received} was next")
        if self.final is not None:
            raise ProtocolViolation("bytes after the end")
        if not length:
            raise ProtocolViolation("a DATA frame without data")
        if offset + length > self.acked + self.window:
            raise ProtocolViolation("bytes beyond the window")
        self.received = offset + length

    def end(self, offset: int) -> None:
        """The sender says that its direction ends at `offset`."""
        if offset != self.received or self.final is not None:
            raise ProtocolViolation(f"an end at {offset} where {self.received} was next")
        self.final = offset

    def consume(self) -> None:
        """Everything received so far was taken by whoever reads."""
        self.consumed = self.received

    @property
    def ack_due(self) -> bool:
        """Whether the sender should hear how far we are."""
        if self.complete:
            return self.acked <= self.consumed
        return self.consumed - self.acked >= self._step

    def acknowledge(self) -> int:
        """The offset to tell the sender now."""
        self.acked = self.consumed + self.complete
        return self.acked

    def rejoin(self, offset: int) -> None:
        """Begin again at `offset`, as after being taken up by another reader."""
        self.received = self.consumed = self.acked = offset
        self.final = None
