"""Quitting in order: answers under way become whole, or are told that they will not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

from ctllm.desktop.broker.broker import Broker
from ctllm.errors import DesktopLost
from ctllm.reactor.periodic import PeriodicCall
from ctllm.reactor.services import Service

#: Seconds between two looks whether everything is done; the first is after the answer has left.
POLL_INTERVAL = 0.2


class GracefulShutdown(Service):
    """Ends the program through `stop`, once nothing is under way; `under_way` counts."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        broker: Broker,
        count_requests: Callable[[], int],
        stop: Callable[[], None],
    ) -> None:
        self._reactor = reactor
        self._broker = broker
        self._count_requests = count_requests
        self._stop = stop
        self._deadline = 0.0
        self._poller = PeriodicCall(self._poll, reactor, "quitting")

    def begin(self, seconds: float) -> int:
        """End when all is done, or after so many seconds; gives how many are under way."""
        self._deadline = self._reactor.seconds() + seconds
        if not self._poller.is_running:
            self._log.info("quitting, as was asked")
            self._poller.start(POLL_INTERVAL, now=False)
        return self._count_requests()

    def _poll(self) -> None:
        if self._count_requests() and self._reactor.seconds() < self._deadline:
            return
        self._poller.stop()
        self._stop()

    def stopService(self) -> None:
        """The program ends, for whatever reason: tell the apps, whose answers end here."""
        super().stopService()
        self._poller.stop()
        self._broker.abort_requests(DesktopLost("the desktop was stopped"))
