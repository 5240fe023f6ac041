"""The two faces of an exchange, and what both ends of a tunnel keep of one.

Whoever asks is a `Caller` and gets a `Call`; whoever answers is handed the reverse. Every stage
of the relay (HTTP in, tunnel, HTTP out) speaks these, so stages join without glue. All methods are
called from one thread, never after `end`, `fail` or `cancel`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Protocol

from ctllm.errors import CtllmError
from ctllm.wire.frames import Kind, data_head, offset_frame
from ctllm.wire.heads import AnswerHead, RequestHead
from ctllm.wire.window import Inbound, Outbound


class Caller(Protocol):
    """Who asked: hears the answer, and is asked to slow its request body."""

    def head(self, head: AnswerHead) -> None:
        """Take the answer's status and headers; comes once, before any data."""

    def data(self, piece: bytes) -> None:
        """Take a piece of the answer as it came."""

    def end(self) -> None:
        """The answer is whole."""

    def fail(self, error: CtllmError) -> None:
        """There will be no (more) answer."""

    def pause_body(self) -> None:
        """Stop sending the request body."""

    def resume_body(self) -> None:
        """Go on with the request body."""


class Call(Protocol):
    """An exchange in the hands of who asked."""

    def write(self, piece: bytes) -> None:
        """Send a piece of the request body."""

    def end(self) -> None:
        """The request body is whole."""

    def cancel(self, error: CtllmError) -> None:
        """Stop everything; nothing more will be heard."""

    def pause(self) -> None:
        """Stop sending the answer."""

    def resume(self) -> None:
        """Go on with the answer."""


class Upstream(Protocol):
    """Where exchanges go: the next stage towards Ollama."""

    def open(self, head: RequestHead, caller: Caller) -> Call:
        """Begin an exchange. Raises CtllmError when it cannot even begin."""


class Link(Enum):
    """Whether an exchange's frames flow."""

    LIVE = "live"
    DETACHED = "detached"  # the connection was lost
    ATTACHING = "attaching"  # the opener asked to go on and waits for the answerer's word


class Exchange:
    """One end of an exchange in a tunnel: a direction in, a direction out, and their link."""

    def __init__(
        self, id: bytes, into: Inbound, out: Outbound, ready: Callable[[Exchange], None]
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
