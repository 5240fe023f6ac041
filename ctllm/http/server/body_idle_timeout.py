"""A timeout for request bodies of which no more data arrives."""

from __future__ import annotations

from collections.abc import Callable

from ctllm.reactor.interfaces import Clock
from ctllm.reactor.timeout import Timeout


class BodyIdleTimeout:
    """Calls `timed_out` when no data has arrived for `seconds` although `is_wanted()`.

    It checks once in that time, so that data costs no timer: the timeout may take twice as long.
    """

    __slots__ = ("_is_wanted", "_seconds", "_timed_out", "_timeout", "data_received")

    def __init__(
        self,
        clock: Clock,
        seconds: float,
        is_wanted: Callable[[], bool],
        timed_out: Callable[[], None],
    ) -> None:
        self.data_received = False  # since the last check
        self._seconds = seconds
        self._is_wanted = is_wanted
        self._timed_out = timed_out
        self._timeout = Timeout(clock, self._check)

    def start(self) -> None:
        """Start, for a body that is incomplete."""
        self.data_received = False
        self._timeout.start(self._seconds)

    def cancel(self) -> None:
        """Stop: the body is complete, or not wanted."""
        self._timeout.cancel()

    def _check(self) -> None:
        if self.data_received or not self._is_wanted():
            self.start()
        else:
            self._timed_out()
