"""How many bytes a process may hold for all its exchanges together, and how many it holds."""

from __future__ import annotations

from collections.abc import Callable

from ctllm.errors import TooManyRequests


def _no_matter() -> None:
    """Nobody waits for room, or nothing can be given up."""


class MemoryBudget:
    """Bytes that are reserved, of `size`.

    It has three marks, so that what has begun can go on. Beyond half of the size no exchange
    begins. Beyond three quarters nothing more is read of request bodies. What comes after that are
    answers, which nobody can refuse: beyond the size `on_excess` is called, to give something up.
    `on_room` is called when bytes were released, and bodies may be read again.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.reserved = 0
        self.on_room: Callable[[], None] = _no_matter
        self.on_excess: Callable[[], None] = _no_matter
        self._admission_limit = size // 2
        self._read_limit = size * 3 // 4

    def admit(self, count: int) -> None:
        """Reserve what an exchange costs at least; raises TooManyRequests."""
        if self.reserved + count > self._admission_limit:
            raise TooManyRequests(
                "your requests that are under way take all the memory of your streaming proxy; "
                "try again when some ended"
            )
        self.reserve(count)

    def try_reserve(self, count: int) -> bool:
        """Reserve room for a piece of a request body, if there is any."""
        if self.reserved + count > self._read_limit:
            return False
        self.reserved += count
        return True

    @property
    def is_tight(self) -> bool:
        """Whether nothing more should be read that can wait."""
        return self.reserved >= self._read_limit

    def reserve(self, count: int) -> None:
        """Count bytes that are held already."""
        self.reserved += count
        if self.reserved > self.size:
            self.on_excess()

    def release(self, count: int) -> None:
        """Count bytes that are not held any more."""
        self.reserved -= count
        if count and self.reserved < self._read_limit:
            self.on_room()


def unlimited_budget() -> MemoryBudget:
    """Give a budget that never ends, for those who are bounded otherwise."""
    return MemoryBudget(1 << 62)


class BufferBudget:
    """Counts bytes that are held for all requests together; `budget` counts all that is held."""

    def __init__(self, size: int, budget: MemoryBudget | None = None) -> None:
        self._size = size
        self._budget = unlimited_budget() if budget is None else budget
        self.reserved = 0

    @property
    def is_full(self) -> bool:
        """Whether nobody should hold more than is held now."""
        return self.reserved >= self._size or self._budget.is_tight

    def reserve(self, count: int) -> None:
        """So many more bytes are held."""
        self.reserved += count
        self._budget.reserve(count)

    def release(self, count: int) -> None:
        """So many bytes are not held any more."""
        self.reserved -= count
        self._budget.release(count)
