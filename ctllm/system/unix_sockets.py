"""UNIX sockets in directories of other users, and the credentials of their listeners.

A name in a directory that another user can write to may be a symbolic link to any socket of the
machine. So the socket itself is opened without following links, and connected to by its
descriptor. The kernel reports which process listens (SO_PEERCRED, unix(7)).
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
    """The credentials of a connection's peer: for a client, of the process that called listen().

    `pid` is 0 for a process of another PID namespace.
    """

    pid: int
    uid: int
    gid: int


class NotASocket(OSError):
    """The path is a symbolic link, or another file that is not a socket."""


def peer_credentials(connected: socket.socket) -> PeerCredentials | None:
    """Return the credentials of the peer, or None if the system does not report them."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    value = connected.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size)
    return PeerCredentials(*_CREDENTIALS.unpack(value))


@contextmanager
def pinned_path(path: str) -> Iterator[str]:
    """Return a path to the socket at `path` that stays valid if `path` is replaced.

    Neither `path` nor its directory may be a symbolic link. Raises NotASocket, and OSError if
    `path` does not exist. Systems other than Linux have no such paths: there it is `path` itself,
    after the same check.
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
