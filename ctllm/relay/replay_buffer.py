"""A request body that may have to be sent once more, as long as that is affordable."""

from __future__ import annotations

from ctllm.common.memory_budget import BufferBudget
from ctllm.tunnel.flow_control import READ

#: Most bytes of one body that are kept: pictures come in a request, whole models do not.
MOST = 16 * 1024 * 1024


class Replay:
    """Keeps a body and how far it was sent. With `keeps` false only what is not sent is kept."""

    def __init__(self, room: BufferBudget, keeps: bool) -> None:
        self._room = room
        self._held = bytearray()
        self._sent = 0  # bytes of what is held
        self.keeps = keeps  # everything from the first byte on is still there
        self.ended = False  # nothing more will come

    def add(self, piece: bytes) -> None:
        """The body goes on with `piece`."""
        self._held += piece
        self._room.reserve(len(piece))
        if self.keeps and (len(self._held) > MOST or self._room.is_full):
            self.forget()

    @property
    def full(self) -> bool:
        """Whether no more should be held back."""
        return len(self._held) >= MOST or self._room.is_full

    @property
    def unsent(self) -> bool:
        """Whether there is something to send."""
        return self._sent < len(self._held)

    def take(self) -> bytes:
        """The next piece to send."""
        piece = bytes(self._held[self._sent : self._sent + READ])
        if self.keeps:
            self._sent += len(piece)
        else:
            self._drop(len(piece))
        return piece

    def rewind(self) -> None:
        """Send it once more, from the first byte; only while it `keeps`."""
        assert self.keeps
        self._sent = 0

    def forget(self) -> None:
        """Keep nothing that was sent any more."""
        self.keeps = False
        self._drop(self._sent)
        self._sent = 0

    def close(self) -> None:
        """Nobody will want the rest."""
        self.keeps = False
        self._drop(len(self._held))
        self._sent = 0

    def _drop(self, count: int) -> None:
        del self._held[:count]
        self._room.release(count)
