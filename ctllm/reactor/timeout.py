"""A timeout that can be started again and again."""

from __future__ import annotations

from collections.abc import Callable

from ctllm.reactor.interfaces import Clock, Timer


class Timeout:
    """Calls `on_timeout` when the time runs out; it is created stopped."""

    def __init__(self, clock: Clock, on_timeout: Callable[[], None]) -> None:
        self._clock = clock
        self._on_timeout = on_timeout
        self._timer: Timer | None = None

    def start(self, seconds: float) -> None:
        """Time out in `seconds` from now; an earlier start is cancelled."""
        self.cancel()
        self._timer = self._clock.callLater(seconds, self._on_timeout)

    def cancel(self) -> None:
        """Cancel the timeout, if it is running."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
