"""The chat page's own window: a child process, controlled by lines on its standard input.

It needs the optional dependency `ctllm[window]`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from ctllm.errors import NoWindow
from ctllm.reactor.interfaces import Clock
from ctllm.reactor.services import Service
from ctllm.system.display import has_graphical_session

#: Seconds after which a window that has not appeared is replaced by the browser.
START_TIMEOUT = 20.0
#: Bytes of the output of a process that are stored.
_MAX_OUTPUT = 1000


class ProcessReactor(Clock, Protocol):
    """The reactor, as far as it is needed to start a process."""

    def spawnProcess(
        self, protocol: ProcessProtocol, program: str, argv: list[str], /, *, env: dict[str, str]
    ) -> object:
        """Start `program`."""


def can_have_window(environ: Mapping[str, str], platform: str) -> bool:
    """Return whether the library is installed and a display available."""
    return (
        has_graphical_session(platform, environ) and importlib.util.find_spec("webview") is not None
    )


class WebviewProcess(ProcessProtocol):
    """The process of a window. `ready` fires with whether the window appeared."""

    _log = Logger()

    transport: IProcessTransport

    def __init__(self) -> None:
        self.ready: Deferred[bool] = Deferred()
        self.has_exited = False
        self._output = b""

    def outReceived(self, data: bytes) -> None:
        """Handle the line that the process writes when the window appears."""
        self._output = (self._output + data)[-_MAX_OUTPUT:]
        if b"ready" in self._output:
            self.resolve(True)

    def errReceived(self, data: bytes) -> None:
        """Store what the libraries write, for the log."""
        self._output = (self._output + data)[-_MAX_OUTPUT:]

    def processExited(self, reason: Failure) -> None:
        """Handle a window that was closed or did not appear.

        The pipes may be open for longer, in the children of the process.
        """
        self.has_exited = True
        if not self.ready.called:
            self._log.warn(
                "The window did not appear: {output}", output=self._output.decode(errors="replace")
            )
            self.resolve(False)

    def resolve(self, is_shown: bool) -> None:
        """Fire `ready`, unless it has fired."""
        if not self.ready.called:
            self.ready.callback(is_shown)

    def send_line(self, line: str) -> None:
        """Send a command; raises ValueError for text that is not one printable line."""
        if not (line.isascii() and line.isprintable()):
            raise ValueError("A command for the window is one line of printable ASCII.")
        self.transport.write(line.encode() + b"\n")


class WebviewWindow(Service):
    """The window, of which there is at most one. `argv` starts its process; None disables it."""

    def __init__(
        self, reactor: ProcessReactor, argv: Sequence[str] | None, environ: Mapping[str, str]
    ) -> None:
        self._reactor = reactor
        self._argv = argv
        self._environ = environ
        self._process: WebviewProcess | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is a window, visible or hidden."""
        return self._process is not None and not self._process.has_exited

    def show(self) -> None:
        """Show the window, with the page that it has; raises NoWindow."""
        self._send_line("show")

    def hide(self) -> None:
        """Hide the window; raises NoWindow."""
        self._send_line("hide")

    def _send_line(self, line: str) -> None:
        if self._process is None or self._process.has_exited:
            raise NoWindow(
                "ctllm has no window open. If the page is open in your browser, close it there."
            )
        self._process.send_line(line)

    async def open(self, url: str) -> bool:
        """Open `url` in the window, and return whether that succeeded."""
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
        """Close the window."""
        super().stopService()
        if self._process is not None:
            self._terminate(self._process)
