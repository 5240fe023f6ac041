"""Twisted's endpoints with type annotations, which `twisted.internet.endpoints` lacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from twisted.internet import endpoints
from twisted.internet.defer import Deferred, execute

from ctllm.reactor.interfaces import Endpoint, ServerEndpoint

#: How many connections may wait to be accepted, unless an endpoint says. With Twisted's 50,
#: clients are refused when a few hundred connect at once. The system may have a lower limit.
BACKLOG = 4096


def client_from_string(reactor: object, description: str) -> Endpoint:
    """Return the client endpoint that `description` names, such as ``tcp:localhost:11434``."""
    endpoint = endpoints.clientFromString(reactor, description)  # type: ignore[no-untyped-call]
    return cast(Endpoint, endpoint)


def server_from_string(reactor: object, description: str) -> ServerEndpoint:
    """Return the server endpoint that `description` names, such as ``tcp:8080``.

    Raises ValueError (and, for some descriptions, TypeError or KeyError) if there is none.
    """
    endpoint = endpoints.serverFromString(reactor, description)  # type: ignore[no-untyped-call]
    return cast(ServerEndpoint, endpoint)


def unix_client_endpoint(reactor: object, path: str, timeout: float = 30) -> Endpoint:
    """Return an endpoint for the UNIX socket at `path`; connecting fails after `timeout` s."""
    endpoint = endpoints.UNIXClientEndpoint(  # type: ignore[no-untyped-call]
        reactor, path, timeout=timeout
    )
    return cast(Endpoint, endpoint)


def quote_argument(argument: str) -> str:
    """Escape `argument` for use in an endpoint's description."""
    return cast(str, endpoints.quoteStringArgument(argument))  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class UnixServerEndpoint:
    """Listens at the UNIX socket `path`, without a lock file; its permissions are `mode`.

    Unlike a description, it does without `twisted.internet.endpoints` (0.3 MB in each proxy).
    """

    reactor: Any
    path: str
    mode: int

    def __str__(self) -> str:
        return f"unix:{self.path}"

    def listen(self, factory: object) -> Deferred[Any]:
        """Listen; the Deferred has fired, maybe with CannotListenError."""
        return execute(
            self.reactor.listenUNIX, self.path, factory, BACKLOG, self.mode, wantPID=False
        )


@dataclass(frozen=True)
class TcpServerEndpoint:
    """Listens at the TCP `port` of the address `interface`, like `UnixServerEndpoint`."""

    reactor: Any
    port: int
    interface: str

    def __str__(self) -> str:
        return f"tcp:{self.port}:interface={self.interface}"

    def listen(self, factory: object) -> Deferred[Any]:
        """Listen; the Deferred has fired, maybe with CannotListenError."""
        return execute(self.reactor.listenTCP, self.port, factory, BACKLOG, self.interface)
