"""How many requests each user has under way, so that one leaves room for the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from ctllm.errors import TooManyRequests


class Shares:
    """Counts; `most` for each user."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._under_way: Counter[str] = Counter()

    def __len__(self) -> int:
        """How many users have any."""
        return len(self._under_way)

    def take(self, user: str) -> Callable[[], None]:
        """One more; to be called when it is over. Raises TooManyRequests."""
        if self._under_way[user] >= self._most:
            raise TooManyRequests(
                f"{self._most} requests of yours are under way; try again when some ended"
            )
        self._under_way[user] += 1
        return lambda: self._give(user)

    def _give(self, user: str) -> None:
        self._under_way[user] -= 1
        if not self._under_way[user]:
            del self._under_way[user]
