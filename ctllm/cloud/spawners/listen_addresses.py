"""The addresses on which proxies that are processes listen: UNIX sockets or loopback ports."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from ctllm.errors import BadConfiguration
from ctllm.reactor.endpoints import quote_argument
from ctllm.system.file_lock import acquire_lock
from ctllm.system.private_dir import PrivateDirectory

#: The longest path of a UNIX socket, in bytes, that all systems support (macOS: 103).
MAX_SOCKET_PATH_BYTES = 100
_TEMPORARY_PREFIX = "ctllm-"
_TEMPORARY_LINK = "elsewhere"
_SOCKET_NAME = "proxy.sock"
_SAMPLE_PATH = Path("0" * 12 + "-" + "0" * 8, _SOCKET_NAME)


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """The address of one proxy.

    `arguments` belong on its command line; `endpoint` describes the client endpoint. A UNIX socket
    has a `socket_path` in a `directory` of its own; both are empty for a port.
    """

    arguments: tuple[str, ...]
    endpoint: str
    socket_path: str = ""
    directory: Path | None = None


class ListenAddresses(Protocol):
    """Allocates an address for each proxy."""

    def open(self) -> None:
        """Remove what an earlier run left. Raises BadConfiguration if addresses cannot be used."""

    def allocate(self, proxy_id: str) -> ListenAddress:
        """Return a new address. Raises OSError if the system has none."""

    def release(self, address: ListenAddress) -> None:
        """Remove an address."""

    def close(self) -> None:
        """Remove all addresses."""


def default_listen_addresses(state_dir: Path) -> ListenAddresses:
    """Return UNIX sockets below `state_dir`, or ports if the system has no UNIX sockets."""
    return UnixSockets(state_dir / "run") if hasattr(socket, "AF_UNIX") else LoopbackPorts()


class LoopbackPorts:
    """Free ports of the loopback interface."""

    def open(self) -> None:
        """Do nothing."""

    def allocate(self, proxy_id: str) -> ListenAddress:
        """Return a port that is free now. If it is taken by then, the proxy's start fails."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        return ListenAddress(("--port", str(port)), f"tcp:127.0.0.1:{port}")

    def release(self, address: ListenAddress) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class UnixSockets:
    """UNIX sockets, each in a directory of its own (0700) in `run_dir`.

    Only one cloud at a time uses `run_dir`. If paths in it would be too long, the sockets are in a
    temporary directory, to which `run_dir` has a symbolic link: so the next run finds it even if
    this one is killed.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._base = run_dir
        self._lock: int | None = None

    def open(self) -> None:
        """Lock `run_dir` and remove what an earlier run left in it.

        Raises BadConfiguration if another cloud uses it, or if other users can read it.
        """
        PrivateDirectory(self._run_dir)
        self._lock = _lock_directory(self._run_dir)
        self._remove_leftovers()
        if len(os.fsencode(self._run_dir / _SAMPLE_PATH)) > MAX_SOCKET_PATH_BYTES:
            self._base = Path(tempfile.mkdtemp(prefix=_TEMPORARY_PREFIX))
            (self._run_dir / _TEMPORARY_LINK).symlink_to(self._base)

    def allocate(self, proxy_id: str) -> ListenAddress:
        """Return a socket in a new directory.

        The directory's name is never reused: a proxy of a killed cloud that exits late removes its
        socket, which must not be its successor's.
        """
        short_id = sha256(proxy_id.encode()).hexdigest()[:12]
        directory = Path(tempfile.mkdtemp(prefix=f"{short_id}-", dir=self._base))
        path = str(directory / _SOCKET_NAME)
        return ListenAddress(("--socket", path), f"unix:{quote_argument(path)}", path, directory)

    def release(self, address: ListenAddress) -> None:
        """Remove the directory of the socket."""
        if address.directory is not None:
            shutil.rmtree(address.directory, ignore_errors=True)

    def close(self) -> None:
        """Remove all directories in `run_dir` and unlock it."""
        if self._lock is not None:
            self._remove_leftovers()
            os.close(self._lock)
            self._lock = None
        self._base = self._run_dir

    def _remove_leftovers(self) -> None:
        for entry in self._run_dir.iterdir():
            if entry.is_symlink():
                _remove_temporary(Path(os.readlink(entry)))
                entry.unlink()
            elif entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)


def state_dir_in_use(state_dir: Path) -> BadConfiguration:
    """Return the error for a state directory that another cloud uses."""
    return BadConfiguration(
        f"Another ctllm cloud uses {state_dir}. Stop it, or choose another state directory with "
        "--state-dir."
    )


def _lock_directory(directory: Path) -> int:
    """Lock a directory. Return the descriptor that holds the lock until it is closed."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        acquire_lock(descriptor)
    except OSError:
        os.close(descriptor)
        raise state_dir_in_use(directory.parent) from None
    return descriptor


def _remove_temporary(directory: Path) -> None:
    """Remove a temporary directory, if it exists and is this user's."""
    with suppress(OSError):
        if (
            directory.name.startswith(_TEMPORARY_PREFIX)
            and directory.lstat().st_uid == os.geteuid()
        ):
            shutil.rmtree(directory, ignore_errors=True)
