"""Exit of a proxy at the first MemoryError; its cloud then starts another.

An allocation can fail at any point. After that, buffers and counters may be inconsistent.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, cast

from twisted.logger import ILogObserver, globalLogPublisher
from zope.interface import implementer

from ctllm.common.exit_codes import OUT_OF_MEMORY
from ctllm.reactor.services import Service

_MESSAGE = b"A MemoryError occurred: this proxy exits, and the cloud starts another.\n"


def _exit() -> None:
    os.write(2, _MESSAGE)
    os._exit(OUT_OF_MEMORY)  # without cleanup, which could allocate memory


@implementer(ILogObserver)
class ExitOnMemoryError(Service):
    """Exits on a MemoryError in the log.

    The reactor, Deferreds and services log every exception that they catch.
    """

    def __init__(self, exit: Callable[[], None] = _exit) -> None:
        self._exit = exit
        self._previous_hook: Callable[[sys.UnraisableHookArgs], object] = sys.__unraisablehook__

    def startService(self) -> None:
        """Observe the log and exceptions that cannot be raised."""
        super().startService()
        globalLogPublisher.addObserver(cast(ILogObserver, self))
        self._previous_hook, sys.unraisablehook = sys.unraisablehook, self._unraisable

    def stopService(self) -> None:
        """Stop observing."""
        super().stopService()
        globalLogPublisher.removeObserver(cast(ILogObserver, self))
        sys.unraisablehook = self._previous_hook

    def __call__(self, event: dict[str, Any]) -> None:
        """Process an event of the log."""
        failure = event.get("log_failure")
        if failure is not None and failure.check(MemoryError):
            self._exit()

    def _unraisable(self, what: sys.UnraisableHookArgs) -> None:
        """Process an exception that cannot be raised, such as one in a destructor."""
        if isinstance(what.exc_value, MemoryError):
            self._exit()
        self._previous_hook(what)
