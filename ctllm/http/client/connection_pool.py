"""The asking side of HTTP/1.1: an `Upstream` that is one HTTP server (Ollama, a proxy).

Connections are kept and used again. An exchange is cancelled by closing its connection, which is
how Ollama is told to stop; nothing is waited for longer than the caller wants.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.protocol import Factory

from ctllm.common.memory_budget import BufferBudget
from ctllm.errors import CtllmError
from ctllm.http.client.connection import ClientConnection
from ctllm.http.client.request import ClientRequest, UpgradeHandler
from ctllm.http.header_policy import response_from_ollama
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.http.message.head import RequestHead, ResponseHead
from ctllm.reactor.interfaces import Clock, Endpoint, Timer

#: Seconds that an unused connection is kept: less than any server keeps it, so that it is we who
#: close, and no request meets a connection that is just being closed.
IDLE_TIMEOUT = 20.0
#: How many connections are being made at once: more would only wait elsewhere, or be refused, and
#: each costs the turn of the reactor that finishes it.
MAX_CONCURRENT_CONNECTS = 16
#: Most bytes of all requests together that are held to be sent once more.
MAX_TOTAL_RETRY_BUFFER = 8 * 1024 * 1024
#: How many unused connections are kept.
MAX_IDLE_CONNECTIONS = 64


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
        unreachable_error: type[CtllmError],
        host: bytes = b"localhost",
        filter_head: Callable[[ResponseHead], ResponseHead] = response_from_ollama,
    ) -> None:
        self.name = name
        self.host = host
        self.unreachable_error = unreachable_error
        self.filter_head = filter_head
        self.retry_budget = BufferBudget(MAX_TOTAL_RETRY_BUFFER)
        self._endpoint = endpoint
        self.clock = clock
        self._idle: list[tuple[ClientConnection, Timer]] = []
        self._connect_limit = DeferredSemaphore(MAX_CONCURRENT_CONNECTS)

    def start_request(self, head: RequestHead, sink: ResponseSink) -> RequestSink:
        """Begin an exchange. `head` goes as it is; a Host is added where there is none."""
        request = ClientRequest(self, head, sink)
        if self._idle:
            connection, timer = self._idle.pop()
            timer.cancel()
            request.send_on(connection)
        else:
            request.send_when_connected(self.connect())
        return request

    def upgrade(
        self, head: RequestHead, sink: ResponseSink, on_upgraded: UpgradeHandler
    ) -> RequestSink:
        """Begin an exchange that asks for another protocol, on a connection of its own.

        Only after 101 the connection is handed to `switched`, and `caller` hears nothing. Any
        other answer is an answer like any other.
        """
        request = ClientRequest(self, head, sink, on_upgraded)
        request.send_when_connected(self.connect())
        return request

    def connect(self) -> Deferred[Any]:
        """A connection of one's own."""
        factory = Factory.forProtocol(ClientConnection)
        factory.noisy = False
        connecting: Deferred[Any] = self._connect_limit.run(self._connect_now, factory)
        return connecting

    def _connect_now(self, factory: Any) -> Deferred[Any]:
        connecting: Deferred[Any] = self._endpoint.connect(factory)
        connecting.addCallback(lambda connection: connection.when_ready(self.clock))
        return connecting

    def release(self, connection: ClientConnection) -> None:
        """Take back a connection whose exchange is over."""
        if len(self._idle) >= MAX_IDLE_CONNECTIONS:
            connection.abort()
            return
        connection.on_lost = lambda: self._remove_idle(connection)
        self._idle.append((connection, self.clock.callLater(IDLE_TIMEOUT, connection.close)))

    def close(self) -> None:
        """Close the connections that nobody uses."""
        for connection, _ in list(self._idle):
            connection.abort()

    def _remove_idle(self, connection: ClientConnection) -> None:
        for entry in list(self._idle):
            if entry[0] is connection:
                self._idle.remove(entry)
                if entry[1].active():
                    entry[1].cancel()
