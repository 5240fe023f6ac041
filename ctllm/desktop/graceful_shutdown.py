"""Quitting in order: answers under way become whole, or are told that they will not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.logger import Logger

from ctllm.desktop.broker.broker import Broker
from ctllm.errors import DesktopLost
from ctllm.reactor.periodic import PeriodicCall

#: Seconds between two looks whether everything is done; the first is after the answer has left.
OFTEN = 0.2


class Leaving(Service):
    """Ends the program through `stop`, once nothing is under way; `under_way` counts."""

    _log = Logger()

    def __init__(
        self, reactor: Any, broker: Broker, under_way: Callable[[], int], stop: Callable[[], None]
    ) -> None:
        self._reactor = reactor
        self._broker = broker
        self._under_way = under_way
        self._stop = stop
        self._until = 0.0
        self._loop = PeriodicCall(self._look, reactor, "quitting")

    def begin(self, seconds: float) -> int:
        """End when all is done, or after so many seconds; gives how many are under way."""
        self._until = self._reactor.seconds() + seconds
        if not self._loop.is_running:
            self._log.info("quitting, as was asked")
            self._loop.start(OFTEN, now=False)
        return self._under_way()

    def _look(self) -> None:
        if self._under_way() and self._reactor.seconds() < self._until:
            return
        self._loop.stop()
        self._stop()

    def stopService(self) -> None:
        """The program ends, for whatever reason: tell the apps, whose answers end here."""
        super().stopService()
        self._loop.stop()
        self._broker.abort_requests(DesktopLost("the desktop was stopped"))
