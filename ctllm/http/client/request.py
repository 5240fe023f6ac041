"""A request that is sent to an HTTP/1.1 server, and the response to it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ctllm.common.memory_budget import BufferBudget
from ctllm.errors import BadGateway, CtllmError
from ctllm.fastpath.direct_write import write_now
from ctllm.http.client.connection import ClientConnection
from ctllm.http.header_policy import CLOSE_DELIMITED, FRAMING
from ctllm.http.interfaces import ResponseSink, SplicedSink
from ctllm.http.message.body import BadFraming, BodyEncoder
from ctllm.http.message.head import RequestHead, ResponseHead, get_header
from ctllm.http.message.response_parser import ResponseParser
from ctllm.http.timeouts import HANDSHAKE_TIMEOUT
from ctllm.reactor.interfaces import Clock, Transport
from ctllm.reactor.timeout import Timeout

#: The most bytes of a request body that are buffered for a retry.
MAX_RETRY_BUFFER = 64 * 1024
#: Seconds to wait for the rest of a chunk before its beginning is passed on.
PARTIAL_CHUNK_TIMEOUT = 0.1


#: Called with a connection that has left HTTP, the head of the 101 response and the data after it.
UpgradeHandler = Callable[[Transport, ResponseHead, bytes], None]


def _connect_error(reason: Failure) -> str:
    """Return why connecting failed, without a full stop; an error of the system in its words."""
    number = getattr(reason.value, "osError", None)
    text = os.strerror(number) if isinstance(number, int) else reason.getErrorMessage()
    return text.rstrip(".")


class Origin(Protocol):
    """The origin server of a request."""

    name: str
    host: bytes
    clock: Clock
    unreachable_error: type[CtllmError]
    retry_budget: BufferBudget

    def connect(self) -> Deferred[ClientConnection]:
        """Make a new connection."""

    def filter_head(self, head: ResponseHead) -> ResponseHead:
        """Return the head that a sink gets of a response's."""

    def release(self, connection: ClientConnection) -> None:
        """Return a connection after its request."""


