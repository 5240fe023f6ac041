"""Flap damping: a route that failed is preferred again after a time without failures.

The time grows with each failure. A route that is not stable yet is still used while the other one
is down.
"""

from __future__ import annotations

import math

#: Seconds for which a route is unstable after its first failure; each later failure doubles them.
MIN_PENALTY = 5.0
MAX_PENALTY = 120.0
#: Seconds without a failure after which the penalty starts again at MIN_PENALTY.
RESET_AFTER = 300.0


class FlapDamper:
    """Whether one route is up and stable. All times are seconds of one clock."""

    def __init__(self) -> None:
        self._is_up = False
        self._penalty = 0.0
        self._stable_at = 0.0  # stable from then on, while it is up
        self._last_failure = -math.inf

    @property
    def is_up(self) -> bool:
        """Whether the route worked when it was last checked."""
        return self._is_up

    def mark_up(self, now: float) -> None:
        """Record that the route is up. It is stable at once unless it failed before."""
        if not self._is_up:
            self._is_up = True
            self._stable_at = now + self._penalty

    def mark_down(self, now: float) -> None:
        """Record that the route is down."""
        if self._is_up:
            self._extend_penalty(now)
            self._is_up = False

    def mark_request_failed(self, now: float) -> None:
        """Record that a request failed on the route, which is still up."""
        if self._is_up:
            self._extend_penalty(now)
            self._stable_at = now + self._penalty

    def _extend_penalty(self, now: float) -> None:
        since = now - self._last_failure
        if since >= RESET_AFTER or not self._penalty:
            self._penalty = MIN_PENALTY
        elif since >= MIN_PENALTY:  # an earlier one is the same failure, reported twice
            self._penalty = min(self._penalty * 2, MAX_PENALTY)
        self._last_failure = now

    def is_stable(self, now: float) -> bool:
        """Return whether the route may be preferred."""
        return self._is_up and now >= self._stable_at
