"""A service that listens at an endpoint, and stops the start of the process when it cannot."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.python.failure import Failure

from ctllm.errors import BadConfiguration
from ctllm.fastpath.accept_limit import limit_accepts
from ctllm.reactor.endpoints import BACKLOG, server_from_string
from ctllm.reactor.interfaces import ServerEndpoint
from ctllm.reactor.services import Service

#: How many connections are accepted in one turn of the reactor. Twisted accepts more and more while
#: there are any, and those that were accepted first would wait until all are.
MAX_ACCEPTS_PER_TURN = 16

_BACKLOG_TYPES = ("tcp:", "tcp6:", "unix:", "ssl:")


class EndpointService(Service):
    """Listens at `endpoint`, or what this string describes, before privileges are dropped.

    `option` names the option that sets the endpoint, for error messages. `port` is an
    IListeningPort, or None while the service does not listen.
    """

    def __init__(
        self, reactor: object, endpoint: str | ServerEndpoint, factory: object, option: str
    ) -> None:
        self._reactor = reactor
        self._endpoint = endpoint
        self._factory = factory
        self._option = option
        self._failure: Failure | None = None
        self.port: Any = None

    def privilegedStartService(self) -> None:
        """Listen; raises BadConfiguration."""
        super().privilegedStartService()
        try:
            endpoint = self._endpoint
            if isinstance(endpoint, str):
                endpoint = server_from_string(self._reactor, _with_backlog(endpoint))
            listening = endpoint.listen(self._factory)
        except (ValueError, TypeError, OSError) as error:
            raise BadConfiguration(self._describe(error)) from error
        listening.addCallbacks(self._listening, self._listening_failed)
        if self._failure is not None:
            raise BadConfiguration(self._describe(self._failure.value))

    def startService(self) -> None:
        """Listen, unless `privilegedStartService` did."""
        super().startService()
        if self.port is None:
            self.privilegedStartService()

    def stopService(self) -> Deferred[None] | None:
        """Stop listening."""
        super().stopService()
        port, self.port = self.port, None
        return port.stopListening() if port is not None else None

    def pause_accepting(self, paused: bool) -> None:
        """Stop accepting connections, which then wait in the backlog, or accept them again."""
        if self.port is not None:
            (self.port.stopReading if paused else self.port.startReading)()

    @property
    def authority(self) -> str:
        """Host and port as in a URL; empty if this is no TCP port, or does not listen."""
        address = None if self.port is None else self.port.getHost()
        host = getattr(address, "host", None)
        if address is None or host is None:
            return ""
        return f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"

    def _listening(self, port: Any) -> None:
        self.port = port
        limit_accepts(port, MAX_ACCEPTS_PER_TURN)

    def _listening_failed(self, reason: Failure) -> None:
        self._failure = reason

    def _describe(self, error: BaseException | None) -> str:
        cause = error.socketError if isinstance(error, CannotListenError) else error
        return (
            f"--{self._option}: Cannot listen at {self._endpoint}: {cause}. "
            "Stop the program that listens there, or choose another endpoint."
        )


def _with_backlog(endpoint: str) -> str:
    if not endpoint.startswith(_BACKLOG_TYPES) or ":backlog=" in endpoint:
        return endpoint
    return f"{endpoint}:backlog={BACKLOG}"
