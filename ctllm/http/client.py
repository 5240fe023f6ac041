"""The asking side of HTTP/1.1: an `Upstream` that is one HTTP server (Ollama, a proxy).

Connections are kept and used again. An exchange is cancelled by closing its connection, which is
how Ollama is told to stop; nothing is waited for longer than the caller wants.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import h11
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from ctllm.errors import CtllmError, UpstreamFailed
from ctllm.http.faces import Clock, Endpoint, Timer
from ctllm.http.headers import for_client
from ctllm.wire.exchange import Call, Caller
from ctllm.wire.heads import AnswerHead, Headers, RequestHead, first

#: Seconds that an unused connection is kept: less than any server keeps it, so that it is we who
#: close, and no request meets a connection that is just being closed.
KEEP = 20.0
#: How many unused connections are kept.
MAX_KEPT = 64
#: The largest head of an answer that is read, in bytes.
MAX_HEAD = 128 * 1024


class Origin:
    """One HTTP server, reached through `endpoint`; `name` is for messages.

    `unreachable` is the error that callers get when no connection can be made.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        clock: Clock,
        name: str,
        unreachable: type[CtllmError],
        host: bytes = b"localhost",
    ) -> None:
        self.name = name
        self.host = host
        self.unreachable = unreachable
        self._endpoint = endpoint
        self._clock = clock
        self._kept: list[tuple[Connection, Timer]] = []

    def open(self, head: RequestHead, caller: Caller) -> Call:
        """Begin an exchange. `head` goes as it is; a Host is added where there is none."""
        asking = Asking(self, head, caller)
        if self._kept:
            connection, timer = self._kept.pop()
            timer.cancel()
            asking.use(connection)
        else:
            asking.wait_for(self.dial(Factory.forProtocol(Connection)))
        return asking

    def dial(self, factory: Factory) -> Deferred[Any]:
        """A connection of one's own, for what is not HTTP; fires with the protocol."""
        factory.noisy = False
        return self._endpoint.connect(factory)

    def keep(self, connection: Connection) -> None:
        """Take back a connection whose exchange is over."""
        if len(self._kept) >= MAX_KEPT:
            connection.abort()
            return
        connection.on_lost = lambda: self._lost(connection)
        self._kept.append((connection, self._clock.callLater(KEEP, connection.abort)))

    def close(self) -> None:
        """Close the connections that nobody uses."""
        for connection, _ in list(self._kept):
            connection.abort()

    def _lost(self, connection: Connection) -> None:
        for entry in list(self._kept):
            if entry[0] is connection:
                self._kept.remove(entry)
                if entry[1].active():
                    entry[1].cancel()


def _nobody_waits() -> None:
    """For connections that are in use: their exchange hears of the end."""


