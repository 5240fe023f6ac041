"""UNIX sockets whose names or listeners are not to be trusted.

A name in a folder that somebody else can write to may be a symbolic link to any socket of this
machine. So the socket itself is opened, by a way that follows no link, and is connected to by its
descriptor. Who listens there is what the kernel says of the connection (SO_PEERCRED, unix(7)).
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

_CREDENTIALS = struct.Struct("iII")


class PeerCredentials(NamedTuple):
    """The process at the other end of a connection, as the kernel knows it.

    For who connects these are of the process that called listen(). `pid` is 0 for a process of
    another PID namespace.
    """

    pid: int
    uid: int
    gid: int


class NotASocket(OSError):
    """What has the name is a symbolic link, or something else that is no socket."""


def peer_credentials(connected: socket.socket) -> PeerCredentials | None:
    """Ask the kernel who is at the other end; None where the system does not tell (not Linux)."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    told = connected.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size)
    return PeerCredentials(*_CREDENTIALS.unpack(told))


@contextmanager
def pinned_path(path: str) -> Iterator[str]:
    """Give a name for the socket that `path` names now, whatever `path` names later.

    Neither the last part of `path` nor the folder that it is in may be a symbolic link. Raises
    NotASocket, and OSError where nothing is there. Where the system has no such names (not Linux)
    `path` itself is given, after the same check.
    """
    if not hasattr(os, "O_PATH"):
        _require_socket(path, os.lstat(path))
        yield path
        return
    folder, name = os.path.split(path)
    around = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=around)
    finally:
        os.close(around)
    try:
        _require_socket(path, os.fstat(found))
        yield f"/proc/self/fd/{found}"
    finally:
        os.close(found)


def _require_socket(path: str, found: os.stat_result) -> None:
    if not stat.S_ISSOCK(found.st_mode):
        raise NotASocket(f"{path} is not a socket")
