"""Limits on what each user may do at once, which leave capacity for the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from ctllm.errors import TooManyRequests

#: One user may use at most this part of the capacity, so that three users cannot fill it.
CAPACITY_DIVISOR = 4
#: Tunnels of one user. A proxy accepts as many: two for each of 32 desktops.
MAX_TUNNELS_PER_USER = 64


class UserLimiter:
    """Counts, for each user, what is in use; at most `limit`.

    `description` says in an error message what is counted.
    """

    def __init__(self, limit: int, description: str = "of your requests are in progress") -> None:
        self._limit = limit
        self._description = description
        self._in_use: Counter[str] = Counter()

    def __len__(self) -> int:
        """Return the number of users that have anything in use."""
        return len(self._in_use)

    def limit_of(self, lower_limit: int) -> int:
        """Return the limit of a user whose own one is `lower_limit`, or 0 for none."""
        return min(self._limit, lower_limit or self._limit)

    def reserve(self, user: str, lower_limit: int = 0) -> Callable[[], None]:
        """Count one more and return a function that releases it; raises TooManyRequests.

        `lower_limit` is that of this user, or 0.
        """
        limit = self.limit_of(lower_limit)
        if self._in_use.get(user, 0) >= limit:
            raise TooManyRequests(
                f"{limit} {self._description}. Try again when some of them have ended."
            )
        self._in_use[user] += 1
        return lambda: self._release(user)

    def _release(self, user: str) -> None:
        self._in_use[user] -= 1
        if not self._in_use[user]:
            del self._in_use[user]


def max_requests_per_user(configured: int, capacity: int) -> int:
    """Return the limit for one user: `configured`, or less for a cloud of a small `capacity`."""
    return max(1, min(configured, capacity // CAPACITY_DIVISOR))


def tunnel_limiter() -> UserLimiter:
    """Return a limiter of tunnels."""
    return UserLimiter(
        MAX_TUNNELS_PER_USER, "of your tunnels are connected (a desktop may reconnect in a loop)"
    )
