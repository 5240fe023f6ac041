"""The IPC as a service: its sockets, its address file, and events for subscribers."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger, globalLogPublisher

from ctllm.desktop.ipc.connection import CommandRunner, IpcConnectionFactory
from ctllm.desktop.ipc.instance_lock import InstanceLock
from ctllm.desktop.ipc.log_buffer import LogBuffer
from ctllm.http.server.endpoint_service import EndpointService
from ctllm.ipc import protocol
from ctllm.ipc.messages import Status
from ctllm.reactor.endpoints import quote_argument
from ctllm.reactor.periodic import PeriodicCall
from ctllm.reactor.services import MultiService
from ctllm.reactor.timeout import Timeout
from ctllm.system.atomic_write import write_atomically

#: Seconds for which changes of the status are collected into one event, and between two checks for
#: changes that nothing reports (counts).
COALESCE_SECONDS = 0.1
STATUS_INTERVAL = 1.0
#: Bytes that a UNIX socket's path may have on every system (`sun_path` of macOS, without its NUL).
MAX_SOCKET_PATH = 103

T = TypeVar("T")


class IpcService(MultiService):
    """Listens for IPC clients, whose commands `commands` runs, and sends them events."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        state: Path,
        port: int,
        lock: InstanceLock,
        commands: CommandRunner,
        get_status: Callable[[], Status],
        log_buffer: LogBuffer,
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._lock = lock
        self._get_status = get_status
        self._log_buffer = log_buffer
        log_buffer.add_observer(self._send_log_line)
        self._address_file = state.joinpath(*protocol.ADDRESS_FILE)
        self._secret = secrets.token_hex(32)
        self.connections = IpcConnectionFactory(reactor, self._secret, commands)
        self._last_status: Status | None = None
        self._status_timer = Timeout(reactor, self._send_status)
        self._is_status_due = False
        self._periodic = PeriodicCall(self._send_status, reactor, "Sending the status")
        where = f"tcp:{port}:interface=127.0.0.1"
        self._tcp_listener = EndpointService(reactor, where, self.connections, "ipc-port")
        self._socket_path = self._address_file.parent / "ipc.sock"

    def startService(self) -> None:
        """Listen, and write the address file; raises BadConfiguration if another daemon runs."""
        self._lock.acquire()
        try:
            if (
                hasattr(socket, "AF_UNIX")
                and len(os.fsencode(self._socket_path)) <= MAX_SOCKET_PATH
            ):
                self._socket_path.unlink(missing_ok=True)  # left by a daemon that was killed
                path = quote_argument(str(self._socket_path))
                endpoint = f"unix:{path}:mode=600:lockfile=0"
                EndpointService(
                    self._reactor, endpoint, self.connections, "state-dir"
                ).setServiceParent(self)
            self._tcp_listener.setServiceParent(self)
            super().startService()
            write_atomically(self._address_file, msgspec.json.encode(self._address()))
        except BaseException:
            self._lock.release()
            raise
        globalLogPublisher.addObserver(self._log_buffer)
        self._periodic.start(STATUS_INTERVAL, now=False)

    @property
    def port(self) -> int:
        """The TCP port."""
        return int(self._tcp_listener.port.getHost().port)

    @property
    def is_watched(self) -> bool:
        """Whether a client is subscribed to the status."""
        return any(connection.is_subscribed for connection in self.connections)

    def _address(self) -> protocol.DaemonAddress:
        path = str(self._socket_path) if self._socket_path.exists() else ""
        return protocol.DaemonAddress(self.port, self._secret, os.getpid(), path)

    def stopService(self) -> Deferred[object]:
        """Send `quitting`, close the connections and remove the address file."""
        if self._periodic.is_running:
            self._periodic.stop()
            globalLogPublisher.removeObserver(self._log_buffer)
        self._status_timer.cancel()
        for connection in self.connections:
            connection.send_event("quitting", None)
            connection.transport.loseConnection()
        with suppress(OSError):
            os.unlink(self._address_file)
        done: Deferred[object] = maybeDeferred(super().stopService)
        return done.addBoth(self._release_lock)  # after the sockets are closed

    def _release_lock(self, result: T) -> T:
        self._lock.release()
        return result

    # -- events

    def status_changed(self) -> None:
        """Send the status to subscribers soon, if it has changed."""
        if self.running and self.is_watched and not self._is_status_due:
            self._is_status_due = True
            self._status_timer.start(COALESCE_SECONDS)

    def _send_status(self) -> None:
        self._is_status_due = False
        subscribers = [connection for connection in self.connections if connection.is_subscribed]
        if not subscribers:
            return
        status = self._get_status()
        if status != self._last_status:
            self._last_status = status
            for connection in subscribers:
                connection.send_event("status", status)

    def _send_log_line(self, line: str) -> None:
        for connection in self.connections:
            if connection.follows_log:
                connection.send_event("log", line)
