"""A service that listens, and that stops the start with a clear sentence when it cannot."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import CannotListenError
from twisted.python.failure import Failure

from ctllm.errors import BadConfiguration
from ctllm.fastpath.accept_limit import limit_accepts
from ctllm.reactor.endpoints import server_from_string
from ctllm.reactor.services import Service

#: Connections that may wait to be accepted, where the endpoint does not say: Twisted's own 50 turn
#: clients away when a few hundred come at once. Systems take as much of it as they allow.
BACKLOG = 4096
#: Connections that are let in during one turn of the reactor. Twisted lets in more and more while
#: there are any, and whoever came first would wait for a word to be read until all are in.
MAX_ACCEPTS_PER_TURN = 16


def _patient(endpoint: str) -> str:
    kinds = ("tcp:", "tcp6:", "unix:", "ssl:")
    if not endpoint.startswith(kinds) or ":backlog=" in endpoint:
        return endpoint
    return f"{endpoint}:backlog={BACKLOG}"


class EndpointService(Service):
    """Listens at `endpoint` (a Twisted endpoint string) from before privileges are dropped.

    `key` names the configuration key, for the message when the place is taken.
    """

    def __init__(self, reactor: Any, endpoint: str, factory: Any, key: str) -> None:
        self._reactor = reactor
        self._endpoint = endpoint
        self._factory = factory
        self._key = key
        self._failed: Failure | None = None
        self.port: Any = None

    def privilegedStartService(self) -> None:
        """Listen; raises BadConfiguration."""
        super().privilegedStartService()
        try:
            listening = server_from_string(self._reactor, _patient(self._endpoint)).listen(
                self._factory
            )
        except (ValueError, TypeError, OSError) as error:
            raise BadConfiguration(self._sentence(error)) from error
        listening.addCallbacks(self._listens, self._fails)
        if self._failed is not None:
            raise BadConfiguration(self._sentence(self._failed.value))

    def pause_accepting(self, paused: bool) -> None:
        """Let nobody in for a while: the system keeps as many waiting as its backlog takes."""
        if self.port is not None:
            (self.port.stopReading if paused else self.port.startReading)()

    @property
    def authority(self) -> str:
        """host:port as a URL has it; nothing for what is no TCP port, or does not listen."""
        here: Any = None if self.port is None else self.port.getHost()
        if not hasattr(here, "host"):
            return ""
        return f"[{here.host}]:{here.port}" if ":" in here.host else f"{here.host}:{here.port}"

    def _listens(self, port: Any) -> None:
        self.port = port
        limit_accepts(port, MAX_ACCEPTS_PER_TURN)

    def _fails(self, reason: Failure) -> None:
        self._failed = reason

    def _sentence(self, error: BaseException | None) -> str:
        cause = error.socketError if isinstance(error, CannotListenError) else error
        return (
            f"--{self._key}: cannot listen at {self._endpoint}: {cause}. "
            "Stop what listens there, or choose another place"
        )

    def startService(self) -> None:
        """Listen, where `privilegedStartService` has not."""
        super().startService()
        if self.port is None:
            self.privilegedStartService()

    def stopService(self) -> Any:
        """Stop listening."""
        super().stopService()
        port, self.port = self.port, None
        return port.stopListening() if port is not None else None
