"""No network at all for a container: a UNIX socket in a folder that it shares with the cloud.

The outer folder lets nobody but the cloud's user in. An inner one is its container's: the proxy
makes its socket there, and from then on nobody in the container can make anything.
"""

from __future__ import annotations

import os
import shutil
from hashlib import sha256
from pathlib import Path

from twisted.internet.endpoints import quoteStringArgument

from ctllm.cloud.engine import Container, Listed
from ctllm.cloud.identity.store import Folder
from ctllm.cloud.runtimes.attachment import Attached
from ctllm.cloud.waiting import sleep
from ctllm.errors import BadConfiguration, ProxyUnavailable
from ctllm.http.faces import Clock

#: The group of proxies where the cloud is root's, who needs none.
GROUP = 1001
_INSIDE, _SOCKET = "/run/ctllm", "proxy.sock"
#: While the proxy makes its socket, and afterwards.
_OPEN, _SEALED = 0o770, 0o550
#: Seconds between two looks whether the socket is there.
_OFTEN = 0.02
#: Bytes of a socket's path: Linux's limit, for what shares folders with containers is Linux.
_LONGEST = 107


class Mounts:
    """An `Attachment` by folders below `state`."""

    def __init__(self, state: Path, clock: Clock) -> None:
        self._base, self._clock = state / "sockets", clock

    def open(self) -> None:
        """Make sure that sockets can be there; BadConfiguration says what is in the way."""
        if len(os.fsencode(self._folder("") / _SOCKET)) > _LONGEST:
            raise BadConfiguration(
                f"{self._base} is too long a path for sockets: choose a shorter --state, or "
                "network = bridge."
            )
        Folder(self._base)

    async def make(self, proxy_id: str) -> Attached:
        """An empty folder in which the container's group may make a socket."""
        folder, group = self._folder(proxy_id), os.getegid() or GROUP
        await self.clear(proxy_id)
        try:
            folder.mkdir()
            os.chown(folder, -1, group)
            folder.chmod(_OPEN)
        except OSError as error:
            raise ProxyUnavailable(f"No folder for its socket: {error.strerror}.") from error
        mount = {"Type": "bind", "Source": str(folder), "Target": _INSIDE}
        host = {"NetworkMode": "none", "Mounts": [mount]}
        return Attached(("--socket", f"{_INSIDE}/{_SOCKET}"), host, group)

    async def ready(self, proxy_id: str) -> None:
        """Once the socket is there, nothing else may be made beside it."""
        folder = self._folder(proxy_id)
        while not (folder / _SOCKET).is_socket():
            await sleep(self._clock, _OFTEN)
        folder.chmod(_SEALED)

    def endpoint(self, proxy_id: str, found: Container | Listed) -> str:
        """Its socket."""
        path = self._folder(proxy_id) / _SOCKET
        there = "none" in (found.network_settings.networks or {}) and path.is_socket()
        return f"unix:{quoteStringArgument(str(path))}" if there else ""

    async def clear(self, proxy_id: str) -> None:
        """Remove the folder."""
        folder = self._folder(proxy_id)
        if folder.is_dir():
            folder.chmod(_OPEN)  # sealed, it keeps what is in it from us, too
            shutil.rmtree(folder, ignore_errors=True)

    async def left(self) -> set[str]:
        """Nothing by which a proxy would be known: a folder that stays costs nothing."""
        return set()

    def _folder(self, proxy_id: str) -> Path:
        return self._base / sha256(proxy_id.encode()).hexdigest()[:16]
