"""The admin API of a running cloud, on a UNIX socket that only its user and root can reach.

GET     /status           the cloud and its proxies, as `CloudStatus`
GET     /proxies          list the proxies, as `ProxyInfo`
DELETE  /proxies/<id>     stop a proxy; 204, even if there is none
PUT     /draining         refuse new requests; 204
DELETE  /draining         accept new requests again; 204
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from twisted.logger import Logger

from ctllm import __version__
from ctllm.cloud.admin.status import CloudStatus
from ctllm.cloud.metrics import Metrics
from ctllm.cloud.proxies.manager import ProxyManager
from ctllm.cloud.spawners.listen_addresses import MAX_SOCKET_PATH_BYTES, state_dir_in_use
from ctllm.errors import NotFound
from ctllm.http.server.connection import HttpServerFactory
from ctllm.http.server.endpoint_service import EndpointService
from ctllm.http.server.request import ServerRequest
from ctllm.reactor.endpoints import quote_argument
from ctllm.reactor.interfaces import Clock
from ctllm.system.unix_sockets import NotASocket, pinned_path

_PROXIES = "/proxies/"
#: Seconds. A proxy that does not respond within them is reported as such: `ctllm top` waits for it.
_HEALTH_TIMEOUT = 2.0
_STOPPED = "was stopped by an administrator"
_log = Logger()


def admin_socket_path(state_dir: Path) -> Path:
    """Return the path of the admin socket of the cloud with this state directory."""
    return state_dir / "cloud" / "operator.sock"


def is_listening(path: Path) -> bool:
    """Return whether a cloud listens on the admin socket.

    Raises PermissionError where this user may not connect to it.
    """
    if not hasattr(socket, "AF_UNIX") or len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        return False
    try:
        with pinned_path(str(path)) as pinned, socket.socket(socket.AF_UNIX) as connection:
            connection.connect(pinned)
    except (FileNotFoundError, ConnectionRefusedError, NotASocket):
        return False
    return True


def admin_service(
    reactor: Any, state_dir: Path, proxies: ProxyManager, metrics: Metrics
) -> EndpointService | None:
    """Return the service that listens on the admin socket.

    Returns None where the system has no UNIX sockets or the path is too long for one. Raises
    BadConfiguration where another cloud listens.
    """
    path = admin_socket_path(state_dir)
    if not hasattr(socket, "AF_UNIX"):
        return None
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        _log.warn(
            "The path {path} is too long for a socket. `ctllm proxies` and `ctllm top` cannot "
            "reach this cloud. Choose a shorter state directory.",
            path=path,
        )
        return None
    if is_listening(path):
        raise state_dir_in_use(state_dir)
    path.unlink(missing_ok=True)  # left by a cloud that was killed
    # A lock file has a process id, which belongs to another process after a reboot.
    endpoint = f"unix:{quote_argument(str(path))}:mode=600:lockfile=0"
    factory = HttpServerFactory(AdminApi(proxies, metrics, reactor), reactor)
    return EndpointService(reactor, endpoint, factory, "state-dir")


class AdminApi:
    """The handler of requests on the admin socket."""

    def __init__(self, proxies: ProxyManager, metrics: Metrics, clock: Clock) -> None:
        self._proxies = proxies
        self._metrics = metrics
        self._clock = clock
        self._started_at = clock.seconds()

    async def __call__(self, request: ServerRequest) -> None:
        """Respond to `request`; raises NotFound."""
        path = request.head.path.decode("latin-1")
        match request.head.method, path:
            case b"GET", "/status":
                request.respond(200, await self._status())
            case b"GET", "/proxies":
                request.respond(200, await self._proxies.list_proxies())
            case b"DELETE", _ if path.startswith(_PROXIES):
                await self._proxies.remove(path.removeprefix(_PROXIES), _STOPPED)
                request.respond(204)
            case (b"PUT" | b"DELETE") as method, "/draining":
                self._proxies.draining = method == b"PUT"
                request.respond(204)
            case _:
                raise NotFound(f"The admin API has nothing at {path}.")

    async def _status(self) -> CloudStatus:
        proxies = await self._proxies.list_proxies(_HEALTH_TIMEOUT)
        starts, failed_starts = self._metrics.start_counts()
        now = self._clock.seconds()
        return CloudStatus(
            version=__version__,
            time=now,
            uptime=now - self._started_at,
            is_draining=self._proxies.draining,
            problem=self._proxies.problem,
            max_proxies=self._proxies.max_proxies,
            starts=starts,
            failed_starts=failed_starts,
            proxies=tuple(proxies),
        )