class Connection(Protocol):
    """One connection to an origin, with at most one exchange on it."""

    transport: Any

    def __init__(self) -> None:
        self.h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self.asking: Asking | None = None
        self.on_lost: Callable[[], None] = _nobody_waits

    def connectionMade(self) -> None:
        """Tell the exchange when the request body has room."""
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:
        """A piece of the answer; anything without a question ends the connection."""
        if self.asking is None:
            self.abort()
        else:
            self._receive(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The server closed: that may be how the answer ends, or that it breaks off."""
        self.on_lost()
        if self.asking is None:
            return
        if reason.check(ConnectionDone):
            self._receive(b"")
        else:  # a reset is nobody's way to end an answer
            self.asking.broken(reason.getErrorMessage())

    def _receive(self, data: bytes) -> None:
        asking = self.asking
        try:
            self.h11.receive_data(data)
            while self.asking is asking is not None and asking.hear(self.h11.next_event()):
                pass
        except h11.RemoteProtocolError as error:
            if asking is not None:
                asking.broken(str(error))

    def pauseProducing(self) -> None:
        """The server reads the request body slowly."""
        if self.asking is not None:
            self.asking.caller.pause_body()

    def resumeProducing(self) -> None:
        """The server has room for more of the request body."""
        if self.asking is not None:
            self.asking.caller.resume_body()

    def stopProducing(self) -> None:
        """The transport is closing; `connectionLost` tells the rest."""

    def abort(self) -> None:
        """Close now. Nobody uses it from here on, though the transport tells only later."""
        self.asking = None
        self.on_lost()
        self.transport.abortConnection()


class Asking:
    """One exchange with an origin; a `Call`."""

    def __init__(self, origin: Origin, head: RequestHead, caller: Caller) -> None:
        self.caller = caller
        self._origin = origin
        self._head = head
        self._waiting: list[bytes] = []  # request body before there is a connection; see wait_for
        self._ended = False
        self._over = False
        self._paused = False
        self._connecting: Deferred[Any] | None = None
        self._connection: Connection | None = None

    # -- beginning

    def wait_for(self, connecting: Deferred[Any]) -> None:
        """Begin when there is a connection; until then little of the body is asked for."""
        self._connecting = connecting
        self.caller.pause_body()
        connecting.addCallbacks(self._connected, self._unreachable)

    def _connected(self, connection: Connection) -> None:
        self._connecting = None
        if self._over:
            connection.abort()
            return
        self.use(connection)
        if not self._over:
            self.caller.resume_body()

    def _unreachable(self, reason: Failure) -> None:
        self._connecting = None
        if not self._over:
            self._over = True
            said = reason.getErrorMessage()
            self.caller.fail(self._origin.unreachable(f"{self._origin.name} is not there: {said}"))

    def use(self, connection: Connection) -> None:
        """Send the head, and what has come of the body."""
        self._connection = connection
        connection.asking = self
        connection.on_lost = _nobody_waits
        if self._paused:
            connection.transport.pauseProducing()
        try:
            request = h11.Request(method=self._head.method, target=self._head.target,
                                  headers=list(self._headers()))  # fmt: skip
        except h11.LocalProtocolError as error:
            self._unfit(error)
            return
        self._send(request)
        waiting, self._waiting = self._waiting, []
        for piece in waiting:
            self._send(h11.Data(data=piece))
        if self._ended:
            self._send(h11.EndOfMessage())

    def _headers(self) -> Headers:
        if first(self._head.headers, b"host") is not None:
            return self._head.headers
        return ((b"Host", self._origin.host), *self._head.headers)

    # -- Call

    def write(self, piece: bytes) -> None:
        """Send a piece of the request body."""
        if self._over:
            return  # the answer was whole before the request
        if self._connection is None:
            self._waiting.append(piece)
        else:
            self._send(h11.Data(data=piece))

    def end(self) -> None:
        """The request body is whole."""
        self._ended = True
        if self._connection is not None:
            self._send(h11.EndOfMessage())

    def cancel(self, error: CtllmError) -> None:
        """Close the connection, whatever it is doing."""
        self._over = True
        if self._connecting is not None:
            self._connecting.cancel()
        connection, self._connection = self._connection, None
        if connection is not None and connection.asking is self:
            connection.abort()

    def pause(self) -> None:
        """Read nothing more."""
        self._paused = True
        if self._connection is not None:
            self._connection.transport.pauseProducing()

    def resume(self) -> None:
        """Read on."""
        self._paused = False
        if self._connection is not None:
            self._connection.transport.resumeProducing()

    def _send(self, event: Any) -> None:
        connection = self._connection
        if connection is None or self._over:
            return
        try:
            connection.transport.write(connection.h11.send(event) or b"")
        except h11.LocalProtocolError as error:
            self._unfit(error)

    def _unfit(self, error: h11.LocalProtocolError) -> None:
        self.broken(f"the request cannot be sent on: {error}")

    # -- what the connection hears

    def hear(self, event: Any) -> bool:
        """Take one event; False when there is none to take."""
        if isinstance(event, h11.Data):
            self.caller.data(bytes(event.data))
        elif isinstance(event, h11.Response):
            head = AnswerHead(event.status_code, event.reason, tuple(event.headers.raw_items()))
            self.caller.head(for_client(head))
        elif isinstance(event, h11.EndOfMessage):
            self._finish()
        elif isinstance(event, h11.ConnectionClosed) or event in (h11.NEED_DATA, h11.PAUSED):
            return False
        return True

    def _finish(self) -> None:
        connection, self._connection = self._connection, None
        assert connection is not None
        self._over = True
        connection.asking = None
        if self._paused:
            connection.transport.resumeProducing()
        whole = connection.h11.our_state is h11.DONE and connection.h11.their_state is h11.DONE
        if whole and not connection.h11.trailing_data[0]:  # what nobody asked for answers nobody
            connection.h11.start_next_cycle()
            self._origin.keep(connection)
        else:
            connection.abort()
        self.caller.end()

    def broken(self, why: str) -> None:
        """The answer cannot become whole."""
        connection, self._connection = self._connection, None
        self._over = True
        if connection is not None:
            connection.abort()
        self.caller.fail(UpstreamFailed(f"{self._origin.name} broke off: {why}"))
