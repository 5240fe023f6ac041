"""An `Upstream` that is one HTTP/1.1 server (Ollama, a proxy), with persistent connections."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast
from weakref import WeakSet

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.protocol import Factory

from ctllm.common.memory_budget import BufferBudget
from ctllm.errors import CtllmError
from ctllm.http.client.connection import ClientConnection
from ctllm.http.client.request import ClientRequest, UpgradeHandler
from ctllm.http.header_policy import response_from_ollama
from ctllm.http.interfaces import RequestSink, ResponseSink, SplicedSink
from ctllm.http.message.head import RequestHead, ResponseHead
from ctllm.reactor.interfaces import Clock, Endpoint, Timer

#: Seconds that an idle connection stays open. Shorter than the timeout of any server, so that no
#: request is sent on a connection that the server is just closing.
IDLE_TIMEOUT = 20.0
#: Connections that are being made at once. More would wait in the server's backlog or be refused.
MAX_CONCURRENT_CONNECTS = 16
#: Bytes of all request bodies that are buffered for a retry.
MAX_TOTAL_RETRY_BUFFER = 8 * 1024 * 1024
#: Idle connections that stay open.
MAX_IDLE_CONNECTIONS = 64


class ConnectionPool:
    """One HTTP server, reached through `endpoint`.

    `name` is used in error messages; `unreachable_error` is raised when no connection can be made.
    `filter_head` returns the head that a sink gets of a response's. A request without a Host
    header gets `host`.
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
        self.clock = clock
        self._endpoint = endpoint
        self._factory = Factory.forProtocol(
            cast(type[ClientConnection], partial(ClientConnection, self._remove_idle))
        )
        self._factory.noisy = False
        self._idle: dict[ClientConnection, Timer] = {}
        self._transports: WeakSet[Any] = WeakSet()
        self._connect_limit = DeferredSemaphore(MAX_CONCURRENT_CONNECTS)

    def start_request(
        self, head: RequestHead, sink: ResponseSink, spliced_sink: SplicedSink | None = None
    ) -> RequestSink:
        """Send a request, on an idle connection if there is one.

        `spliced_sink` gets the connection where whole chunks of the response may bypass `sink`.
        """
        request = ClientRequest(self, head, sink, spliced_sink=spliced_sink)
        if self._idle:
            connection, timer = self._idle.popitem()
            timer.cancel()
            request.send_on(connection)
        else:
            request.send_when_connected(self.connect())
        return request

    def upgrade(
        self, head: RequestHead, sink: ResponseSink, on_upgraded: UpgradeHandler
    ) -> RequestSink:
        """Send a request with an Upgrade header, on a new connection (RFC 9110, section 7.8).

        After a 101 response `on_upgraded` gets the connection, and `sink` nothing. Any other
        response goes to `sink`.
        """
        request = ClientRequest(self, head, sink, on_upgraded)
        request.send_when_connected(self.connect())
        return request

    def connect(self) -> Deferred[ClientConnection]:
        """Make a new connection, once fewer than MAX_CONCURRENT_CONNECTS are being made."""
        connecting: Deferred[ClientConnection] = self._connect_limit.run(self._connect_now)
        return connecting

    def _connect_now(self) -> Deferred[ClientConnection]:
        return self._endpoint.connect(self._factory).addCallback(self._connected)

    def _connected(
        self, connection: ClientConnection
    ) -> ClientConnection | Deferred[ClientConnection]:
        self._transports.add(connection.transport)
        return connection.when_ready(self.clock)

    def release(self, connection: ClientConnection) -> None:
        """Return a connection to the pool after its request."""
        if len(self._idle) >= MAX_IDLE_CONNECTIONS:
            connection.abort()
            return
        self._idle[connection] = self.clock.callLater(IDLE_TIMEOUT, connection.close)

    def close(self) -> None:
        """Close the idle connections."""
        for connection in list(self._idle):
            connection.abort()

    def abort(self) -> None:
        """Abort all connections, with their requests, and those that were upgraded.

        For a server that is gone. Where its machine is gone, too, nothing else ends them soon.
        """
        for transport in list(self._transports):
            transport.abortConnection()

    def _remove_idle(self, connection: ClientConnection) -> None:
        timer = self._idle.pop(connection, None)
        if timer is not None and timer.active():
            timer.cancel()
