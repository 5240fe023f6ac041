"""Bodies that stop coming: one may take as long as it likes, but not say nothing for ever."""

from __future__ import annotations

from collections.abc import Callable

from ctllm.http.timeouts import BODY_IDLE_TIMEOUT
from ctllm.reactor.interfaces import Clock
from ctllm.reactor.timeout import Timeout


class BodyIdleTimeout:
    """Calls `stopped` when nothing of a body came for `BODY_IDLE` seconds, though it was wanted.

    It looks once in that time, so it costs a body next to nothing and may take twice as long.
    """

    def __init__(self, clock: Clock, wanted: Callable[[], bool], stopped: Callable[[], None]):
        self.data_received = False  # whether something came since the last look
        self._wanted = wanted
        self._stopped = stopped
        self._deadline = Timeout(clock, self._look)

    def start(self) -> None:
        """There is a body to come."""
        self.data_received = False
        self._deadline.start(BODY_IDLE_TIMEOUT)

    def cancel(self) -> None:
        """There is none, or it does not matter."""
        self._deadline.cancel()

    def _look(self) -> None:
        if self.data_received or not self._wanted():
            self.start()
        else:
            self._stopped()
