"""One request that goes out: the `Call` that whoever asks holds of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ctllm.common.memory_budget import BufferBudget
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
MAX_RETRY_BUFFER = 64 * 1024
#: Seconds that the beginning of a chunk waits for its rest, which is on its way.
PARTIAL_CHUNK_TIMEOUT = 0.1


#: Given a connection that has left HTTP, with the head of its 101, and what came after that.
UpgradeHandler = Callable[[Transport, ResponseHead, bytes], None]


def _connect_error(reason: Failure) -> str:
    """Why there is no connection, in the system's words where it was the system."""
    number = getattr(reason.value, "osError", None)
    return os.strerror(number) if isinstance(number, int) else reason.getErrorMessage()


class Origin(Protocol):
    """What an exchange needs to know of the server it goes to."""

    name: str
    host: bytes
    clock: Clock
    unreachable_error: type[CtllmError]
    retry_budget: BufferBudget

    def connect(self) -> Deferred[Any]:
        """A connection of one's own."""

    def filter_head(self, head: ResponseHead) -> ResponseHead:
        """What callers get of an answer's head."""

    def release(self, connection: ClientConnection) -> None:
        """Take back a connection whose exchange is over."""


class ClientRequest:
    """One exchange with an origin; a `Call`."""

    def __init__(
        self,
        origin: Origin,
        head: RequestHead,
        sink: ResponseSink,
        on_upgraded: UpgradeHandler | None = None,
    ) -> None:
        self.sink = sink
        self._on_upgraded = on_upgraded
        self._origin = origin
        self._head = head
        self._unsent_body: list[
            bytes
        ] = []  # request body before there is a connection; see wait_for
        self._body_finished = False
        self._done = False
        self._response_paused = False
        self._is_new_connection = False  # made for this exchange: what breaks it is not old age
        self._retry_buffer: list[bytes] | None = None  # the body so far, on a connection of before
        self._retry_buffer_size = 0
        self._response = ResponseParser(head.method, upgrade=on_upgraded is not None)
        self._chunk_timeout = Timeout(origin.clock, self._flush_partial_chunk)
        self._upgrade_timeout = Timeout(origin.clock, self._upgrade_timed_out)
        self._awaits_chunk = False  # for the rest of a chunk
        self._body_writer: BodyEncoder | None = None
        self._connecting: Deferred[Any] | None = None
        self._connection: ClientConnection | None = None

    # -- beginning

    def send_when_connected(self, connecting: Deferred[Any]) -> None:
        """Begin when there is a connection; until then little of the body is asked for."""
        self._connecting = connecting
        self.sink.pause_request_body()
        connecting.addCallbacks(self._connected, self._connect_failed)

    def _connected(self, connection: ClientConnection) -> None:
        self._connecting = None
        if self._done:
            connection.abort()
            return
        self._is_new_connection = True
        self.send_on(connection)
        if not self._done:
            self.sink.resume_request_body()

    def _connect_failed(self, reason: Failure) -> None:
        self._connecting = None
        if not self._done:
            self._done = True
            said = _connect_error(reason)
            self.sink.fail(
                self._origin.unreachable_error(f"{self._origin.name} is not there: {said}")
            )

    def send_on(self, connection: ClientConnection) -> None:
        """Send the head, and what has come of the body."""
        self._connection = connection
        connection.request = self
        connection.on_lost = nobody_waits
        if not self._is_new_connection:
            self._retry_buffer = []
            for piece in self._unsent_body:
                self._buffer_for_retry(piece)
        if self._response_paused:
            connection.transport.pauseProducing()
        try:
            head, self._body_writer = self._encode_head(), BodyEncoder(self._head.headers)
            waiting, self._unsent_body = self._unsent_body, []
            body = b"".join(self._body_writer.encode(piece) for piece in waiting)
            end = self._body_writer.encode_end() if self._body_finished else b""
        except BadFraming as error:
            self._fail_framing(error)
            return
        write_now(connection.transport, head + body + end)
        if self._on_upgraded is not None:
            self._upgrade_timeout.start(HANDSHAKE_TIMEOUT)

    def _encode_head(self) -> bytes:
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

    def write(self, data: bytes) -> None:
        """Send a piece of the request body."""
        if self._done:
            return  # the answer was whole before the request
        if self._body_writer is None:
            self._unsent_body.append(data)
            return
        if self._retry_buffer is not None:
            self._buffer_for_retry(data)
        self._send(self._body_writer.encode, data)

    def finish(self) -> None:
        """The request body is whole."""
        self._body_finished = True
        if self._body_writer is not None:
            self._send(self._body_writer.encode_end)

    def cancel(self, error: CtllmError) -> None:
        """Close the connection, whatever it is doing."""
        self._done = True
        self._upgrade_timeout.cancel()
        self._cancel_chunk_timeout()
        self._drop_retry_buffer()
        if self._connecting is not None:
            self._connecting.cancel()
        connection, self._connection = self._connection, None
        if connection is not None and connection.request is self:
            connection.abort()

    def pause_response(self) -> None:
        """Read nothing more."""
        self._response_paused = True
        self._cancel_chunk_timeout()  # what the rest of a chunk waits for now is ourselves
        if self._connection is not None:
            self._connection.transport.pauseProducing()

    def resume_response(self) -> None:
        """Read on."""
        self._response_paused = False
        if self._connection is not None:
            self._connection.transport.resumeProducing()
            if self._response.body.has_partial_chunk:
                self._start_chunk_timeout()

    # -- once more, where a connection that was kept turns out to be closed

    def _buffer_for_retry(self, data: bytes) -> None:
        assert self._retry_buffer is not None
        room = self._origin.retry_budget
        self._retry_buffer.append(data)
        self._retry_buffer_size += len(data)
        room.reserve(len(data))
        if self._retry_buffer_size > MAX_RETRY_BUFFER or room.is_full:
            self._drop_retry_buffer()

    def _drop_retry_buffer(self) -> None:
        """The request is not sent once more: it is being answered, or too large, or over."""
        self._origin.retry_budget.release(self._retry_buffer_size)
        self._retry_buffer, self._retry_buffer_size = None, 0

    def _retry(self) -> bool:
        """Send the request on a new connection, if all of it is held and nothing was answered.

        A server may close a connection that it has kept at any moment, and so in the one in which
        it is used again (RFC 9112, section 9.3.1).
        """
        held = self._retry_buffer
        if held is None or self._response.has_started or self._done:
            return False
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        self._drop_retry_buffer()
        self._unsent_body, self._body_writer = held, None
        self.send_when_connected(self._origin.connect())
        return True

    def _send(self, framed: Callable[..., bytes], *piece: bytes) -> None:
        connection = self._connection
        if connection is None or self._done:
            return
        try:
            data = framed(*piece)
        except BadFraming as error:
            self._fail_framing(error)
            return
        if data:
            write_now(connection.transport, data)

    def _fail_framing(self, error: BadFraming) -> None:
        self._drop_retry_buffer()
        self.connection_failed(f"the request cannot be sent on: {error}")

    # -- what the connection hears

    def data_received(self, data: bytes) -> None:
        """Take a piece of the answer as it came."""
        answer = self._response
        try:
            if answer.head is None:
                self._drop_retry_buffer()
                rest = answer.feed_head(data)
                if rest is None or answer.head is None:
                    return
                self._upgrade_timeout.cancel()
                if self._on_upgraded is not None and answer.head.status == 101:
                    self._upgrade(self._on_upgraded, answer.head, rest)
                    return
                self.sink.write_head(self._filter_head(answer.head))
                data = rest
            piece = b"" if self._done else answer.body.feed(data)
        except BadFraming as error:
            self.connection_failed(str(error))
            return
        if piece:
            if self._awaits_chunk:
                self._cancel_chunk_timeout()
            self.sink.write(piece)
        if answer.body.has_partial_chunk and not self._awaits_chunk:
            self._start_chunk_timeout()
        if answer.body.is_complete and not self._done:
            self._complete()

    def _filter_head(self, head: ResponseHead) -> ResponseHead:
        found = self._origin.filter_head(head)
        if not self._response.is_close_delimited:
            return found
        framing = ((FRAMING, CLOSE_DELIMITED),)
        return ResponseHead(found.status, found.reason, (*found.headers, *framing))

    def _upgrade(self, switched: UpgradeHandler, head: ResponseHead, rest: bytes) -> None:
        """The connection speaks another protocol from here on: it is not ours any more."""
        connection, self._connection = self._connection, None
        assert connection is not None
        self._done = True
        connection.request = None
        if self._response_paused:
            connection.transport.resumeProducing()
        switched(connection.transport, head, rest)

    def _upgrade_timed_out(self) -> None:
        """A request may take as long as it likes, but to agree on a protocol takes no time."""
        self.connection_failed(
            f"it did not answer for {HANDSHAKE_TIMEOUT:g} seconds whether it takes a connection"
        )

    def _start_chunk_timeout(self) -> None:
        """For the rest of a chunk; not for long."""
        if not self._done and not self._response_paused:
            self._awaits_chunk = True
            self._chunk_timeout.start(PARTIAL_CHUNK_TIMEOUT)

    def _cancel_chunk_timeout(self) -> None:
        self._awaits_chunk = False
        self._chunk_timeout.cancel()

    def _flush_partial_chunk(self) -> None:
        """The rest does not come: let what there is go on."""
        self._awaits_chunk = False
        piece = self._response.body.take_partial_chunk()
        if piece:
            self.sink.write(piece)

    def connection_closed(self) -> None:
        """The server closed in order: that may be how the answer ends."""
        if self._retry():
            return
        try:
            if self._response.head is None:
                raise BadFraming("it closed the connection before it answered")
            self._response.body.feed_eof()
        except BadFraming as error:
            self.connection_failed(str(error))
        else:
            self._complete()

    def _complete(self) -> None:
        connection, self._connection = self._connection, None
        assert connection is not None
        self._done = True
        connection.request = None
        if self._response_paused:
            connection.transport.resumeProducing()
        if (
            self._response.is_reusable
            and self._body_writer is not None
            and self._body_writer.is_complete
        ):
            self._origin.release(connection)
        else:  # also after what nobody asked for: it answers nobody
            connection.abort()
        self.sink.finish()

    def connection_failed(self, why: str) -> None:
        """The answer cannot become whole."""
        if self._retry():
            return
        connection, self._connection = self._connection, None
        self._done = True
        self._upgrade_timeout.cancel()
        if connection is not None:
            connection.abort()
        self._cancel_chunk_timeout()
        self._flush_partial_chunk()
        # A kept connection may end because the server did: then there is nobody to answer.
        heard = self._is_new_connection or self._response.has_started
        kind = BadGateway if heard else self._origin.unreachable_error
        self.sink.fail(kind(f"{self._origin.name} broke off: {why}"))
