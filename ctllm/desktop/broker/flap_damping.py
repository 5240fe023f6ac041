"""Flapping, damped: a side that failed is preferred again once it was well for a while.

The more often it failed lately, the longer that is. A side that is not trusted still serves where
the other one cannot.
"""

from __future__ import annotations

import math

#: Seconds for which a side has to be well after its first failure; each one soon after doubles it.
MIN_PENALTY = 5.0
MAX_PENALTY = 120.0
#: Seconds after which earlier failures count no more.
RESET_AFTER = 300.0


class FlapDamper:
    """What is thought of one side. Times are of one clock, in seconds."""

    def __init__(self) -> None:
        self._is_up = False
        self._penalty = 0.0
        self._stable_at = 0.0  # trusted from then on, while it is up
        self._last_failure = -math.inf

    @property
    def is_up(self) -> bool:
        """Whether it answers, as far as is known."""
        return self._is_up

    def mark_up(self, now: float) -> None:
        """It answers; before anything failed it is trusted at once."""
        if not self._is_up:
            self._is_up = True
            self._stable_at = now + self._penalty

    def mark_down(self, now: float) -> None:
        """It does not answer."""
        if self._is_up:
            self._extend_penalty(now)
            self._is_up = False

    def mark_request_failed(self, now: float) -> None:
        """One request failed, though the side itself is there."""
        if self._is_up:
            self._extend_penalty(now)
            self._stable_at = now + self._penalty

    def _extend_penalty(self, now: float) -> None:
        since = now - self._last_failure
        if since >= RESET_AFTER or not self._penalty:
            self._penalty = MIN_PENALTY
        elif since >= MIN_PENALTY:  # else it is the same trouble, seen once more
            self._penalty = min(self._penalty * 2, MAX_PENALTY)
        self._last_failure = now

    def is_stable(self, now: float) -> bool:
        """Whether it may be preferred."""
        return self._is_up and now >= self._stable_at
