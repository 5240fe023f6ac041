"""Flapping, damped: a side that failed is preferred again once it was well for a while.

The more often it failed lately, the longer that is. A side that is not trusted still serves where
the other one cannot.
"""

from __future__ import annotations

import math

#: Seconds for which a side has to be well after its first failure; each one soon after doubles it.
STEADY = 5.0
LONGEST = 120.0
#: Seconds after which earlier failures count no more.
FORGET = 300.0


class Trust:
    """What is thought of one side. Times are of one clock, in seconds."""

    def __init__(self) -> None:
        self._up = False
        self._wait = 0.0
        self._from = 0.0  # trusted from then on, while it is up
        self._fell = -math.inf

    @property
    def up(self) -> bool:
        """Whether it answers, as far as is known."""
        return self._up

    def rose(self, now: float) -> None:
        """It answers; before anything failed it is trusted at once."""
        if not self._up:
            self._up = True
            self._from = now + self._wait

    def fell(self, now: float) -> None:
        """It does not answer."""
        if self._up:
            self._count(now)
            self._up = False

    def failed(self, now: float) -> None:
        """One request failed, though the side itself is there."""
        if self._up:
            self._count(now)
            self._from = now + self._wait

    def _count(self, now: float) -> None:
        since = now - self._fell
        if since >= FORGET or not self._wait:
            self._wait = STEADY
        elif since >= STEADY:  # else it is the same trouble, seen once more
            self._wait = min(self._wait * 2, LONGEST)
        self._fell = now

    def trusted(self, now: float) -> bool:
        """Whether it may be preferred."""
        return self._up and now >= self._from
