"""When the bridge dials again: soon where that helps one desktop, spread where there are many."""

from __future__ import annotations

from collections.abc import Callable

#: Seconds within which the first attempt is made after a connection that worked.
EAGER = 1.0
#: The most seconds between two attempts, and while there are answers that somebody waits for: those
#: are given up after the grace time, which leaves room for several attempts.
LONGEST = 30.0
LONGEST_AWAITED = 5.0


#: The most seconds that a cloud may ask to wait.
LONGEST_ASKED = 300


def pause(
    failures: int, chance: Callable[[], float], awaited: bool, asked: int | None = None
) -> float:
    """Seconds to wait after so many failures in a row; `chance` gives 0 to 1, as random.random.

    Up to 1 s after a connection that worked; then 1 to 5, 1 to 15, and 1 to 30 s, but never more
    than 5 while answers under way are `awaited`. The range is wide on purpose: when a cloud comes
    back, all its desktops have been waiting for it. A cloud that `asked` to wait for longer
    (Retry-After) is obeyed, and those that it asked do not come all at once either.
    """
    if failures == 0:
        return EAGER * chance()
    longest = LONGEST_AWAITED if awaited else LONGEST
    most = min(longest, 5.0 * 3.0 ** min(failures - 1, 8))
    own = 1.0 + (most - 1.0) * chance()
    if asked is None or awaited:
        return own
    return max(own, min(asked, LONGEST_ASKED) * (1.0 + chance()))
