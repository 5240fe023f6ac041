"""A request body that may have to be sent once more, as long as that is affordable."""

from __future__ import annotations

from ctllm.common.memory_budget import BufferBudget
from ctllm.tunnel.flow_control import READ

#: Most bytes of one body that are kept: pictures come in a request, whole models do not.
MAX_BUFFERED = 16 * 1024 * 1024


class ReplayBuffer:
    """Keeps a body and how far it was sent. With `keeps` false only what is not sent is kept."""

    def __init__(self, budget: BufferBudget, is_replayable: bool) -> None:
        self._budget = budget
        self._data = bytearray()
        self._sent = 0  # bytes of what is held
        self.is_replayable = is_replayable  # everything from the first byte on is still there
        self.is_complete = False  # nothing more will come

    def append(self, piece: bytes) -> None:
        """The body goes on with `piece`."""
        self._data += piece
        self._budget.reserve(len(piece))
        if self.is_replayable and (len(self._data) > MAX_BUFFERED or self._budget.is_full):
            self.discard_sent()

    @property
    def is_full(self) -> bool:
        """Whether no more should be held back."""
        return len(self._data) >= MAX_BUFFERED or self._budget.is_full

    @property
    def has_unsent(self) -> bool:
        """Whether there is something to send."""
        return self._sent < len(self._data)

    def next_chunk(self) -> bytes:
        """The next piece to send."""
        piece = bytes(self._data[self._sent : self._sent + READ])
        if self.is_replayable:
            self._sent += len(piece)
        else:
            self._discard(len(piece))
        return piece

    def rewind(self) -> None:
        """Send it once more, from the first byte; only while it `keeps`."""
        assert self.is_replayable
        self._sent = 0

    def discard_sent(self) -> None:
        """Keep nothing that was sent any more."""
        self.is_replayable = False
        self._discard(self._sent)
        self._sent = 0

    def close(self) -> None:
        """Nobody will want the rest."""
        self.is_replayable = False
        self._discard(len(self._data))
        self._sent = 0

    def _discard(self, count: int) -> None:
        del self._data[:count]
        self._budget.release(count)
