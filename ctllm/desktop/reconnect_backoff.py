"""The delay before the bridge connects again."""

from __future__ import annotations

from collections.abc import Callable

#: The longest delay, in seconds, before the first attempt after a connection that worked.
MAX_FIRST_DELAY = 1.0
#: The longest delay before any other attempt.
MAX_DELAY = 30.0
#: The same while requests are in progress: they are aborted after the grace time, within which
#: several attempts must fit.
MAX_DELAY_WITH_REQUESTS = 5.0
#: The longest Retry-After that is obeyed.
MAX_RETRY_AFTER = 300
#: The longest time, in seconds, over which those are spread who were told the same Retry-After.
MAX_RETRY_AFTER_SPREAD = 10


def reconnect_delay(
    failures: int,
    random: Callable[[], float],
    has_requests: bool,
    retry_after: int | None = None,
) -> float:
    """Return the delay in seconds after `failures` in a row; `random` is as `random.random`.

    The delay is up to 1 s after a connection that worked, then 1 to 5 s, 1 to 15 s, and 1 to 30 s;
    at most 5 s while requests are in progress. It is spread over the whole range because all
    desktops of a cloud reconnect at the same time after it restarts. `retry_after` is the cloud's,
    which knows when the user's proxy runs: the delay is that, and up to 10 s more; with less than
    10 s, up to twice that. It is ignored while requests are in progress.
    """
    if failures == 0:
        return MAX_FIRST_DELAY * random()
    max_delay = MAX_DELAY_WITH_REQUESTS if has_requests else MAX_DELAY
    upper = min(max_delay, 5.0 * 3.0 ** min(failures - 1, 8))
    delay = 1.0 + (upper - 1.0) * random()
    if not retry_after or has_requests:
        return delay
    wait = min(retry_after, MAX_RETRY_AFTER)
    least = min(delay, MAX_DELAY_WITH_REQUESTS)
    return max(least, wait + min(wait, MAX_RETRY_AFTER_SPREAD) * random())
