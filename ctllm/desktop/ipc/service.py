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
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger, globalLogPublisher

from ctllm.desktop.ipc.connection import Commands, IpcConnectionFactory
from ctllm.desktop.ipc.instance_lock import InstanceLock
from ctllm.desktop.ipc.log_buffer import LogBuffer
from ctllm.http.server.endpoint_service import EndpointService
from ctllm.ipc import protocol
from ctllm.ipc.messages import Status
from ctllm.reactor.endpoints import quote_argument
from ctllm.reactor.periodic import PeriodicCall
from ctllm.reactor.services import MultiService
from ctllm.system.atomic_write import write_atomically

#: Seconds for which changes are gathered before they are told, and between two looks at what
#: changes without a word (counts).
COALESCE_SECONDS = 0.1
STATUS_INTERVAL = 1.0
#: Most bytes of a UNIX socket's path everywhere (sun_path of macOS, less its end).
MAX_SOCKET_PATH = 103


class IpcService(MultiService):
    """Answers in the name of `commands`; `status` is what those who watch are told of."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        state: Path,
        port: int,
        lock: InstanceLock,
        commands: Commands,
        get_status: Callable[[], Status],
        log_buffer: LogBuffer,
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._lock = lock
        self._get_status = get_status
        self._log_buffer = log_buffer
        self._address_file = state.joinpath(*protocol.ADDRESS_FILE)
        self._secret = secrets.token_hex(32)
        self._connections = IpcConnectionFactory(reactor, self._secret, commands)
        self._last_status: Status | None = None
        self._status_timer: Any = None
        self._periodic = PeriodicCall(self._send_status, reactor, "telling of changes")
        where = f"tcp:{port}:interface=127.0.0.1"
        self._tcp_listener = EndpointService(reactor, where, self._connections, "ipc-port")
        self._socket_path = self._address_file.parent / "ipc.sock"

    def startService(self) -> None:
        """Begin, and say where; raises BadConfiguration where another daemon is."""
        self._lock.acquire()
        try:
            if (
                hasattr(socket, "AF_UNIX")
                and len(os.fsencode(self._socket_path)) <= MAX_SOCKET_PATH
            ):
                self._socket_path.unlink(missing_ok=True)  # of one that was killed
                path = quote_argument(str(self._socket_path))
                endpoint = f"unix:{path}:mode=600:lockfile=0"
                EndpointService(
                    self._reactor, endpoint, self._connections, "state"
                ).setServiceParent(self)
            self._tcp_listener.setServiceParent(self)
            super().startService()
            write_atomically(self._address_file, msgspec.json.encode(self._address()))
        except BaseException:
            self._lock.release()
            raise
        globalLogPublisher.addObserver(self._log_buffer)  # type: ignore[arg-type]
        self._log_buffer.on_line = self._send_log_line
        self._periodic.start(STATUS_INTERVAL, now=False)

    @property
    def port(self) -> int:
        """The TCP port."""
        return int(self._tcp_listener.port.getHost().port)

    @property
    def is_watched(self) -> bool:
        """Whether somebody wants to hear of changes."""
        return any(connection.is_subscribed for connection in self._connections)

    def _address(self) -> protocol.DaemonAddress:
        path = str(self._socket_path) if self._socket_path.exists() else ""
        return protocol.DaemonAddress(self.port, self._secret, os.getpid(), path)

    def stopService(self) -> Deferred[Any]:
        """Tell those who are connected, and leave nothing behind."""
        if self._periodic.is_running:
            self._periodic.stop()
            globalLogPublisher.removeObserver(self._log_buffer)  # type: ignore[arg-type]
        if self._status_timer is not None and self._status_timer.active():
            self._status_timer.cancel()
        for connection in self._connections:
            connection.send_event("quitting", None)
            connection.transport.loseConnection()
        with suppress(OSError):
            os.unlink(self._address_file)
        done: Deferred[Any] = maybeDeferred(super().stopService)
        return done.addBoth(self._release_lock)  # until the sockets are gone nobody makes others

    def _release_lock(self, result: Any) -> Any:
        self._lock.release()
        return result

    # -- news

    def status_changed(self) -> None:
        """Something may be others than it was."""
        if (
            self.running
            and self.is_watched
            and not (self._status_timer and self._status_timer.active())
        ):
            self._status_timer = self._reactor.callLater(COALESCE_SECONDS, self._send_status)

    def _send_status(self) -> None:
        watching = [connection for connection in self._connections if connection.is_subscribed]
        if not watching:
            return
        status = self._get_status()
        if status != self._last_status:
            self._last_status = status
            for connection in watching:
                connection.send_event("status", status)

    def _send_log_line(self, line: str) -> None:
        for connection in self._connections:
            if connection.follows_log:
                connection.send_event("log", line)
