"""How often something may happen in a minute: the generic cell rate algorithm (ITU-T I.371).

It is a token bucket that needs one number for each key. The package `limits` was considered. Its
storage in memory (5.8) starts a thread again and again to expire its entries, reads the wall clock,
which jumps, and has no limit: 200,000 IPv6 networks took 95 MB and 14 µs each. Its asynchronous one
needs asyncio and threads. Here, any number of keys takes 15 MB at most, and some 2 µs each.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ctllm.common.ttl_cache import TtlCache

MINUTE = 60.0
#: The keys that a limiter knows. Of more, the one that is unused for longest is forgotten.
#: A key whose bucket is empty is forgotten before: that changes nothing.
MAX_KEYS = 65536


class RateLimiter:
    """Counts, for each key, what happens: at most a number in a minute, also all at once.

    `seconds` returns a time that does not jump. A key that is forgotten may begin again.
    """

    def __init__(self, seconds: Callable[[], float], max_keys: int = MAX_KEYS) -> None:
        self._seconds = seconds
        # When the bucket of a key is empty again: the theoretical arrival time.
        self._empty_at: TtlCache[str, float] = TtlCache(max_keys, seconds)

    def __len__(self) -> int:
        """Return the number of keys that are known."""
        return len(self._empty_at)

    def wait(self, key: str, per_minute: int) -> int:
        """Return the seconds, rounded up, after which `key` may go on: 0 if it may now.

        `per_minute` is the limit, or 0 for none.
        """
        if not per_minute:
            return 0
        now = self._seconds()
        excess = (self._empty_at.get(key) or now) - now + MINUTE / per_minute - MINUTE
        # The tolerance is for sums of floating point numbers, and far below a real wait.
        return max(0, math.ceil(excess - 1e-6))

    def count(self, key: str, per_minute: int) -> int:
        """Count one for `key` and return 0, or count nothing and return how long to `wait`."""
        seconds = self.wait(key, per_minute)
        if per_minute and not seconds:
            empty_at = (self._empty_at.get(key) or self._seconds()) + MINUTE / per_minute
            self._empty_at.put(key, empty_at, empty_at)
        return seconds
