"""The window of the page, where the extra `window` is installed: a child process, told by lines."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from ctllm.errors import NoWindow
from ctllm.system.display import has_graphical_session

#: Seconds that the window may take to appear; after that the browser is asked.
PATIENCE = 20.0


def can_have_window(environ: Mapping[str, str], platform: str) -> bool:
    """Whether the library is here, and a screen."""
    return (
        has_graphical_session(platform, environ) and importlib.util.find_spec("webview") is not None
    )


class _Child(ProcessProtocol):
    """The process of the window."""

    _log = Logger()

    transport: Any

    def __init__(self) -> None:
        self.ready: Deferred[bool] = Deferred()
        self.over = False
        self._said = b""

    def outReceived(self, data: bytes) -> None:
        """It says when the window is there."""
        self._said = (self._said + data)[-1000:]
        if b"ready" in self._said:
            self.tell(True)

    def errReceived(self, data: bytes) -> None:
        """What its libraries have to say."""
        self._said = (self._said + data)[-1000:]

    def processExited(self, reason: Failure) -> None:
        """The window was closed, or never came. Its helpers may hold its pipes for longer."""
        self.over = True
        if not self.ready.called:
            self._log.warn("there is no window: {said}", said=self._said.decode(errors="replace"))
            self.tell(False)

    def tell(self, shown: bool) -> None:
        """Whether it is there."""
        if not self.ready.called:
            self.ready.callback(shown)

    def say(self, line: str) -> None:
        """Tell the window what to do; a line that were two raises ValueError."""
        if not (line.isascii() and line.isprintable()):
            raise ValueError("what the window is told is one line of plain text")
        self.transport.write(line.encode() + b"\n")


class Window(Service):
    """At most one window. `argv` starts its process; None where there can be none."""

    def __init__(
        self, reactor: Any, argv: Sequence[str] | None, environ: Mapping[str, str]
    ) -> None:
        self._reactor = reactor
        self._argv = argv
        self._environ = environ
        self._child: _Child | None = None

    @property
    def there(self) -> bool:
        """Whether it is on the screen, or hidden."""
        return self._child is not None and not self._child.over

    def raise_(self) -> None:
        """Bring the one that is there to the front, as it is."""
        self._of_child("show")

    def hide(self) -> None:
        """Hide it; raises NoWindow where there is none."""
        self._of_child("hide")

    def _of_child(self, line: str) -> None:
        if self._child is None or self._child.over:
            raise NoWindow("the page has no window of ctllm's; one in your browser is closed there")
        self._child.say(line)

    async def open(self, address: str) -> bool:
        """Show `address` in it; whether that could be done."""
        if self._argv is None:
            return False
        if self.there:
            self._of_child(f"open {address}")
            return True
        child = self._child = _Child()
        argv = list(self._argv)
        self._reactor.spawnProcess(child, argv[0], argv, env=dict(self._environ))
        child.say(f"open {address}")
        timer = self._reactor.callLater(PATIENCE, self._late, child)
        try:
            return await child.ready
        finally:
            if timer.active():
                timer.cancel()

    def _late(self, child: _Child) -> None:
        child.tell(False)
        self._end(child)

    def _end(self, child: _Child) -> None:
        if not child.over:
            child.transport.loseConnection()
            child.transport.signalProcess("TERM")

    def stopService(self) -> None:
        """The window goes with the daemon."""
        super().stopService()
        if self._child is not None:
            self._end(self._child)
