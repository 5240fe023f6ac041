"""When the bridge dials again: soon where that helps one desktop, spread where there are many."""

from __future__ import annotations

from collections.abc import Callable

#: Seconds within which the first attempt is made after a connection that worked.
MAX_FIRST_DELAY = 1.0
#: The most seconds between two attempts, and while there are answers that somebody waits for: those
#: are given up after the grace time, which leaves room for several attempts.
MAX_DELAY = 30.0
MAX_DELAY_WITH_REQUESTS = 5.0


#: The most seconds that a cloud may ask to wait.
MAX_RETRY_AFTER = 300


def reconnect_delay(
    failures: int, random: Callable[[], float], has_requests: bool, retry_after: int | None = None
) -> float:
    """Seconds to wait after so many failures in a row; `chance` gives 0 to 1, as random.random.

    Up to 1 s after a connection that worked; then 1 to 5, 1 to 15, and 1 to 30 s, but never more
    than 5 while answers under way are `awaited`. The range is wide on purpose: when a cloud comes
    back, all its desktops have been waiting for it. A cloud that `asked` to wait for longer
    (Retry-After) is obeyed, and those that it asked do not come all at once either.
    """
    if failures == 0:
        return MAX_FIRST_DELAY * random()
    max_delay = MAX_DELAY_WITH_REQUESTS if has_requests else MAX_DELAY
    upper = min(max_delay, 5.0 * 3.0 ** min(failures - 1, 8))
    delay = 1.0 + (upper - 1.0) * random()
    if retry_after is None or has_requests:
        return delay
    return max(delay, min(retry_after, MAX_RETRY_AFTER) * (1.0 + random()))
