"""One request that goes out: the `Call` that whoever asks holds of it."""

from __future__ import annotations

from typing import Any, Protocol

import h11
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ctllm.errors import CtllmError, UpstreamFailed
from ctllm.http.connection import Connection, nobody_waits
from ctllm.http.headers import for_client
from ctllm.wire.exchange import Caller
from ctllm.wire.heads import AnswerHead, Headers, RequestHead, first


class Server(Protocol):
    """What an exchange needs to know of the server it goes to."""

    name: str
    host: bytes
    unreachable: type[CtllmError]

    def keep(self, connection: Connection) -> None:
        """Take back a connection whose exchange is over."""


class Outgoing:
    """One exchange with an origin; a `Call`."""

    def __init__(self, origin: Server, head: RequestHead, caller: Caller) -> None:
        self.caller = caller
        self._origin = origin
        self._head = head
        self._waiting: list[bytes] = []  # request body before there is a connection; see wait_for
        self._ended = False
        self._over = False
        self._paused = False
        self._fresh = False  # made for this exchange: what breaks it is not old age
        self._heard = False
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
        self._fresh = True
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
        connection.outgoing = self
        connection.on_lost = nobody_waits
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
        if connection is not None and connection.outgoing is self:
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
        self._heard = self._heard or event is not h11.NEED_DATA
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
        connection.outgoing = None
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
        # A kept connection may end because the server did: then there is nobody to answer.
        kind = UpstreamFailed if self._fresh or self._heard else self._origin.unreachable
        self.caller.fail(kind(f"{self._origin.name} broke off: {why}"))
