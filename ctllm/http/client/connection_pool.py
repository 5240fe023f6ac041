"""The asking side of HTTP/1.1: an `Upstream` that is one HTTP server (Ollama, a proxy).

Connections are kept and used again. An exchange is cancelled by closing its connection, which is
how Ollama is told to stop; nothing is waited for longer than the caller wants.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.protocol import Factory

from ctllm.common.buffer_budget import Room
from ctllm.errors import CtllmError
from ctllm.http.client.connection import ClientConnection
from ctllm.http.client.request import ClientRequest, Switched
from ctllm.http.header_policy import response_from_ollama
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.http.message.head import RequestHead, ResponseHead
from ctllm.reactor.interfaces import Clock, Endpoint, Timer

#: Seconds that an unused connection is kept: less than any server keeps it, so that it is we who
#: close, and no request meets a connection that is just being closed.
KEEP = 20.0
#: How many connections are being made at once: more would only wait elsewhere, or be refused, and
#: each costs the turn of the reactor that finishes it.
MAX_DIALLING = 16
#: Most bytes of all requests together that are held to be sent once more.
MAX_REPEATABLE_IN_ALL = 8 * 1024 * 1024
#: How many unused connections are kept.
MAX_KEPT = 64


class ConnectionPool:
    """One HTTP server, reached through `endpoint`; `name` is for messages.

    `unreachable` is the error that callers get when no connection can be made. `admit` makes of an
    answer's head what callers get of it.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        clock: Clock,
        name: str,
        unreachable: type[CtllmError],
        host: bytes = b"localhost",
        admit: Callable[[ResponseHead], ResponseHead] = response_from_ollama,
    ) -> None:
        self.name = name
        self.host = host
        self.unreachable = unreachable
        self.admit = admit
        self.room = Room(MAX_REPEATABLE_IN_ALL)
        self._endpoint = endpoint
        self.clock = clock
        self._kept: list[tuple[ClientConnection, Timer]] = []
        self._dialling = DeferredSemaphore(MAX_DIALLING)

    def start_request(self, head: RequestHead, caller: ResponseSink) -> RequestSink:
        """Begin an exchange. `head` goes as it is; a Host is added where there is none."""
        outgoing = ClientRequest(self, head, caller)
        if self._kept:
            connection, timer = self._kept.pop()
            timer.cancel()
            outgoing.use(connection)
        else:
            outgoing.wait_for(self.dial())
        return outgoing

    def upgrade(self, head: RequestHead, caller: ResponseSink, switched: Switched) -> RequestSink:
        """Begin an exchange that asks for another protocol, on a connection of its own.

        Only after 101 the connection is handed to `switched`, and `caller` hears nothing. Any
        other answer is an answer like any other.
        """
        outgoing = ClientRequest(self, head, caller, switched)
        outgoing.wait_for(self.dial())
        return outgoing

    def dial(self) -> Deferred[Any]:
        """A connection of one's own."""
        factory = Factory.forProtocol(ClientConnection)
        factory.noisy = False
        dialled: Deferred[Any] = self._dialling.run(self._connect, factory)
        return dialled

    def _connect(self, factory: Any) -> Deferred[Any]:
        made: Deferred[Any] = self._endpoint.connect(factory)
        made.addCallback(lambda connection: connection.secured(self.clock))
        return made

    def keep(self, connection: ClientConnection) -> None:
        """Take back a connection whose exchange is over."""
        if len(self._kept) >= MAX_KEPT:
            connection.abort()
            return
        connection.on_lost = lambda: self._lost(connection)
        self._kept.append((connection, self.clock.callLater(KEEP, connection.retire)))

    def close(self) -> None:
        """Close the connections that nobody uses."""
        for connection, _ in list(self._kept):
            connection.abort()

    def _lost(self, connection: ClientConnection) -> None:
        for entry in list(self._kept):
            if entry[0] is connection:
                self._kept.remove(entry)
                if entry[1].active():
                    entry[1].cancel()
