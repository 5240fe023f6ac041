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
from ctllm.system.file_lock import hold
from ctllm.system.private_dir import PrivateDirectory

#: The longest path, in bytes, that every system takes for a UNIX socket (macOS: 103).
LONGEST = 100
_PREFIX = "ctllm-"
_ELSEWHERE = "elsewhere"
_SOCKET = "proxy.sock"
_SAMPLE = Path("0" * 12 + "-" + "0" * 8, _SOCKET)


@dataclass(frozen=True, slots=True)
class Place:
    """What a proxy is told to listen on (`arguments`) and where it is then found (`endpoint`).

    `path` is that of its socket, in a `folder` of its own; both are empty for a port.
    """

    arguments: tuple[str, ...]
    endpoint: str
    path: str = ""
    folder: Path | None = None


class Places(Protocol):
    """Gives each proxy a place of its own."""

    def open(self) -> None:
        """Begin, with nothing left of an earlier run; BadConfiguration where that cannot be."""

    def take(self, proxy_id: str) -> Place:
        """Give a new place; OSError when the system has none."""

    def leave(self, place: Place) -> None:
        """Leave nothing of it behind."""

    def close(self) -> None:
        """Leave nothing of any behind."""


def places_below(state: Path) -> Places:
    """Give UNIX sockets below the folder `state`, or ports where the system has no such sockets."""
    return Sockets(state / "run") if hasattr(socket, "AF_UNIX") else Ports()


class Ports:
    """Free ports of the loopback interface."""

    def open(self) -> None:
        """Begin."""

    def take(self, proxy_id: str) -> Place:
        """Give a port that was free a moment ago: a proxy that finds it taken is started again."""
        with socket.socket() as trial:
            trial.bind(("127.0.0.1", 0))
            port = trial.getsockname()[1]
        return Place(("--port", str(port)), f"tcp:127.0.0.1:{port}")

    def leave(self, place: Place) -> None:
        """Ports leave nothing."""

    def close(self) -> None:
        """Ports leave nothing."""


class Sockets:
    """UNIX sockets, each in a folder of its own (0700) in `run`, which is this cloud's alone.

    If paths in there would be too long, they are in a temporary folder to which `run` has a link,
    so that the next start finds it even if this run is killed.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._base = run
        self._lock: int | None = None

    def open(self) -> None:
        """Take the folder for this process and sweep it.

        BadConfiguration if another cloud has it, or if others can look into it.
        """
        PrivateDirectory(self._run)
        self._lock = _locked(self._run)
        self._sweep()
        if len(os.fsencode(self._run / _SAMPLE)) > LONGEST:
            self._base = Path(tempfile.mkdtemp(prefix=_PREFIX))
            (self._run / _ELSEWHERE).symlink_to(self._base)

    def take(self, proxy_id: str) -> Place:
        """Give a socket in a new folder.

        The folder's name is never used twice: a proxy of a killed cloud that ends late and
        removes its socket must not remove its successor's.
        """
        short = sha256(proxy_id.encode()).hexdigest()[:12]
        folder = Path(tempfile.mkdtemp(prefix=f"{short}-", dir=self._base))
        path = str(folder / _SOCKET)
        return Place(("--socket", path), f"unix:{quote_argument(path)}", path, folder)

    def leave(self, place: Place) -> None:
        """Remove the socket's folder."""
        if place.folder is not None:
            shutil.rmtree(place.folder, ignore_errors=True)

    def close(self) -> None:
        """Remove every folder but `run` itself, and leave that to others."""
        if self._lock is not None:
            self._sweep()
            os.close(self._lock)
            self._lock = None
        self._base = self._run

    def _sweep(self) -> None:
        for entry in self._run.iterdir():
            if entry.is_symlink():
                _remove_temporary(Path(os.readlink(entry)))
                entry.unlink()
            elif entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)


def in_use(state: Path) -> BadConfiguration:
    """The error for a state folder that another cloud uses."""
    return BadConfiguration(
        f"Another ctllm cloud uses {state}: stop it, or give this one another state folder with "
        "--state."
    )


def _locked(folder: Path) -> int:
    """Lock the folder itself, until the descriptor that this gives is closed or we are gone."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        hold(descriptor)
    except OSError:
        os.close(descriptor)
        raise in_use(folder.parent) from None
    return descriptor


def _remove_temporary(folder: Path) -> None:
    """Remove a temporary folder of ours, if that is still what is there."""
    with suppress(OSError):
        if folder.name.startswith(_PREFIX) and folder.lstat().st_uid == os.geteuid():
            shutil.rmtree(folder, ignore_errors=True)
