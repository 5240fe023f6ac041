"""The window of the page, where the extra `window` is installed: a child process, told by lines."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from ctllm.errors import NoWindow
from ctllm.reactor.services import Service
from ctllm.system.display import has_graphical_session

#: Seconds that the window may take to appear; after that the browser is asked.
START_TIMEOUT = 20.0


def can_have_window(environ: Mapping[str, str], platform: str) -> bool:
    """Whether the library is here, and a screen."""
    return (
        has_graphical_session(platform, environ) and importlib.util.find_spec("webview") is not None
    )


class WebviewProcess(ProcessProtocol):
    """The process of the window."""

    _log = Logger()

    transport: Any

    def __init__(self) -> None:
        self.ready: Deferred[bool] = Deferred()
        self.has_exited = False
        self._output = b""

    def outReceived(self, data: bytes) -> None:
        """It says when the window is there."""
        self._output = (self._output + data)[-1000:]
        if b"ready" in self._output:
            self.resolve(True)

    def errReceived(self, data: bytes) -> None:
        """What its libraries have to say."""
        self._output = (self._output + data)[-1000:]

    def processExited(self, reason: Failure) -> None:
        """The window was closed, or never came. Its helpers may hold its pipes for longer."""
        self.has_exited = True
        if not self.ready.called:
            self._log.warn("there is no window: {said}", said=self._output.decode(errors="replace"))
            self.resolve(False)

    def resolve(self, is_shown: bool) -> None:
        """Whether it is there."""
        if not self.ready.called:
            self.ready.callback(is_shown)

    def send_line(self, line: str) -> None:
        """Tell the window what to do; a line that were two raises ValueError."""
        if not (line.isascii() and line.isprintable()):
            raise ValueError("what the window is told is one line of plain text")
        self.transport.write(line.encode() + b"\n")


class WebviewWindow(Service):
    """At most one window. `argv` starts its process; None where there can be none."""

    def __init__(
        self, reactor: Any, argv: Sequence[str] | None, environ: Mapping[str, str]
    ) -> None:
        self._reactor = reactor
        self._argv = argv
        self._environ = environ
        self._process: WebviewProcess | None = None

    @property
    def is_open(self) -> bool:
        """Whether it is on the screen, or hidden."""
        return self._process is not None and not self._process.has_exited

    def show(self) -> None:
        """Bring the one that is there to the front, as it is."""
        self._send_line("show")

    def hide(self) -> None:
        """Hide it; raises NoWindow where there is none."""
        self._send_line("hide")

    def _send_line(self, line: str) -> None:
        if self._process is None or self._process.has_exited:
            raise NoWindow("the page has no window of ctllm's; one in your browser is closed there")
        self._process.send_line(line)

    async def open(self, url: str) -> bool:
        """Show `address` in it; whether that could be done."""
        if self._argv is None:
            return False
        if self.is_open:
            self._send_line(f"open {url}")
            return True
        process = self._process = WebviewProcess()
        argv = list(self._argv)
        self._reactor.spawnProcess(process, argv[0], argv, env=dict(self._environ))
        process.send_line(f"open {url}")
        timer = self._reactor.callLater(START_TIMEOUT, self._timed_out, process)
        try:
            return await process.ready
        finally:
            if timer.active():
                timer.cancel()

    def _timed_out(self, process: WebviewProcess) -> None:
        process.resolve(False)
        self._terminate(process)

    def _terminate(self, process: WebviewProcess) -> None:
        if not process.has_exited:
            process.transport.loseConnection()
            process.transport.signalProcess("TERM")

    def stopService(self) -> None:
        """The window goes with the daemon."""
        super().stopService()
        if self._process is not None:
            self._terminate(self._process)
