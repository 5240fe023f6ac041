"""One request that goes out: the `Call` that whoever asks holds of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ctllm.common.buffer_budget import Room
from ctllm.errors import BadGateway, CtllmError
from ctllm.fastpath.direct_write import write_now
from ctllm.http.client.connection import ClientConnection, nobody_waits
from ctllm.http.header_policy import CLOSE_DELIMITED, FRAMING
from ctllm.http.interfaces import ResponseSink
from ctllm.http.message.body import BadFraming, BodyEncoder
from ctllm.http.message.head import RequestHead, ResponseHead, get_header
from ctllm.http.message.response_parser import ResponseParser
from ctllm.http.timeouts import HANDSHAKE_TIMEOUT
from ctllm.reactor.interfaces import Clock, Transport
from ctllm.reactor.timeout import Timeout

#: Most bytes of a request body that are held until it is being answered.
MAX_REPEATABLE = 64 * 1024
#: Seconds that the beginning of a chunk waits for its rest, which is on its way.
HOLD = 0.1


#: Given a connection that has left HTTP, with the head of its 101, and what came after that.
Switched = Callable[[Transport, ResponseHead, bytes], None]


def _connect_error(reason: Failure) -> str:
    """Why there is no connection, in the system's words where it was the system."""
    number = getattr(reason.value, "osError", None)
    return os.strerror(number) if isinstance(number, int) else reason.getErrorMessage()


class Server(Protocol):
    """What an exchange needs to know of the server it goes to."""

    name: str
    host: bytes
    clock: Clock
    unreachable: type[CtllmError]
    room: Room

    def dial(self) -> Deferred[Any]:
        """A connection of one's own."""

    def admit(self, head: ResponseHead) -> ResponseHead:
        """What callers get of an answer's head."""

    def keep(self, connection: ClientConnection) -> None:
        """Take back a connection whose exchange is over."""


