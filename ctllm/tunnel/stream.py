"""One stream of a tunnel: a direction in, a direction out, and whether its frames flow."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from ctllm.tunnel.flow_control import ReceiveWindow, SendBuffer
from ctllm.tunnel.frames import Kind, data_head, offset_frame


class Link(Enum):
    """Whether an exchange's frames flow."""

    LIVE = "live"
    DETACHED = "detached"  # the connection was lost
    ATTACHING = "attaching"  # the opener asked to go on and waits for the answerer's word


class Stream:
    """One end of an exchange in a tunnel: a direction in, a direction out, and their link."""

    def __init__(
        self, id: bytes, into: ReceiveWindow, out: SendBuffer, ready: Callable[[Stream], None]
    ) -> None:
        self.id = id
        self.into = into
        self.out = out
        self.link = Link.LIVE
        self.expires: float | None = None  # when a detached or retained one is given up
        self.queued = False  # in the tunnel's line of those with something to send
        self._ready = ready
        self._announcement = b""  # goes before anything else: OPEN, ATTACH, HEAD
        self._ack_forced = False
        self._reader_paused = False
        self._writer_paused = False

    def frames(self, share: int, found: list[bytes | bytearray]) -> int:
        """Append what is to be sent now, in whole frames, to `found`; gives how much, in bytes.

        That is about `share` of data, and what announces it; frames of a few bytes do not count.
        """
        size = len(self._announcement)
        if size:
            found.append(self._announcement)
            self._announcement = b""
        if self.link is not Link.LIVE:
            return size
        if self._ack_forced or self.into.ack_due:
            self._ack_forced = False
            found.append(offset_frame(Kind.ACK, self.id, self.into.acknowledge()))
        out = self.out
        piece = out.take(share)
        if piece is not None:
            length = len(piece[1])
            found += data_head(self.id, piece[0], length), piece[1]
            size += length
        if out.ended and out.take_end():
            found.append(offset_frame(Kind.END, self.id, out.written))
        return size

    @property
    def unsent(self) -> bool:
        """Whether there is more to send at once, in its next turn."""
        return self.link is Link.LIVE and self.out.ready

    def detach(self, expires: float) -> None:
        """The connection was lost: wait until `expires` for another, if not until before that."""
        self.link = Link.DETACHED
        if self.expires is None:
            self.expires = expires
        self._announcement = b""

    def _live(self) -> None:
        self.link = Link.LIVE
        self.expires = None
        self._ack_forced = True  # the last one may have been lost with the connection
        self._ready(self)

    def _put(self, piece: bytes) -> bool:
        """Queue bytes to send; True when the writer is to pause from now on."""
        self.out.put(piece)
        self._ready(self)
        if self.out.full and not self._writer_paused:
            self._writer_paused = True
            return True
        return False

    def _acknowledged(self, offset: int) -> bool:
        """Take the peer's ACK; True when the paused writer is to go on."""
        self.out.acknowledge(offset)
        if self.out.ready:
            self._ready(self)
        if self._writer_paused and self.out.drained:
            self._writer_paused = False
            return True
        return False

    def _consumed(self) -> None:
        if not self._reader_paused:
            self.into.consume()
            if self.into.ack_due:
                self._ready(self)

    def _pause_reader(self) -> None:
        self._reader_paused = True

    def _resume_reader(self) -> None:
        self._reader_paused = False
        self._consumed()
