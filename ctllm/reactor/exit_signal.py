"""The signal that stopped the reactor, so that the process can end by it as twistd does."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType

from twisted.internet.interfaces import IReactorCore

_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)
)


Handler = Callable[[int, FrameType | None], object]


class ExitSignal:
    """Records which signal stops `reactor`; create it before `reactor.run`.

    Twisted records that too, in a private attribute. This wraps the handlers that Twisted installs
    when the reactor starts.
    """

    def __init__(self, reactor: IReactorCore) -> None:
        self.number: int | None = None
        reactor.callWhenRunning(self._wrap_handlers)

    def raise_again(self) -> None:
        """End the process by the recorded signal, if any: its parent reads the exit status."""
        if self.number is not None:
            signal.signal(self.number, signal.SIG_DFL)
            os.kill(os.getpid(), self.number)

    def _wrap_handlers(self) -> None:
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            if not callable(handler):
                continue  # ignored, or not a handler of Python

            def record(number: int, frame: FrameType | None, handler: Handler = handler) -> None:
                self.number = number
                handler(number, frame)

            signal.signal(number, record)
