"""A time by which something must have happened."""

from __future__ import annotations

from collections.abc import Callable

from ctllm.reactor.interfaces import Clock, Timer


class Timeout:
    """Calls `missed` unless it is moved or lifted before its time; there is none at first."""

    def __init__(self, clock: Clock, on_timeout: Callable[[], None]) -> None:
        self._clock = clock
        self._on_timeout = on_timeout
        self._timer: Timer | None = None

    def start(self, seconds: float) -> None:
        """Within so many seconds from now, whatever was set before."""
        self.cancel()
        self._timer = self._clock.callLater(seconds, self._on_timeout)

    def cancel(self) -> None:
        """There is no hurry."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
