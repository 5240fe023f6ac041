"""Bodies that stop coming: one may take as long as it likes, but not say nothing for ever."""

from __future__ import annotations

from collections.abc import Callable

from ctllm.http.timeouts import BODY_IDLE
from ctllm.reactor.interfaces import Clock
from ctllm.reactor.timeout import Timeout


class Trickle:
    """Calls `stopped` when nothing of a body came for `BODY_IDLE` seconds, though it was wanted.

    It looks once in that time, so it costs a body next to nothing and may take twice as long.
    """

    def __init__(self, clock: Clock, wanted: Callable[[], bool], stopped: Callable[[], None]):
        self.heard = False  # whether something came since the last look
        self._wanted = wanted
        self._stopped = stopped
        self._deadline = Timeout(clock, self._look)

    def begin(self) -> None:
        """There is a body to come."""
        self.heard = False
        self._deadline.set(BODY_IDLE)

    def end(self) -> None:
        """There is none, or it does not matter."""
        self._deadline.cancel()

    def _look(self) -> None:
        if self.heard or not self._wanted():
            self.begin()
        else:
            self._stopped()
