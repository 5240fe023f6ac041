"""How much each user has under way, so that one leaves room for the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from ctllm.errors import TooManyRequests

#: Which part of the room for requests one user may have. Three users are not enough to fill it.
CAPACITY_DIVISOR = 4
#: How many tunnels one user may have: a proxy takes as many (two for each of 32 desktops).
MAX_TUNNELS_PER_USER = 64


class UserLimiter:
    """Counts `what`; `most` for each user."""

    def __init__(self, limit: int, description: str = "requests of yours are under way") -> None:
        self._limit = limit
        self._description = description
        self._in_use: Counter[str] = Counter()

    def __len__(self) -> int:
        """How many users have any."""
        return len(self._in_use)

    def reserve(self, user: str) -> Callable[[], None]:
        """One more; to be called when it is over. Raises TooManyRequests."""
        if self._in_use[user] >= self._limit:
            raise TooManyRequests(f"{self._limit} {self._description}; try again when some ended")
        self._in_use[user] += 1
        return lambda: self._release(user)

    def _release(self, user: str) -> None:
        self._in_use[user] -= 1
        if not self._in_use[user]:
            del self._in_use[user]


def max_requests_per_user(configured: int, capacity: int) -> int:
    """Give how many requests one user may have: `most`, or a part of the `room` for all."""
    return max(1, min(configured, capacity // CAPACITY_DIVISOR))


def tunnel_limiter() -> UserLimiter:
    """Count tunnels."""
    return UserLimiter(
        MAX_TUNNELS_PER_USER, "tunnels of yours are connected (is a desktop in a loop?)"
    )
