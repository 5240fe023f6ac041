"""Periodic calls that go on after an exception, which they log."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from ctllm.errors import CtllmError
from ctllm.reactor.interfaces import Clock
from ctllm.reactor.services import Service


class PeriodicCall:
    """Calls `work`, which may return a Deferred, periodically; one call at a time.

    Twisted's LoopingCall stops at the first exception, and so does its TimerService.
    `description` says in the log what failed; the same failure in a row is logged once.
    """

    _log = Logger()

    def __init__(self, work: Callable[[], object], clock: Clock, description: str) -> None:
        self._work = work
        self._description = description
        self._loop = LoopingCall(self._call)
        self._loop.clock = cast(IReactorTime, clock)
        self._current_call: Deferred[object] | None = None
        self._last_failure = ""

    @property
    def is_running(self) -> bool:
        """Whether it is started."""
        return bool(self._loop.running)

    def start(self, interval: float, now: bool = True) -> None:
        """Call every `interval` seconds, for the first time now or after one interval."""
        self._loop.start(interval, now)

    def stop(self) -> None:
        """Stop, and cancel the call in progress."""
        if self._loop.running:
            self._loop.stop()
        if self._current_call is not None:
            self._current_call.cancel()

    def _call(self) -> Deferred[None]:
        self._current_call = maybeDeferred(self._work)
        return self._current_call.addCallbacks(self._succeeded, self._failed)

    def _succeeded(self, _: object) -> None:
        self._last_failure = ""

    def _failed(self, reason: Failure) -> None:
        if isinstance(reason.value, CancelledError) and not self._loop.running:
            return
        message = f"{reason.type} {reason.getErrorMessage()}"
        if message != self._last_failure:
            self._last_failure = message
            self._log_failure(reason)

    def _log_failure(self, reason: Failure) -> None:
        if isinstance(reason.value, CtllmError):
            self._log.warn("{what} failed: {why}", what=self._description, why=reason.value.message)
        else:
            self._log.failure("{what} failed and will be retried", reason, what=self._description)


class PeriodicService(Service):
    """A service that calls `work` when it starts, and then every `interval` seconds."""

    def __init__(
        self, interval: float, work: Callable[[], object], clock: Clock, description: str
    ) -> None:
        self._interval = interval
        self._periodic = PeriodicCall(work, clock, description)

    def startService(self) -> None:
        """Start the calls."""
        super().startService()
        self._periodic.start(self._interval)

    def stopService(self) -> None:
        """Stop the calls, and cancel the one in progress."""
        super().stopService()
        self._periodic.stop()
