"""Twisted's endpoints with type annotations, which `twisted.internet.endpoints` lacks."""

from __future__ import annotations

from typing import cast

from twisted.internet import endpoints

from ctllm.reactor.interfaces import Endpoint, ServerEndpoint


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
