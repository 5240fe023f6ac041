"""Budgets of bytes that a process may hold for all its requests together."""

from __future__ import annotations

from typing import Protocol

from ctllm.errors import TooManyRequests


class BudgetObserver(Protocol):
    """An object that a `MemoryBudget` notifies."""

    def memory_released(self) -> None:
        """Bytes were released, and bodies may be read again."""

    def memory_exceeded(self) -> None:
        """More than the budget is reserved: abort something that holds memory."""


class MemoryBudget:
    """A count of reserved bytes, of `size`, with two thresholds below it.

    Beyond half of the size no request is admitted. Beyond three quarters no more of request bodies
    is read. The rest is for responses, which cannot be refused. Beyond the size, observers abort
    something.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.reserved = 0
        self._observers: list[BudgetObserver] = []
        self._admission_limit = size // 2
        self._read_limit = size * 3 // 4

    def add_observer(self, observer: BudgetObserver) -> None:
        """Notify `observer` from now on."""
        self._observers.append(observer)

    def admit(self, count: int) -> None:
        """Reserve the least that a request takes; raises TooManyRequests."""
        if self.reserved + count > self._admission_limit:
            raise TooManyRequests(
                "Your requests in progress take all the memory of your streaming proxy. "
                "Try again when some of them have ended."
            )
        self.reserve(count)

    def try_reserve(self, count: int) -> bool:
        """Reserve `count` bytes for data of a request body, if the budget allows it."""
        if self.reserved + count > self._read_limit:
            return False
        self.reserved += count
        return True

    @property
    def is_tight(self) -> bool:
        """Whether data that can wait should stay unread."""
        return self.reserved >= self._read_limit

    def reserve(self, count: int) -> None:
        """Count `count` bytes that are already held."""
        self.reserved += count
        if self.reserved > self.size:
            for observer in self._observers:
                observer.memory_exceeded()

    def release(self, count: int) -> None:
        """Count `count` bytes as free again."""
        self.reserved -= count
        if count and self.reserved < self._read_limit:
            for observer in self._observers:
                observer.memory_released()


def unlimited_budget() -> MemoryBudget:
    """Return a budget that is never exceeded, for callers that are limited otherwise."""
    return MemoryBudget(1 << 62)


class BufferBudget:
    """A count of the bytes that one kind of buffer holds, of `size`, all requests together.

    They count in `budget`, too.
    """

    def __init__(self, size: int, budget: MemoryBudget | None = None) -> None:
        self._size = size
        self._budget = unlimited_budget() if budget is None else budget
        self.reserved = 0

    @property
    def is_full(self) -> bool:
        """Whether nothing more should be buffered."""
        return self.reserved >= self._size or self._budget.is_tight

    def reserve(self, count: int) -> None:
        """Count `count` more bytes."""
        self.reserved += count
        self._budget.reserve(count)

    def release(self, count: int) -> None:
        """Count `count` fewer bytes."""
        self.reserved -= count
        self._budget.release(count)
