"""Connectivity by a UNIX socket in a directory that a container shares with the cloud.

The container has no network. The outer directory admits only the cloud's user, or also its group if
the cloud shares it with a reverse proxy. The inner one is mounted in the container: the proxy
creates its socket there, and then the directory is sealed, so that no process in the container can
create, remove or rename anything in it.

A directory is sealed if the container's user does not own it, nobody may write to it, and it
contains one socket of the container's user and nothing else. The cloud connects to sockets in
sealed directories only, and replaces other containers.
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
from ctllm.cloud.spawners.connectivity import (
    CONTAINER_GROUP,
    CONTAINER_USER,
    ContainerConnectivity,
)
from ctllm.cloud.spawners.interfaces import ProxySocket
from ctllm.errors import BadConfiguration, ProxyUnavailable
from ctllm.reactor.deferred_tools import sleep
from ctllm.reactor.endpoints import quote_argument
from ctllm.reactor.interfaces import Clock
from ctllm.system.private_dir import PrivateDirectory, open_directory

_CONTAINER_DIRECTORY, _SOCKET_NAME = "/run/ctllm", "proxy.sock"
#: The mode of the directory while the proxy creates its socket, and afterwards.
_WRITABLE_MODE, _SEALED_MODE = 0o770, 0o550
#: What nobody but the owner may do with a shared directory: others nothing, its group only enter.
_FORBIDDEN_SHARED_MODE = 0o067
#: Seconds between two checks whether the socket exists.
_POLL_INTERVAL = 0.02
#: Bytes. Linux's limit: a host that shares directories with Linux containers is Linux.
_MAX_SOCKET_PATH_BYTES = 107


class SocketMount:
    """A `Connectivity` by directories below `state_dir`, or in `shared_dir`.

    `container_uid` is the user id of proxies in containers. The group of `shared_dir` may connect
    to the proxies; its owner has made it, with mode 0700 or 0710.
    """

    _log = Logger()

    def __init__(
        self,
        state_dir: Path,
        clock: Clock,
        container_uid: int = CONTAINER_USER,
        shared_dir: Path | None = None,
    ) -> None:
        self._base, self._clock = shared_dir or state_dir / "sockets", clock
        self._is_shared = shared_dir is not None
        self._container_uid = container_uid

    def check_host(self) -> None:
        """Create the outer directory. Raises BadConfiguration if sockets cannot be in it."""
        if len(os.fsencode(self._directory("") / _SOCKET_NAME)) > _MAX_SOCKET_PATH_BYTES:
            raise BadConfiguration(
                f"The path {self._base} is too long for sockets. Choose a shorter --state-dir or "
                "--sockets-dir, or docker_network = bridge."
            )
        if os.geteuid() == self._container_uid:  # the owner of a directory can unseal it
            raise BadConfiguration(
                f"cloud.docker_network = none: the cloud runs as user {self._container_uid}, which "
                "is the user inside the containers. They could change what the cloud connects to. "
                "Run the cloud as another user, or use docker_network = bridge."
            )
        if self._is_shared:
            self._check_shared_directory()
        else:
            PrivateDirectory(self._base)

    async def verify_isolation(self) -> None:
        """Do nothing: the container has no network."""

    async def prepare(self, proxy_id: str) -> ContainerConnectivity:
        """Create an empty directory to which the container's group may write."""
        directory, group = self._directory(proxy_id), os.getegid() or CONTAINER_GROUP
        await self.deprovision(proxy_id)
        try:
            directory.mkdir(mode=0o700)
            with open_directory(directory) as descriptor:
                os.fchown(descriptor, -1, group)
                os.fchmod(descriptor, _WRITABLE_MODE)
        except OSError as error:
            raise _directory_error(error) from error
        mount = {"Type": "bind", "Source": str(directory), "Target": _CONTAINER_DIRECTORY}
        return ContainerConnectivity(
            ("--socket", f"{_CONTAINER_DIRECTORY}/{_SOCKET_NAME}"),
            {"NetworkMode": "none", "Mounts": [mount]},
            group,
        )

    async def provision(self, proxy_id: str) -> None:
        """Do nothing: Docker mounts the directory when it creates the container."""

    async def provision_again(self, proxy_id: str, container: Container) -> bool:
        """Create the directory anew, if it is all that the container has, and has no network."""
        directory = str(self._directory(proxy_id))
        if [*container.networks] != ["none"] or container.mounted_directories != [directory]:
            return False
        await self.prepare(proxy_id)
        return True

    async def container_started(self, proxy_id: str) -> None:
        """Wait for the socket, then seal the directory.

        Raises ProxyUnavailable if it contains anything but the socket. The check follows the
        change of the mode, so that nothing can be created in between.
        """
        try:
            with open_directory(self._directory(proxy_id)) as descriptor:
                while _SOCKET_NAME not in os.listdir(descriptor):
                    await sleep(self._clock, _POLL_INTERVAL)
                os.fchmod(descriptor, _SEALED_MODE)
                is_sealed = self._is_sealed(descriptor)
        except OSError as error:
            raise _directory_error(error) from error
        if not is_sealed:
            raise ProxyUnavailable("Its container created something other than its socket.")

    def endpoint(self, proxy_id: str, container: Container | ContainerSummary) -> str:
        """Return the endpoint of the socket, if the directory is sealed."""
        directory = self._directory(proxy_id)
        if "none" not in (container.network_settings.networks or {}):
            return ""
        with suppress(OSError), open_directory(directory) as descriptor:
            if self._is_sealed(descriptor):
                return f"unix:{quote_argument(str(directory / _SOCKET_NAME))}"
        return ""

    def proxy_socket(self, proxy_id: str, container: Container | ContainerSummary) -> ProxySocket:
        """Return the socket, on which only a process of the container may listen."""
        path = str(self._directory(proxy_id) / _SOCKET_NAME)
        pid = container.state.pid if isinstance(container, Container) else 0
        return ProxySocket(path, self._container_uid, pid, container.id)

    async def deprovision(self, proxy_id: str) -> None:
        """Remove the directory."""
        directory = self._directory(proxy_id)
        with suppress(FileNotFoundError):
            with open_directory(directory) as descriptor:
                os.fchmod(descriptor, 0o700)  # the cloud cannot remove files from a sealed one
            shutil.rmtree(directory, ignore_errors=True)
            if directory.exists():  # it has directories of the container, which root can remove
                renamed = self._base / f"left-{token_hex(8)}"
                directory.rename(renamed)
                self._log.warn("Cannot remove {path}: remove it as root", path=str(renamed))

    async def list_provisioned(self) -> set[str]:
        """Return nothing: directories do not contain proxy ids, and leftovers do no harm."""
        return set()

    def _check_shared_directory(self) -> None:
        """Raise BadConfiguration unless only this user can change it, and only its group enter."""
        try:
            status = os.stat(self._base, follow_symlinks=False)
        except OSError as error:
            raise BadConfiguration(
                f"cloud.sockets_dir: cannot use {self._base}: {error.strerror}. Create it with: "
                f"install -d -m 0710 {self._base}"
            ) from error
        is_private = stat.S_ISDIR(status.st_mode) and not status.st_mode & _FORBIDDEN_SHARED_MODE
        if not is_private or status.st_uid != os.geteuid():
            raise BadConfiguration(
                f"cloud.sockets_dir: {self._base} must be a directory of the cloud's user, which "
                f"others cannot enter. Run: chown {os.geteuid()} {self._base}; "
                f"chmod 0710 {self._base}"
            )

    def _directory(self, proxy_id: str) -> Path:
        return self._base / sha256(proxy_id.encode()).hexdigest()[:16]

    def _is_sealed(self, directory: int) -> bool:
        """Return whether the directory with this descriptor is sealed.

        The owner only matters if it is the container's user: nobody but the cloud's user and root
        can create a directory here.
        """
        status = os.fstat(directory)
        if status.st_uid == self._container_uid or stat.S_IMODE(status.st_mode) != _SEALED_MODE:
            return False
        if os.listdir(directory) != [_SOCKET_NAME]:
            return False
        socket_status = os.stat(_SOCKET_NAME, dir_fd=directory, follow_symlinks=False)
        is_socket = stat.S_ISSOCK(socket_status.st_mode)
        return is_socket and socket_status.st_uid == self._container_uid


def _directory_error(error: OSError) -> ProxyUnavailable:
    return ProxyUnavailable(f"Cannot create a directory for its socket: {error.strerror}.")
