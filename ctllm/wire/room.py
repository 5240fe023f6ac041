"""How much may be held at once."""

from __future__ import annotations


class Room:
    """Counts the bytes that are held for all requests together."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.held = 0

    @property
    def full(self) -> bool:
        """Whether nobody should hold more than is held now."""
        return self.held >= self._size

    def take(self, count: int) -> None:
        """So many more bytes are held."""
        self.held += count

    def give(self, count: int) -> None:
        """So many bytes are not held any more."""
        self.held -= count