class ClientRequest:
    """A `RequestSink` that writes to a connection and passes the response to `sink`.

    Cancelling closes the connection: that is how Ollama learns to stop generating. A request that
    fails on a persistent connection before its response has begun is sent once more, on a new
    connection, if its body is still buffered: a server may close an idle connection at the moment
    when it is used again (RFC 9112, section 9.3.1).
    """

    def __init__(
        self,
        origin: Origin,
        head: RequestHead,
        sink: ResponseSink,
        on_upgraded: UpgradeHandler | None = None,
        spliced_sink: SplicedSink | None = None,
    ) -> None:
        self.sink = sink
        self._spliced_sink = spliced_sink
        self._on_upgraded = on_upgraded
        self._origin = origin
        self._head = head
        self._unsent_body: list[bytes] = []  # until there is a connection
        self._body_finished = False
        self._done = False
        self._response_paused = False
        self._is_new_connection = False
        self._retry_buffer: list[bytes] | None = None  # the body so far; None: no retry
        self._retry_buffer_size = 0
        self._response = ResponseParser(head.method, upgrade=on_upgraded is not None)
        self._chunk_timeout = Timeout(origin.clock, self._flush_partial_chunk)
        self._upgrade_timeout = Timeout(origin.clock, self._upgrade_timed_out)
        self._awaits_chunk = False
        self._body_encoder: BodyEncoder | None = None
        self._connecting: Deferred[ClientConnection] | None = None
        self._connection: ClientConnection | None = None

    # -- connecting

    def send_when_connected(self, connecting: Deferred[ClientConnection]) -> None:
        """Send the request on the connection that `connecting` fires with; pause the body."""
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
            message = f"Cannot connect to {self._origin.name}: {_connect_error(reason)}."
            self.sink.fail(self._origin.unreachable_error(message))

    def send_on(self, connection: ClientConnection) -> None:
        """Send the head, and the body so far, on `connection`."""
        self._connection = connection
        connection.request = self
        if not self._is_new_connection:
            self._retry_buffer = []
            for data in self._unsent_body:
                self._buffer_for_retry(data)
        if self._response_paused:
            connection.transport.pauseProducing()
        self._send(self._encode_beginning)
        if self._on_upgraded is not None and not self._done:
            self._upgrade_timeout.start(HANDSHAKE_TIMEOUT)

    def _encode_beginning(self) -> bytes:
        """Return the head and the body so far."""
        head, self._body_encoder = self._encode_head(), BodyEncoder(self._head.headers)
        unsent, self._unsent_body = self._unsent_body, []
        body = b"".join(self._body_encoder.encode(data) for data in unsent)
        end = self._body_encoder.encode_end() if self._body_finished else b""
        return head + body + end

    def _encode_head(self) -> bytes:
        """Return the head; raises BadFraming if a line break in it would inject another line."""
        headers = self._head.headers
        if get_header(headers, b"host") is None:
            headers = ((b"Host", self._origin.host), *headers)
        lines = [b"%b %b HTTP/1.1\r\n" % (self._head.method, self._head.target)]
        lines += [b"%b: %b\r\n" % header for header in headers]
        raw = b"".join(lines)
        if raw.count(b"\n") != len(lines) or raw.count(b"\r") != len(lines):
            raise BadFraming("a line of the head has a line break in it")
        return raw + b"\r\n"

    # -- RequestSink

    def write(self, data: bytes) -> None:
        """Send data of the request body."""
        if self._done:
            return  # the response was complete before the request
        if self._body_encoder is None:
            self._unsent_body.append(data)
            return
        if self._retry_buffer is not None:
            self._buffer_for_retry(data)
        self._send(self._body_encoder.encode, data)

    def finish(self) -> None:
        """End the request body."""
        self._body_finished = True
        if self._body_encoder is not None:
            self._send(self._body_encoder.encode_end)

    def cancel(self, error: CtllmError) -> None:
        """Close the connection."""
        self._done = True
        self._cancel_timeouts()
        self._drop_retry_buffer()
        if self._connecting is not None:
            self._connecting.cancel()
        connection, self._connection = self._connection, None
        if connection is not None and connection.request is self:
            connection.abort()

    def pause_response(self) -> None:
        """Stop reading from the connection."""
        self._response_paused = True
        self._cancel_chunk_timeout()  # the rest of the chunk is late because nothing is read
        if self._connection is not None:
            self._connection.transport.pauseProducing()

    def resume_response(self) -> None:
        """Read from the connection again."""
        self._response_paused = False
        if self._connection is not None:
            self._connection.transport.resumeProducing()
            if self._response.body.has_partial_chunk:
                self._start_chunk_timeout()

    def _send(self, encode: Callable[..., bytes], *arguments: bytes) -> None:
        connection = self._connection
        if connection is None or self._done:
            return
        try:
            data = encode(*arguments)
        except BadFraming as error:
            self._drop_retry_buffer()
            self.connection_failed(f"the request cannot be sent: {error}")
            return
        if data:
            write_now(connection.transport, data)

    # -- retry

    def _buffer_for_retry(self, data: bytes) -> None:
        assert self._retry_buffer is not None
        budget = self._origin.retry_budget
        self._retry_buffer.append(data)
        self._retry_buffer_size += len(data)
        budget.reserve(len(data))
        if self._retry_buffer_size > MAX_RETRY_BUFFER or budget.is_full:
            self._drop_retry_buffer()

    def _drop_retry_buffer(self) -> None:
        """Rule out a retry."""
        self._origin.retry_budget.release(self._retry_buffer_size)
        self._retry_buffer, self._retry_buffer_size = None, 0

    def _retry(self) -> bool:
        """Send the request again on a new connection; return False if that is ruled out."""
        body = self._retry_buffer
        if body is None or self._response.has_started or self._done:
            return False
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        self._drop_retry_buffer()
        self._unsent_body, self._body_encoder = body, None
        self.send_when_connected(self._origin.connect())
        return True

    # -- PendingRequest: the response

    def data_received(self, data: bytes) -> None:
        """Parse data of the response and pass it on."""
        response = self._response
        try:
            if response.head is None:
                self._drop_retry_buffer()
                rest = response.feed_head(data)
                if rest is None or response.head is None:
                    return
                self._upgrade_timeout.cancel()
                if self._on_upgraded is not None and response.head.status == 101:
                    self._upgrade(self._on_upgraded, response.head, rest)
                    return
                self.sink.write_head(self._filter_head(response.head))
                data = rest
            body = b"" if self._done else response.body.feed(data)
        except BadFraming as error:
            self.connection_failed(str(error))
            return
        if body:
            if self._awaits_chunk:
                self._cancel_chunk_timeout()
            self.sink.write(body)
        if response.body.has_partial_chunk and not self._awaits_chunk:
            self._start_chunk_timeout()
        if response.body.is_complete and not self._done:
            self._complete()
        elif self._spliced_sink is not None and response.body.is_between_chunks:
            self._splice(self._spliced_sink)

    def _splice(self, spliced_sink: SplicedSink) -> None:
        if self._connection is not None and not self._done:
            spliced_sink(self._connection.transport)

    def _filter_head(self, head: ResponseHead) -> ResponseHead:
        filtered = self._origin.filter_head(head)
        if not self._response.is_close_delimited:
            return filtered
        framing = ((FRAMING, CLOSE_DELIMITED),)
        return ResponseHead(filtered.status, filtered.reason, (*filtered.headers, *framing))

    def _detach(self) -> ClientConnection:
        """End this request and return its connection, which is being read."""
        connection, self._connection = self._connection, None
        assert connection is not None
        self._done = True
        connection.request = None
        if self._response_paused:
            connection.transport.resumeProducing()
        return connection

    def _upgrade(self, on_upgraded: UpgradeHandler, head: ResponseHead, rest: bytes) -> None:
        on_upgraded(self._detach().transport, head, rest)

    def _upgrade_timed_out(self) -> None:
        """Fail. A plain response may take any time, but an upgrade needs no computation."""
        self.connection_failed(f"it did not answer the upgrade in {HANDSHAKE_TIMEOUT:g} seconds")

    def _start_chunk_timeout(self) -> None:
        if not self._done and not self._response_paused:
            self._awaits_chunk = True
            self._chunk_timeout.start(PARTIAL_CHUNK_TIMEOUT)

    def _cancel_chunk_timeout(self) -> None:
        self._awaits_chunk = False
        self._chunk_timeout.cancel()

    def _cancel_timeouts(self) -> None:
        self._upgrade_timeout.cancel()
        self._cancel_chunk_timeout()

    def _flush_partial_chunk(self) -> None:
        """Pass on the beginning of a chunk whose rest is late."""
        self._awaits_chunk = False
        data = self._response.body.take_partial_chunk()
        if data:
            self.sink.write(data)

    def connection_closed(self) -> None:
        """Complete a response that the end of the connection delimits; else fail."""
        if self._retry():
            return
        try:
            if self._response.head is None:
                raise BadFraming("it closed the connection before its response")
            self._response.body.feed_eof()
        except BadFraming as error:
            self.connection_failed(str(error))
        else:
            self._complete()

    def _complete(self) -> None:
        connection, encoder = self._detach(), self._body_encoder
        if self._response.is_reusable and encoder is not None and encoder.is_complete:
            self._origin.release(connection)
        else:
            connection.abort()
        self.sink.finish()

    def connection_failed(self, why: str) -> None:
        """Fail the response, after the data that was received; `why` is a clause for messages."""
        if self._retry():
            return
        connection, self._connection = self._connection, None
        self._done = True
        if connection is not None:
            connection.abort()
        self._cancel_timeouts()
        self._flush_partial_chunk()
        # An idle connection may close because its server stopped: then it counts as unreachable.
        was_reachable = self._is_new_connection or self._response.has_started
        kind = BadGateway if was_reachable else self._origin.unreachable_error
        self.sink.fail(kind(f"No complete response from {self._origin.name}: {why}."))
