"""The IPC as a service: its sockets, the file by which it is found, and news for who watches."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import quoteStringArgument
from twisted.logger import Logger, globalLogPublisher

from ctllm.desktop.ipc.connection import Commands, Visitors
from ctllm.desktop.ipc.instance_lock import Lock
from ctllm.desktop.ipc.log_buffer import RecentLog
from ctllm.http.server.endpoint_service import EndpointService
from ctllm.ipc import protocol
from ctllm.ipc.messages import Status
from ctllm.reactor.periodic import PeriodicCall
from ctllm.system.atomic_write import write_atomically

#: Seconds for which changes are gathered before they are told, and between two looks at what
#: changes without a word (counts).
GATHER = 0.1
LOOK = 1.0
#: Most bytes of a UNIX socket's path everywhere (sun_path of macOS, less its end).
LONGEST_PATH = 103


class IpcService(MultiService):
    """Answers in the name of `commands`; `status` is what those who watch are told of."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        state: Path,
        port: int,
        lock: Lock,
        commands: Commands,
        status: Callable[[], Status],
        log: RecentLog,
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._lock = lock
        self._status = status
        self._log_lines = log
        self._file = state.joinpath(*protocol.WHERE)
        self._secret = secrets.token_hex(32)
        self._visitors = Visitors(reactor, self._secret, commands)
        self._last: Status | None = None
        self._telling: Any = None
        self._loop = PeriodicCall(self._tell, reactor, "telling of changes")
        where = f"tcp:{port}:interface=127.0.0.1"
        self._tcp = EndpointService(reactor, where, self._visitors, "ipc-port")
        self._socket = self._file.parent / "ipc.sock"

    def startService(self) -> None:
        """Begin, and say where; raises BadConfiguration where another daemon is."""
        self._lock.take()
        try:
            if hasattr(socket, "AF_UNIX") and len(os.fsencode(self._socket)) <= LONGEST_PATH:
                self._socket.unlink(missing_ok=True)  # of one that was killed
                path = quoteStringArgument(str(self._socket))
                endpoint = f"unix:{path}:mode=600:lockfile=0"
                EndpointService(self._reactor, endpoint, self._visitors, "state").setServiceParent(
                    self
                )
            self._tcp.setServiceParent(self)
            super().startService()
            write_atomically(self._file, msgspec.json.encode(self._where()))
        except BaseException:
            self._lock.release()
            raise
        globalLogPublisher.addObserver(self._log_lines)  # type: ignore[arg-type]
        self._log_lines.on_line = self._line
        self._loop.start(LOOK, now=False)

    @property
    def port(self) -> int:
        """The TCP port."""
        return int(self._tcp.port.getHost().port)

    @property
    def watched(self) -> bool:
        """Whether somebody wants to hear of changes."""
        return any(visitor.watches for visitor in self._visitors)

    def _where(self) -> protocol.Where:
        path = str(self._socket) if self._socket.exists() else ""
        return protocol.Where(self.port, self._secret, os.getpid(), path)

    def stopService(self) -> Deferred[Any]:
        """Tell those who are connected, and leave nothing behind."""
        if self._loop.is_running:
            self._loop.stop()
            globalLogPublisher.removeObserver(self._log_lines)  # type: ignore[arg-type]
        if self._telling is not None and self._telling.active():
            self._telling.cancel()
        for visitor in self._visitors:
            visitor.tell("quitting", None)
            visitor.transport.loseConnection()
        with suppress(OSError):
            os.unlink(self._file)
        done: Deferred[Any] = maybeDeferred(super().stopService)
        return done.addBoth(self._released)  # until the sockets are gone nobody makes others

    def _released(self, result: Any) -> Any:
        self._lock.release()
        return result

    # -- news

    def changed(self) -> None:
        """Something may be others than it was."""
        if self.running and self.watched and not (self._telling and self._telling.active()):
            self._telling = self._reactor.callLater(GATHER, self._tell)

    def _tell(self) -> None:
        watching = [visitor for visitor in self._visitors if visitor.watches]
        if not watching:
            return
        status = self._status()
        if status != self._last:
            self._last = status
            for visitor in watching:
                visitor.tell("status", status)

    def _line(self, line: str) -> None:
        for visitor in self._visitors:
            if visitor.reads_log:
                visitor.tell("log", line)
