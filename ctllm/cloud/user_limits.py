"""How much each user has under way, so that one leaves room for the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from ctllm.errors import TooManyRequests

#: Which part of the room for requests one user may have. Three users are not enough to fill it.
PART = 4
#: How many tunnels one user may have: a proxy takes as many (two for each of 32 desktops).
MAX_TUNNELS = 64


class Shares:
    """Counts `what`; `most` for each user."""

    def __init__(self, most: int, what: str = "requests of yours are under way") -> None:
        self._most = most
        self._what = what
        self._under_way: Counter[str] = Counter()

    def __len__(self) -> int:
        """How many users have any."""
        return len(self._under_way)

    def take(self, user: str) -> Callable[[], None]:
        """One more; to be called when it is over. Raises TooManyRequests."""
        if self._under_way[user] >= self._most:
            raise TooManyRequests(f"{self._most} {self._what}; try again when some ended")
        self._under_way[user] += 1
        return lambda: self._give(user)

    def _give(self, user: str) -> None:
        self._under_way[user] -= 1
        if not self._under_way[user]:
            del self._under_way[user]


def share_of(most: int, room: int) -> int:
    """Give how many requests one user may have: `most`, or a part of the `room` for all."""
    return max(1, min(most, room // PART))


def tunnels() -> Shares:
    """Count tunnels."""
    return Shares(MAX_TUNNELS, "tunnels of yours are connected (is a desktop in a loop?)")
