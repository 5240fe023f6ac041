"""Keeps the firewall's rules set, and tells the cloud whether they are.

Other programs remove rules that are not theirs: a firewall that is loaded again, `iptables -F`, a
script of the distribution. The rules are read periodically, and whenever the cloud asks.
"""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from ctllm.cli.output import print_error
from ctllm.cloud.spawners.firewall_status import MAX_STATUS_BYTES, FirewallStatus
from ctllm.errors import BadConfiguration, CtllmError

#: The most connections that one check answers.
_MAX_WAITING = 64
#: Owner and group may connect.
_SOCKET_UMASK = 0o117


class FirewallWatcher:
    """Calls `restore` every `interval` seconds and for connections to `listener`.

    `restore` sets what is missing and raises CtllmError if it cannot. Each connection gets a
    `FirewallStatus` of a check that began after it was made. Nothing is read from it.
    """

    def __init__(
        self,
        restore: Callable[[], None],
        listener: socket.socket,
        interval: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._restore, self._listener = restore, listener
        self._interval, self._now = interval, now
        self._next_check = now()
        self._problem = ""
        listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)

    def run_once(self) -> None:
        """Wait until a check is due, check, and answer those who asked before."""
        self._selector.select(max(0.0, self._next_check - self._now()))
        connections = self._accept_all()
        problem = self._check()
        self._next_check = self._now() + self._interval
        answer = msgspec.json.encode(FirewallStatus(problem)) + b"\n"
        for connection in connections:
            with connection, suppress(OSError):
                connection.setblocking(False)
                connection.sendall(answer)

    def _accept_all(self) -> list[socket.socket]:
        connections: list[socket.socket] = []
        with suppress(BlockingIOError):
            while len(connections) < _MAX_WAITING:
                connections.append(self._listener.accept()[0])
        return connections

    def _check(self) -> str:
        """Restore the rules; return the problem with that. One that persists is printed once."""
        try:
            self._restore()
            problem = ""
        except CtllmError as error:
            problem = error.message[: MAX_STATUS_BYTES // 8]
        if problem and problem != self._problem:
            print_error(problem)
        self._problem = problem
        return problem


def listen(path: Path) -> socket.socket:
    """Return a socket that listens at `path`, to which its owner and group may connect.

    Raises BadConfiguration if another process listens there, or the socket cannot be made.
    """
    listener = socket.socket(socket.AF_UNIX)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _remove_unused(path)
        umask = os.umask(_SOCKET_UMASK)
        try:
            listener.bind(str(path))
        finally:
            os.umask(umask)
        listener.listen(_MAX_WAITING)
    except OSError as error:
        listener.close()
        raise BadConfiguration(f"cannot listen at {path}: {error.strerror or error}") from error
    return listener


def _remove_unused(path: Path) -> None:
    """Remove the socket of a process that was killed. Raises BadConfiguration if one listens."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        else:
            raise BadConfiguration(f"another ctllm firewall --watch listens at {path}")
