"""A proxy that has met a MemoryError ends at once, and its cloud starts another.

An allocation may fail anywhere, in the middle of anything. What goes on after that has lost a piece
of a frame here and a count there, and only looks as if it worked.
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

_MESSAGE = b"a MemoryError: this proxy ends, and another takes its place\n"


def _exit() -> None:
    os.write(2, _MESSAGE)
    os._exit(OUT_OF_MEMORY)  # nothing that could want memory


@implementer(ILogObserver)
class ExitOnMemoryError(Service):
    """Watches the log, where the reactor, Deferreds and services put every exception they catch."""

    def __init__(self, exit: Callable[[], None] = _exit) -> None:
        self._exit = exit
        self._previous_hook: Any = None

    def startService(self) -> None:
        """Watch."""
        super().startService()
        globalLogPublisher.addObserver(cast(Any, self))
        self._previous_hook, sys.unraisablehook = sys.unraisablehook, self._unraisable

    def stopService(self) -> None:
        """Watch no more."""
        super().stopService()
        globalLogPublisher.removeObserver(cast(Any, self))
        sys.unraisablehook = self._previous_hook

    def __call__(self, event: dict[str, Any]) -> None:
        """Take an event of the log."""
        failure = event.get("log_failure")
        if failure is not None and failure.check(MemoryError):
            self._exit()

    def _unraisable(self, what: Any) -> None:
        """Take an exception that nobody can catch, such as one in a destructor."""
        if isinstance(what.exc_value, MemoryError):
            self._exit()
        self._previous_hook(what)
