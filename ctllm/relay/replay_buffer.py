"""A request body that can be sent a second time, within limits of memory."""

from __future__ import annotations

from ctllm.common.memory_budget import BufferBudget
from ctllm.tunnel.flow_control import READ_SIZE

#: Bytes of one body that are buffered at most: enough for pictures, not for whole models.
MAX_BUFFERED = 16 * 1024 * 1024


class ReplayBuffer:
    """The buffered part of a request body, and how much of it was sent.

    While it is replayable it retains what was sent, so that `rewind` can send it again. It stops
    being replayable when it exceeds `limit` bytes or when `budget`, which all requests share, is
    exhausted. Chunks to send have at most `chunk_size` bytes.
    """

    def __init__(
        self,
        budget: BufferBudget,
        is_replayable: bool = False,
        *,
        limit: int = MAX_BUFFERED,
        chunk_size: int = READ_SIZE,
    ) -> None:
        self.is_replayable = is_replayable
        self.is_complete = False  # whether the body has ended
        self._budget = budget
        self._limit = limit
        self._chunk_size = chunk_size
        self._data = bytearray()
        self._sent = 0  # bytes at the start of `_data`

    def append(self, data: bytes) -> None:
        """Add `data` to the end of the body."""
        self._data += data
        self._budget.reserve(len(data))
        if self.is_replayable and (len(self._data) > self._limit or self._budget.is_full):
            self.discard_sent()

    @property
    def data(self) -> bytes:
        """A copy of everything that is buffered."""
        return bytes(self._data)

    @property
    def size(self) -> int:
        """The number of bytes that are buffered."""
        return len(self._data)

    @property
    def is_full(self) -> bool:
        """Whether no more of the body should be held back."""
        return len(self._data) >= self._limit or self._budget.is_full

    @property
    def has_unsent(self) -> bool:
        """Whether a chunk is left to send."""
        return self._sent < len(self._data)

    def next_chunk(self) -> bytes:
        """Return the next chunk to send, and count it as sent."""
        chunk = bytes(self._data[self._sent : self._sent + self._chunk_size])
        if self.is_replayable:
            self._sent += len(chunk)
        else:
            self._discard(len(chunk))
        return chunk

    def rewind(self) -> None:
        """Start again at the first byte. The buffer must be replayable."""
        assert self.is_replayable
        self._sent = 0

    def discard_sent(self) -> None:
        """Free what was sent; the buffer is not replayable any more."""
        self.is_replayable = False
        self._discard(self._sent)
        self._sent = 0

    def close(self) -> None:
        """Free everything."""
        self.is_replayable = False
        self._discard(len(self._data))
        self._sent = 0

    def _discard(self, count: int) -> None:
        del self._data[:count]
        self._budget.release(count)
