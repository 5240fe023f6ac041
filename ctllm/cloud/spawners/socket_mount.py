"""No network at all for a container: a UNIX socket in a folder that it shares with the cloud.

The outer folder lets nobody but the cloud's user in. An inner one is its container's: the proxy
makes its socket there, and then the folder is sealed: nobody in the container can make, remove or
rename anything in it. A folder is sealed when it is not the container's user's, nobody may write to
it, and all it holds is one socket of that user's. A container whose folder is not sealed is not
reached: it is replaced.
"""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from secrets import token_hex

from twisted.logger import Logger

from ctllm.cloud.docker_api import Container, ContainerSummary
from ctllm.cloud.spawners.connectivity import CONTAINER_GROUP, CONTAINER_USER, ContainerConnectivity
from ctllm.cloud.spawners.interfaces import ProxySocket
from ctllm.errors import BadConfiguration, ProxyUnavailable
from ctllm.reactor.deferred_tools import sleep
from ctllm.reactor.endpoints import quote_argument
from ctllm.reactor.interfaces import Clock
from ctllm.system.private_dir import PrivateDirectory, open_directory

_CONTAINER_DIRECTORY, _SOCKET_NAME = "/run/ctllm", "proxy.sock"
#: While the proxy makes its socket, and afterwards.
_WRITABLE_MODE, _SEALED_MODE = 0o770, 0o550
#: Seconds between two looks whether the socket is there.
_POLL_INTERVAL = 0.02
#: Bytes of a socket's path: Linux's limit, for what shares folders with containers is Linux.
_MAX_SOCKET_PATH_BYTES = 107


class SocketMount:
    """An `Attachment` by folders below `state`."""

    _log = Logger()

    def __init__(self, state_dir: Path, clock: Clock) -> None:
        self._base, self._clock = state_dir / "sockets", clock

    def check_host(self) -> None:
        """Make sure that sockets can be there; BadConfiguration says what is in the way."""
        if len(os.fsencode(self._directory("") / _SOCKET_NAME)) > _MAX_SOCKET_PATH_BYTES:
            raise BadConfiguration(
                f"{self._base} is too long a path for sockets: choose a shorter --state-dir, or "
                "docker_network = bridge."
            )
        if os.geteuid() == CONTAINER_USER:  # who owns a folder may open it again
            raise BadConfiguration(
                f"cloud.docker_network = none: the cloud runs as user {CONTAINER_USER}, which is the user "
                "inside the containers. They could change what the cloud connects to. Run the "
                "cloud as another user, or use docker_network = bridge."
            )
        PrivateDirectory(self._base)

    async def provision(self, proxy_id: str) -> ContainerConnectivity:
        """An empty folder in which the container's group may make a socket."""
        directory, group = self._directory(proxy_id), os.getegid() or CONTAINER_GROUP
        await self.deprovision(proxy_id)
        try:
            directory.mkdir(mode=0o700)
            with open_directory(directory) as descriptor:
                os.fchown(descriptor, -1, group)
                os.fchmod(descriptor, _WRITABLE_MODE)
        except OSError as error:
            raise ProxyUnavailable(f"No folder for its socket: {error.strerror}.") from error
        mount = {"Type": "bind", "Source": str(directory), "Target": _CONTAINER_DIRECTORY}
        host_config = {"NetworkMode": "none", "Mounts": [mount]}
        return ContainerConnectivity(
            ("--socket", f"{_CONTAINER_DIRECTORY}/{_SOCKET_NAME}"), host_config, group
        )

    async def container_started(self, proxy_id: str) -> None:
        """Seal the folder once something has the socket's name; ProxyUnavailable if it is no seal.

        First nothing more can be made, and then what is there is looked at.
        """
        try:
            with open_directory(self._directory(proxy_id)) as descriptor:
                while _SOCKET_NAME not in os.listdir(descriptor):
                    await sleep(self._clock, _POLL_INTERVAL)
                os.fchmod(descriptor, _SEALED_MODE)
                sealed = self._is_sealed(descriptor)
        except OSError as error:
            raise ProxyUnavailable(f"No folder for its socket: {error.strerror}.") from error
        if not sealed:
            raise ProxyUnavailable("Its container made something else than its socket.")

    def endpoint(self, proxy_id: str, container: Container | ContainerSummary) -> str:
        """Its socket, if the folder is sealed."""
        directory = self._directory(proxy_id)
        if "none" not in (container.network_settings.networks or {}):
            return ""
        with suppress(OSError), open_directory(directory) as descriptor:
            if self._is_sealed(descriptor):
                return f"unix:{quote_argument(str(directory / _SOCKET_NAME))}"
        return ""

    def proxy_socket(self, proxy_id: str, container: Container | ContainerSummary) -> ProxySocket:
        """Its socket, at which only a process of the container listens."""
        path = str(self._directory(proxy_id) / _SOCKET_NAME)
        pid = container.state.pid if isinstance(container, Container) else 0
        return ProxySocket(path, CONTAINER_USER, pid, container.id)

    async def deprovision(self, proxy_id: str) -> None:
        """Remove the folder."""
        directory = self._directory(proxy_id)
        with suppress(FileNotFoundError):
            with open_directory(directory) as descriptor:
                os.fchmod(descriptor, 0o700)  # sealed, it keeps what is in it from us, too
            shutil.rmtree(directory, ignore_errors=True)
            if directory.exists():  # folders of the container's own: only root can remove those
                aside = self._base / f"left-{token_hex(8)}"
                directory.rename(aside)
                self._log.warn("{path} cannot be removed: remove it as root", path=str(aside))

    async def list_provisioned(self) -> set[str]:
        """Nothing by which a proxy would be known: a folder that stays costs nothing."""
        return set()

    def _directory(self, proxy_id: str) -> Path:
        return self._base / sha256(proxy_id.encode()).hexdigest()[:16]

    def _is_sealed(self, directory: int) -> bool:
        """Whether nobody in the container may write to it, and it holds the socket and no more.

        It is not the container's user's, who could open it again. Whose it is does not matter
        otherwise: nobody but the cloud and root gets as far as making a folder here.
        """
        status = os.fstat(directory)
        if status.st_uid == CONTAINER_USER or stat.S_IMODE(status.st_mode) != _SEALED_MODE:
            return False
        if os.listdir(directory) != [_SOCKET_NAME]:
            return False
        socket_status = os.stat(_SOCKET_NAME, dir_fd=directory, follow_symlinks=False)
        return stat.S_ISSOCK(socket_status.st_mode) and socket_status.st_uid == CONTAINER_USER
