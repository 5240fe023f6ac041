"""Quits the daemon once its requests are finished, or after a timeout."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from ctllm.desktop.broker.broker import Broker
from ctllm.errors import DesktopLost
from ctllm.reactor.interfaces import Clock
from ctllm.reactor.periodic import PeriodicCall
from ctllm.reactor.services import Service

#: Seconds between two checks; the first one leaves time to send the command's response.
POLL_INTERVAL = 0.2


class GracefulShutdown(Service):
    """Calls `stop` when `count_requests` returns 0, or when the timeout is over."""

    _log = Logger()

    def __init__(
        self,
        clock: Clock,
        broker: Broker,
        count_requests: Callable[[], int],
        stop: Callable[[], None],
        *,
        poll_interval: float = POLL_INTERVAL,
    ) -> None:
        self._clock = clock
        self._broker = broker
        self._count_requests = count_requests
        self._stop = stop
        self._poll_interval = poll_interval
        self._deadline = 0.0
        self._poller = PeriodicCall(self._poll, clock, "quitting")

    def begin(self, timeout: float) -> int:
        """Quit within `timeout` seconds; return the number of requests in progress.

        A second call replaces the timeout.
        """
        self._deadline = self._clock.seconds() + timeout
        if not self._poller.is_running:
            self._log.info("Quitting, by command")
            self._poller.start(self._poll_interval, now=False)
        return self._count_requests()

    def _poll(self) -> None:
        if self._count_requests() and self._clock.seconds() < self._deadline:
            return
        self._poller.stop()
        self._stop()

    def stopService(self) -> None:
        """End the requests of apps with an error, whatever stops the daemon."""
        super().stopService()
        self._poller.stop()
        self._broker.abort_requests(DesktopLost("The desktop was stopped."))
