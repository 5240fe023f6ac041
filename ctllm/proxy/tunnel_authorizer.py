"""Until when tunnels are authorized: a desktop proves in band that its session is still active.

A tunnel outlives the session assertion with which it was opened, so its desktop sends a new one
from time to time (AUTHORIZE in `docs/tunnel.md`). A tunnel whose desktop does not is closed. So a
desktop whose user was removed cannot stay connected, whatever relays its connection.
"""

from __future__ import annotations

from collections.abc import Callable

from ctllm.auth.session_assertions import SERVE, Claims
from ctllm.errors import Forbidden
from ctllm.proxy.assignment import Assignment
from ctllm.reactor.interfaces import Clock

GRACE = 600.0
"""Seconds after the expiry of the last assertion at which a tunnel is closed.

A cloud that is down for some minutes must not cost the tunnels of proxies that run on.
"""


class TunnelAuthorizer:
    """Verifies the session assertions of tunnels.

    `now` returns epoch seconds, which are the time of assertions. Deadlines are in the seconds of
    `clock`, which do not jump.
    """

    def __init__(
        self,
        assignment: Assignment,
        clock: Clock,
        now: Callable[[], float],
        grace: float = GRACE,
    ) -> None:
        self._assignment = assignment
        self._clock = clock
        self._now = now
        self._grace = grace

    def deadline(self, claims: Claims) -> float:
        """Return when a tunnel with these claims is closed; raises Forbidden without serve."""
        if SERVE not in claims.scopes:
            raise Forbidden("This login may use models, but not connect a desktop.")
        return self._clock.seconds() + claims.expires - self._now() + self._grace

    def verify(self, assertion: bytes) -> float:
        """Return the deadline of a tunnel with this assertion; raises Unauthorized or Forbidden."""
        return self.deadline(self._assignment.verify(assertion))
