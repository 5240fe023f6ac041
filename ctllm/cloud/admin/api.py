"""What whoever runs a cloud may ask of it: by a UNIX socket that nobody else can reach.

GET     /proxies          all of them, as `Row`s
DELETE  /proxies/<id>     end one; 204, also if there is none
PUT     /draining         begin nothing new any more; 204
DELETE  /draining         again; 204
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from twisted.logger import Logger

from ctllm.cloud.proxies.manager import ProxyManager
from ctllm.cloud.spawners.listen_addresses import MAX_SOCKET_PATH_BYTES, state_dir_in_use
from ctllm.errors import NotFound
from ctllm.http.server.connection import HttpServerFactory
from ctllm.http.server.endpoint_service import EndpointService
from ctllm.http.server.request import ServerRequest
from ctllm.reactor.endpoints import quote_argument
from ctllm.system.unix_sockets import NotASocket, pinned_path

_PROXIES = "/proxies/"
_log = Logger()


def admin_socket_path(state: Path) -> Path:
    """Where it is, in the folder of the cloud's secrets."""
    return state / "cloud" / "operator.sock"


def is_listening(path: Path) -> bool:
    """Whether a cloud listens there; PermissionError where we may not know."""
    if not hasattr(socket, "AF_UNIX") or len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        return False
    try:
        with pinned_path(str(path)) as there, socket.socket(socket.AF_UNIX) as trial:
            trial.connect(there)
    except (FileNotFoundError, ConnectionRefusedError, NotASocket):
        return False
    return True


def admin_service(reactor: Any, state: Path, proxies: ProxyManager) -> EndpointService | None:
    """The service that answers there; None where the system has no such sockets or paths so long.

    Raises BadConfiguration where another cloud does.
    """
    path = admin_socket_path(state)
    if not hasattr(socket, "AF_UNIX"):
        return None
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        _log.warn("{path} is too long for a socket: `ctllm proxies` cannot ask", path=path)
        return None
    if is_listening(path):
        raise state_dir_in_use(state)
    path.unlink(missing_ok=True)  # of one that was killed
    # No lock by process id: after a restart of the machine that may be anybody's.
    endpoint = f"unix:{quote_argument(str(path))}:mode=600:lockfile=0"
    factory = HttpServerFactory(AdminApi(proxies), reactor)
    return EndpointService(reactor, endpoint, factory, "state")


class AdminApi:
    """Answers the requests."""

    def __init__(self, proxies: ProxyManager) -> None:
        self._proxies = proxies

    async def __call__(self, incoming: ServerRequest) -> None:
        """Answer one; raises NotFound."""
        path = incoming.head.path.decode("latin-1")
        match incoming.head.method, path:
            case b"GET", "/proxies":
                incoming.respond(200, await self._proxies.list_proxies())
            case b"DELETE", _ if path.startswith(_PROXIES):
                reason = "was ended by whoever runs the cloud"
                await self._proxies.remove(path.removeprefix(_PROXIES), reason)
                incoming.respond(204)
            case (b"PUT" | b"DELETE") as method, "/draining":
                self._proxies.draining = method == b"PUT"
                incoming.respond(204)
            case _:
                raise NotFound(f"there is nothing at {path}")