class ClientRequest:
    """One exchange with an origin; a `Call`."""

    def __init__(
        self,
        origin: Server,
        head: RequestHead,
        caller: ResponseSink,
        switched: Switched | None = None,
    ) -> None:
        self.caller = caller
        self._switched = switched
        self._origin = origin
        self._head = head
        self._waiting: list[bytes] = []  # request body before there is a connection; see wait_for
        self._ended = False
        self._over = False
        self._paused = False
        self._fresh = False  # made for this exchange: what breaks it is not old age
        self._repeatable: list[bytes] | None = None  # the body so far, on a connection of before
        self._repeatable_size = 0
        self._answer = ResponseParser(head.method, upgrade=switched is not None)
        self._hold = Timeout(origin.clock, self._let_go)
        self._switching = Timeout(origin.clock, self._not_switched)
        self._waits = False  # for the rest of a chunk
        self._body: BodyEncoder | None = None
        self._connecting: Deferred[Any] | None = None
        self._connection: ClientConnection | None = None

    # -- beginning

    def wait_for(self, connecting: Deferred[Any]) -> None:
        """Begin when there is a connection; until then little of the body is asked for."""
        self._connecting = connecting
        self.caller.pause_request_body()
        connecting.addCallbacks(self._connected, self._unreachable)

    def _connected(self, connection: ClientConnection) -> None:
        self._connecting = None
        if self._over:
            connection.abort()
            return
        self._fresh = True
        self.use(connection)
        if not self._over:
            self.caller.resume_request_body()

    def _unreachable(self, reason: Failure) -> None:
        self._connecting = None
        if not self._over:
            self._over = True
            said = _connect_error(reason)
            self.caller.fail(self._origin.unreachable(f"{self._origin.name} is not there: {said}"))

    def use(self, connection: ClientConnection) -> None:
        """Send the head, and what has come of the body."""
        self._connection = connection
        connection.outgoing = self
        connection.on_lost = nobody_waits
        if not self._fresh:
            self._repeatable = []
            for piece in self._waiting:
                self._hold_for_repeating(piece)
        if self._paused:
            connection.transport.pauseProducing()
        try:
            head, self._body = self._request(), BodyEncoder(self._head.headers)
            waiting, self._waiting = self._waiting, []
            body = b"".join(self._body.encode(piece) for piece in waiting)
            end = self._body.encode_end() if self._ended else b""
        except BadFraming as error:
            self._unfit(error)
            return
        write_now(connection.transport, head + body + end)
        if self._switched is not None:
            self._switching.set(HANDSHAKE_TIMEOUT)

    def _request(self) -> bytes:
        """The request's head on the wire; raises BadFraming where it would be two."""
        asked = self._head
        headers = asked.headers
        if get_header(headers, b"host") is None:
            headers = ((b"Host", self._origin.host), *headers)
        lines = [b"%b %b HTTP/1.1\r\n" % (asked.method, asked.target)]
        lines += [b"%b: %b\r\n" % header for header in headers]
        raw = b"".join(lines)
        if raw.count(b"\n") != len(lines) or raw.count(b"\r") != len(lines):
            raise BadFraming("a line break inside a line of the head")
        return raw + b"\r\n"

    # -- Call

    def write(self, piece: bytes) -> None:
        """Send a piece of the request body."""
        if self._over:
            return  # the answer was whole before the request
        if self._body is None:
            self._waiting.append(piece)
            return
        if self._repeatable is not None:
            self._hold_for_repeating(piece)
        self._send(self._body.encode, piece)

    def finish(self) -> None:
        """The request body is whole."""
        self._ended = True
        if self._body is not None:
            self._send(self._body.encode_end)

    def cancel(self, error: CtllmError) -> None:
        """Close the connection, whatever it is doing."""
        self._over = True
        self._switching.cancel()
        self._stop_waiting()
        self._drop_repeatable()
        if self._connecting is not None:
            self._connecting.cancel()
        connection, self._connection = self._connection, None
        if connection is not None and connection.outgoing is self:
            connection.abort()

    def pause_response(self) -> None:
        """Read nothing more."""
        self._paused = True
        self._stop_waiting()  # what the rest of a chunk waits for now is ourselves
        if self._connection is not None:
            self._connection.transport.pauseProducing()

    def resume_response(self) -> None:
        """Read on."""
        self._paused = False
        if self._connection is not None:
            self._connection.transport.resumeProducing()
            if self._answer.body.has_partial_chunk:
                self._wait()

    # -- once more, where a connection that was kept turns out to be closed

    def _hold_for_repeating(self, piece: bytes) -> None:
        assert self._repeatable is not None
        room = self._origin.room
        self._repeatable.append(piece)
        self._repeatable_size += len(piece)
        room.take(len(piece))
        if self._repeatable_size > MAX_REPEATABLE or room.full:
            self._drop_repeatable()

    def _drop_repeatable(self) -> None:
        """The request is not sent once more: it is being answered, or too large, or over."""
        self._origin.room.give(self._repeatable_size)
        self._repeatable, self._repeatable_size = None, 0

    def _repeat(self) -> bool:
        """Send the request on a new connection, if all of it is held and nothing was answered.

        A server may close a connection that it has kept at any moment, and so in the one in which
        it is used again (RFC 9112, section 9.3.1).
        """
        held = self._repeatable
        if held is None or self._answer.has_started or self._over:
            return False
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        self._drop_repeatable()
        self._waiting, self._body = held, None
        self.wait_for(self._origin.dial())
        return True

    def _send(self, framed: Callable[..., bytes], *piece: bytes) -> None:
        connection = self._connection
        if connection is None or self._over:
            return
        try:
            data = framed(*piece)
        except BadFraming as error:
            self._unfit(error)
            return
        if data:
            write_now(connection.transport, data)

    def _unfit(self, error: BadFraming) -> None:
        self._drop_repeatable()
        self.broken(f"the request cannot be sent on: {error}")

    # -- what the connection hears

    def hear(self, data: bytes) -> None:
        """Take a piece of the answer as it came."""
        answer = self._answer
        try:
            if answer.head is None:
                self._drop_repeatable()
                rest = answer.feed_head(data)
                if rest is None or answer.head is None:
                    return
                self._switching.cancel()
                if self._switched is not None and answer.head.status == 101:
                    self._switch(self._switched, answer.head, rest)
                    return
                self.caller.write_head(self._admitted(answer.head))
                data = rest
            piece = b"" if self._over else answer.body.feed(data)
        except BadFraming as error:
            self.broken(str(error))
            return
        if piece:
            if self._waits:
                self._stop_waiting()
            self.caller.write(piece)
        if answer.body.has_partial_chunk and not self._waits:
            self._wait()
        if answer.body.is_complete and not self._over:
            self._finish()

    def _admitted(self, head: ResponseHead) -> ResponseHead:
        found = self._origin.admit(head)
        if not self._answer.is_close_delimited:
            return found
        framing = ((FRAMING, CLOSE_DELIMITED),)
        return ResponseHead(found.status, found.reason, (*found.headers, *framing))

    def _switch(self, switched: Switched, head: ResponseHead, rest: bytes) -> None:
        """The connection speaks another protocol from here on: it is not ours any more."""
        connection, self._connection = self._connection, None
        assert connection is not None
        self._over = True
        connection.outgoing = None
        if self._paused:
            connection.transport.resumeProducing()
        switched(connection.transport, head, rest)

    def _not_switched(self) -> None:
        """A request may take as long as it likes, but to agree on a protocol takes no time."""
        self.broken(
            f"it did not answer for {HANDSHAKE_TIMEOUT:g} seconds whether it takes a connection"
        )

    def _wait(self) -> None:
        """For the rest of a chunk; not for long."""
        if not self._over and not self._paused:
            self._waits = True
            self._hold.set(HOLD)

    def _stop_waiting(self) -> None:
        self._waits = False
        self._hold.cancel()

    def _let_go(self) -> None:
        """The rest does not come: let what there is go on."""
        self._waits = False
        piece = self._answer.body.take_partial_chunk()
        if piece:
            self.caller.write(piece)

    def closed(self) -> None:
        """The server closed in order: that may be how the answer ends."""
        if self._repeat():
            return
        try:
            if self._answer.head is None:
                raise BadFraming("it closed the connection before it answered")
            self._answer.body.feed_eof()
        except BadFraming as error:
            self.broken(str(error))
        else:
            self._finish()

    def _finish(self) -> None:
        connection, self._connection = self._connection, None
        assert connection is not None
        self._over = True
        connection.outgoing = None
        if self._paused:
            connection.transport.resumeProducing()
        if self._answer.is_reusable and self._body is not None and self._body.is_complete:
            self._origin.keep(connection)
        else:  # also after what nobody asked for: it answers nobody
            connection.abort()
        self.caller.finish()

    def broken(self, why: str) -> None:
        """The answer cannot become whole."""
        if self._repeat():
            return
        connection, self._connection = self._connection, None
        self._over = True
        self._switching.cancel()
        if connection is not None:
            connection.abort()
        self._stop_waiting()
        self._let_go()
        # A kept connection may end because the server did: then there is nobody to answer.
        heard = self._fresh or self._answer.has_started
        kind = BadGateway if heard else self._origin.unreachable
        self.caller.fail(kind(f"{self._origin.name} broke off: {why}"))
