"""A check of one streamed response: whether each of its numbered lines came, once and in order."""

from __future__ import annotations

import json
from dataclasses import dataclass

#: Bytes that are kept of a line without a number.
MAX_DAMAGED = 300


@dataclass
class LineChecker:
    """Checks the lines of a response of `expected` words, which are the numbers from 0 on.

    The line with `done` follows them and is not counted. `skipped` counts numbers that were passed
    over, `repeated` lines whose number came before, and `damaged` lines that have no number. The
    first of these is `first_damaged`: the error of a server that could not go on.
    """

    expected: int
    received: int = 0
    skipped: int = 0
    repeated: int = 0
    damaged: int = 0
    first_damaged: str = ""
    is_complete: bool = False
    _next: int = 0

    def add(self, line: bytes) -> None:
        """Check the next line."""
        try:
            message = json.loads(line)
            if message["done"]:
                self.is_complete = self._next == self.expected
                return
            number = int(message["response"])
        except (ValueError, KeyError, TypeError):
            self.damaged += 1
            self.first_damaged = self.first_damaged or line[:MAX_DAMAGED].decode(errors="replace")
            return
        self.received += 1
        self.repeated += number < self._next
        self.skipped += max(0, number - self._next)
        self._next = max(self._next, number + 1)

    @property
    def missing(self) -> int:
        """The lines that have not come: those that were passed over, and those of the end."""
        return self.skipped + self.expected - self._next


def words(count: int) -> list[str]:
    """The words of a response that `LineChecker` checks."""
    return [f"{number} " for number in range(count)]
