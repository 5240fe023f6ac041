"""A time by which something must have happened."""

from __future__ import annotations

from collections.abc import Callable

from ctllm.reactor.interfaces import Clock, Timer


class Timeout:
    """Calls `missed` unless it is moved or lifted before its time; there is none at first."""

    def __init__(self, clock: Clock, missed: Callable[[], None]) -> None:
        self._clock = clock
        self._missed = missed
        self._timer: Timer | None = None

    def set(self, seconds: float) -> None:
        """Within so many seconds from now, whatever was set before."""
        self.cancel()
        self._timer = self._clock.callLater(seconds, self._missed)

    def cancel(self) -> None:
        """There is no hurry."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
