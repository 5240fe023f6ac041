"""Where proxies that are processes listen: UNIX sockets in private folders, or loopback ports."""

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

#: The longest path, in bytes, that every system takes for a UNIX socket (macOS: 103).
MAX_SOCKET_PATH_BYTES = 100
_TEMPORARY_PREFIX = "ctllm-"
_TEMPORARY_LINK = "elsewhere"
_SOCKET_NAME = "proxy.sock"
_SAMPLE_PATH = Path("0" * 12 + "-" + "0" * 8, _SOCKET_NAME)


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """What a proxy is told to listen on (`arguments`) and where it is then found (`endpoint`).

    `path` is that of its socket, in a `folder` of its own; both are empty for a port.
    """

    arguments: tuple[str, ...]
    endpoint: str
    socket_path: str = ""
    directory: Path | None = None


class ListenAddresses(Protocol):
    """Gives each proxy a place of its own."""

    def open(self) -> None:
        """Begin, with nothing left of an earlier run; BadConfiguration where that cannot be."""

    def allocate(self, proxy_id: str) -> ListenAddress:
        """Give a new place; OSError when the system has none."""

    def release(self, address: ListenAddress) -> None:
        """Leave nothing of it behind."""

    def close(self) -> None:
        """Leave nothing of any behind."""


def default_listen_addresses(state_dir: Path) -> ListenAddresses:
    """Give UNIX sockets below the folder `state`, or ports where the system has no such sockets."""
    return UnixSockets(state_dir / "run") if hasattr(socket, "AF_UNIX") else LoopbackPorts()


class LoopbackPorts:
    """Free ports of the loopback interface."""

    def open(self) -> None:
        """Begin."""

    def allocate(self, proxy_id: str) -> ListenAddress:
        """Give a port that was free a moment ago: a proxy that finds it taken is started again."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        return ListenAddress(("--port", str(port)), f"tcp:127.0.0.1:{port}")

    def release(self, address: ListenAddress) -> None:
        """Ports leave nothing."""

    def close(self) -> None:
        """Ports leave nothing."""


class UnixSockets:
    """UNIX sockets, each in a folder of its own (0700) in `run`, which is this cloud's alone.

    If paths in there would be too long, they are in a temporary folder to which `run` has a link,
    so that the next start finds it even if this run is killed.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._base = run_dir
        self._lock: int | None = None

    def open(self) -> None:
        """Take the folder for this process and sweep it.

        BadConfiguration if another cloud has it, or if others can look into it.
        """
        PrivateDirectory(self._run_dir)
        self._lock = _lock_directory(self._run_dir)
        self._remove_leftovers()
        if len(os.fsencode(self._run_dir / _SAMPLE_PATH)) > MAX_SOCKET_PATH_BYTES:
            self._base = Path(tempfile.mkdtemp(prefix=_TEMPORARY_PREFIX))
            (self._run_dir / _TEMPORARY_LINK).symlink_to(self._base)

    def allocate(self, proxy_id: str) -> ListenAddress:
        """Give a socket in a new folder.

        The folder's name is never used twice: a proxy of a killed cloud that ends late and
        removes its socket must not remove its successor's.
        """
        short = sha256(proxy_id.encode()).hexdigest()[:12]
        directory = Path(tempfile.mkdtemp(prefix=f"{short}-", dir=self._base))
        path = str(directory / _SOCKET_NAME)
        return ListenAddress(("--socket", path), f"unix:{quote_argument(path)}", path, directory)

    def release(self, address: ListenAddress) -> None:
        """Remove the socket's folder."""
        if address.directory is not None:
            shutil.rmtree(address.directory, ignore_errors=True)

    def close(self) -> None:
        """Remove every folder but `run` itself, and leave that to others."""
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
    """The error for a state folder that another cloud uses."""
    return BadConfiguration(
        f"Another ctllm cloud uses {state_dir}: stop it, or give this one another state folder with "
        "--state."
    )


def _lock_directory(directory: Path) -> int:
    """Lock the folder itself, until the descriptor that this gives is closed or we are gone."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        acquire_lock(descriptor)
    except OSError:
        os.close(descriptor)
        raise state_dir_in_use(directory.parent) from None
    return descriptor


def _remove_temporary(directory: Path) -> None:
    """Remove a temporary folder of ours, if that is still what is there."""
    with suppress(OSError):
        if (
            directory.name.startswith(_TEMPORARY_PREFIX)
            and directory.lstat().st_uid == os.geteuid()
        ):
            shutil.rmtree(directory, ignore_errors=True)
