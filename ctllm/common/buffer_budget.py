"""How much may be held at once."""

from __future__ import annotations

from ctllm.common.memory_budget import MemoryBudget, unlimited


class Room:
    """Counts bytes that are held for all requests together; `budget` counts all that is held."""

    def __init__(self, size: int, budget: MemoryBudget | None = None) -> None:
        self._size = size
        self._budget = unlimited() if budget is None else budget
        self.held = 0

    @property
    def full(self) -> bool:
        """Whether nobody should hold more than is held now."""
        return self.held >= self._size or self._budget.is_tight

    def take(self, count: int) -> None:
        """So many more bytes are held."""
        self.held += count
        self._budget.reserve(count)

    def give(self, count: int) -> None:
        """So many bytes are not held any more."""
        self.held -= count
        self._budget.release(count)
