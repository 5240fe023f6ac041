"""One request that came in: the `Caller` that the relay answers to."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, Protocol

import h11
import msgspec
from twisted.internet.defer import Deferred

from ctllm.errors import BadGateway, ContentTooLarge, CtllmError, MethodNotAllowed
from ctllm.http.header_policy import FRAMING
from ctllm.http.interfaces import RequestSink
from ctllm.http.message.head import (
    Headers,
    RequestHead,
    ResponseHead,
    encode_field_value,
    get_header,
    reason_phrase,
    without_headers,
)
from ctllm.http.message.request_parser import describe_error
from ctllm.ollama.dialects import dialect_of, error_body, error_in_stream, is_in_lines
from ctllm.reactor.interfaces import Transport

JSON = b"application/json"
ResponseHeaders = Callable[[RequestHead], Headers]
"""Returns the headers that any response to a request has, besides its own."""


def no_headers(head: RequestHead) -> Headers:
    """Return no headers."""
    return ()


class Outcome(StrEnum):
    """How a request ended."""

    COMPLETED = "completed"
    REFUSED = "refused"  # the response is an error
    FAILED = "failed"  # the response broke off
    CLIENT_DISCONNECTED = "client_disconnected"
    UPGRADED = "upgraded"  # the connection speaks another protocol from here on


Observer = Callable[[Outcome], None]

_FRAMING = FRAMING.lower()
#: The longest line that is completed where it is cut off.
MAX_LINE = 256 * 1024


class ResponseTransport(Protocol):
    """What a request needs of the connection that it came on."""

    def resume_reading(self) -> None:
        """Hand on what was read of the request body."""

    def send(self, event: Any) -> None:
        """Write one of h11's events."""

    def send_chunk(self, piece: bytes) -> None:
        """Write a piece of a chunked body."""

    @property
    def speaks_chunks(self) -> bool:
        """Whether the client is of a version that has them."""

    def end_by_closing(self) -> None:
        """The answer to come has no end but that of the connection."""

    def body_is_unread(self) -> bool:
        """Whether the client is still sending, so that this connection cannot go on."""

    def give_up(self) -> None:
        """No answer can be written: say so in words that cannot fail, and close."""

    def mark_authenticated(self) -> None:
        """It is known who asks; raises Overloaded."""

    def reserve_memory(self) -> None:
        """Reserve the memory of an exchange; raises TooManyRequests."""

    def answered(self) -> None:
        """The answer is whole."""

    def break_off(self, last_words: bytes) -> None:
        """The answer ends, and nobody may take it for whole."""

    def hijack(self) -> tuple[Transport, bytes]:
        """Leave the connection to another protocol."""

    def release(self) -> None:
        """The connection that was hijacked is closed, or counted elsewhere."""


class ServerRequest:
    """A request being answered: by a `Call` that it is given to, or by `reply`."""

    def __init__(
        self,
        server: ResponseTransport,
        head: RequestHead,
        raw_head: bytes,
        response_headers: ResponseHeaders = no_headers,
    ) -> None:
        self.head = head
        self.raw_head = raw_head
        self.is_internal = False  # whether it is another part of ctllm that asks
        self.is_disconnected = False
        self._observers: list[Observer] = []
        self._outcome: Outcome | None = None
        self._response_headers = response_headers
        self._server = server
        self._call: RequestSink | None = None
        self._answer: ResponseHead | None = None
        self._tail: list[bytes] = []  # what was sent since a line began, of an answer in lines
        self._tail_size = 0
        self._in_lines = False
        self._chunked = False
        self._answer_stalled = False
        self._body_stalled = False

    def add_observer(self, observer: Observer) -> None:
        """Call `observer` once, when the request ends; at once if it has ended."""
        if self._outcome is None:
            self._observers.append(observer)
        else:
            observer(self._outcome)

    def mark_authenticated(self) -> None:
        """It is known who asks: this is not pushed out. Raises Overloaded where none fits in."""
        self._server.mark_authenticated()

    def reserve_memory(self) -> None:
        """Reserve the memory that an exchange takes at least; raises TooManyRequests."""
        self._server.reserve_memory()

    # -- being answered by a Call

    def relay_to(self, request_sink: RequestSink) -> None:
        """From now on `call` gets this request's body, pauses and end. Raises nothing."""
        if self.is_disconnected or self._outcome is not None:
            return
        self._call = request_sink
        if self._answer_stalled:
            request_sink.pause_response()
        self._server.resume_reading()

    @property
    def wants_body(self) -> bool:
        """Whether the next piece of the request body has somewhere to go."""
        return self._call is not None and not self._body_stalled

    def body_data_received(self, piece: bytes) -> None:
        """A piece of the request body arrived."""
        assert self._call is not None
        self._call.write(piece)

    def body_finished(self) -> None:
        """The request body is whole."""
        assert self._call is not None
        self._call.finish()

    def client_disconnected(self, error: CtllmError) -> None:
        """The client is gone."""
        self.is_disconnected = True
        call, self._call = self._call, None
        if self._outcome is not None:
            return
        self._over(Outcome.CLIENT_DISCONNECTED)
        if call is not None:
            call.cancel(error)

    def pause_response(self) -> None:
        """The client's socket is full."""
        if not self._answer_stalled:
            self._answer_stalled = True
            if self._call is not None:
                self._call.pause_response()

    def resume_response(self) -> None:
        """The client's socket has room."""
        if self._answer_stalled:
            self._answer_stalled = False
            if self._call is not None:
                self._call.resume_response()

    # -- Caller

    def write_head(self, head: ResponseHead) -> None:
        """Send status and headers. Without a Content-Length the body goes chunked."""
        try:
            self._send_head(head)
        except h11.LocalProtocolError as error:
            self._nonsense(error)

    def _send_head(self, head: ResponseHead) -> None:
        """Send them; raises h11.LocalProtocolError where `head` is none."""
        if head.status == 204:
            head = ResponseHead(
                204, head.reason, without_headers(head.headers, (b"content-length",))
            )
        if not self.is_internal and get_header(head.headers, _FRAMING) is not None:
            head = ResponseHead(
                head.status, head.reason, without_headers(head.headers, (_FRAMING,))
            )
            self._server.end_by_closing()
        own = (
            (name, encode_field_value(value)) for name, value in self._response_headers(self.head)
        )
        reason = head.reason or reason_phrase(head.status)
        headers = [*head.headers, *own]
        self._server.send(h11.Response(status_code=head.status, headers=headers, reason=reason))
        self._answer = head
        unsized = self._is_unsized(head)
        self._chunked = self._server.speaks_chunks and unsized
        self._in_lines = unsized and is_in_lines(get_header(head.headers, b"content-type") or b"")

    def _is_unsized(self, head: ResponseHead) -> bool:
        """Whether the answer has a body whose length its head does not say."""
        bodiless = self.head.method == b"HEAD" or head.status in (204, 304)
        return not bodiless and get_header(head.headers, b"content-length") is None

    def write(self, data: bytes) -> None:
        """Send a piece of the body."""
        if self._in_lines:
            self._remember(data)
        if self._chunked:
            self._server.send_chunk(data)
            return
        try:
            self._server.send(h11.Data(data=data))
        except h11.LocalProtocolError as error:
            self._nonsense(error)

    def _remember(self, piece: bytes) -> None:
        """Keep what may have to be completed: the line that `piece` goes on, or the last one."""
        tail = self._tail
        if tail and (tail[-1].endswith(b"\n") or self._tail_size > MAX_LINE):
            tail.clear()
            self._tail_size = 0
        tail.append(piece)
        self._tail_size += len(piece)

    def _nonsense(self, error: h11.LocalProtocolError) -> None:
        """The answer is not one of HTTP's: whoever gives it (a desktop may be anything) stops."""
        failure = BadGateway(f"the answer makes no sense: {describe_error(error)}")
        call, self._call = self._call, None
        if call is not None:
            call.cancel(failure)
        self.fail(failure)

    def finish(self) -> None:
        """The answer is whole; one that is shorter than it said breaks off instead."""
        self._over(Outcome.COMPLETED)
        try:
            self._server.send(h11.EndOfMessage())
        except h11.LocalProtocolError:
            self._server.break_off(b"")
        else:
            self._server.answered()

    def fail(self, error: CtllmError, headers: Headers = ()) -> None:
        """Say what went wrong in the dialect of the path, and never end as if all were well."""
        if self.is_disconnected or self._outcome is not None:
            return
        if self._answer is None:
            if self.write_error(error, headers):
                self._server.answered()
            return
        self._over(Outcome.FAILED)
        words = b""
        if self._in_lines:
            kind = get_header(self._answer.headers, b"content-type") or b""
            words = error_in_stream(dialect_of(self.head.path), kind, error, b"".join(self._tail))
        self._server.break_off(words)

    def abort(self, error: CtllmError) -> None:
        """End this from outside: whoever answers it stops, and the client hears `error`."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel(error)
        self.fail(error)

    def pause_request_body(self) -> None:
        """Whoever takes the request body is busy."""
        self._body_stalled = True

    def resume_request_body(self) -> None:
        """Whoever takes the request body has room."""
        if self._body_stalled:
            self._body_stalled = False
            if not self.is_disconnected:
                self._server.resume_reading()

    def _over(self, outcome: Outcome) -> None:
        self._call = None
        if self._outcome is not None:
            return
        self._outcome = outcome
        observers, self._observers = self._observers, []
        for observer in observers:
            observer(outcome)

    # -- answering by ourselves

    def write_error(self, error: CtllmError, headers: Headers = ()) -> bool:
        """Send `error` as a whole answer; the caller then ends the exchange.

        False where that failed: then the connection ends, whatever the failure was.
        """
        try:
            body = error_body(dialect_of(self.head.path), error)
            self._whole(error.status, (*_error_headers(error), *headers), body)
        except Exception:  # what failed may be in what is written here, too
            self._server.give_up()
            return False
        finally:
            self._over(Outcome.REFUSED)
        return True

    def respond(self, status: int, value: Any = None, headers: Headers = ()) -> None:
        """Answer with `value` as JSON (bytes go as they are), or with nothing for None."""
        if self.is_disconnected or self._outcome is not None:
            return
        body = value if isinstance(value, bytes) else msgspec.json.encode(value)
        if value is None:
            body = b""
        elif not isinstance(value, bytes):
            headers = ((b"Content-Type", JSON), (b"Cache-Control", b"no-store"), *headers)
        self._whole(status, headers, body)
        self._over(Outcome.COMPLETED)
        self._server.answered()

    def _whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Send an answer of our own; raises where it cannot be written."""
        if status != 204:
            headers = (*headers, (b"Content-Length", b"%d" % len(body)))
        if self._server.body_is_unread():
            headers = (*headers, (b"Connection", b"close"))
        safe = tuple((name, encode_field_value(value)) for name, value in headers)
        self._send_head(ResponseHead(status, b"", safe))
        if body and self.head.method != b"HEAD":
            self._server.send(h11.Data(data=body))
        self._server.send(h11.EndOfMessage())

    async def read_body(self, limit: int) -> bytes:
        """The whole request body; raises TooLarge beyond `limit` bytes."""
        reading = _Reading(limit)
        self.relay_to(reading)
        try:
            return await reading.whole
        finally:
            self._call = None

    def hijack(self) -> tuple[Transport, bytes]:
        """Take the connection out of HTTP: its transport, and what was read after the head.

        Only for a request that is granted another protocol: whatever was a request on this
        connection is none from here on.
        """
        self._over(Outcome.UPGRADED)
        return self._server.hijack()

    def release_connection(self) -> None:
        """Count the hijacked connection no more: it is closed, or counted elsewhere."""
        self._server.release()


def _error_headers(error: CtllmError) -> Headers:
    headers: Headers = ((b"Content-Type", JSON), (b"Cache-Control", b"no-store"))
    if error.retry_after is not None:
        headers += ((b"Retry-After", b"%d" % error.retry_after),)
    if error.is_permanent:
        headers += ((b"X-Should-Retry", b"false"),)  # official clients repeat some of these
    if error.status == 401:
        headers += ((b"WWW-Authenticate", b'Bearer realm="ctllm"'),)
    if error.status == 426:  # RFC 9110, section 15.5.22: what is spoken here instead
        headers += ((b"Upgrade", b"HTTP/1.1"), (b"Connection", b"Upgrade"))
    if isinstance(error, MethodNotAllowed):
        headers += ((b"Allow", error.allow.encode()),)
    return headers


class _Reading:
    """A `Call` that only collects the request body."""

    def __init__(self, limit: int) -> None:
        self.whole: Deferred[bytes] = Deferred()
        self._limit = limit
        self._got = bytearray()

    def write(self, data: bytes) -> None:
        self._got += data
        if len(self._got) > self._limit and not self.whole.called:
            self.whole.errback(ContentTooLarge(f"the body exceeds {self._limit} bytes"))

    def finish(self) -> None:
        if not self.whole.called:
            self.whole.callback(bytes(self._got))

    def cancel(self, error: CtllmError) -> None:
        if not self.whole.called:
            self.whole.errback(error)

    def pause_response(self) -> None:
        pass

    def resume_response(self) -> None:
        pass


class HeaderAddingSink:
    """A `ResponseSink` that adds headers to the response of `request`, also where it is an error."""

    def __init__(self, request: ServerRequest) -> None:
        self._request = request
        self._headers: Headers = ()
        self.write = request.write
        self.finish = request.finish
        self.pause_request_body = request.pause_request_body
        self.resume_request_body = request.resume_request_body

    def add_headers(self, headers: Headers) -> None:
        """Add `headers` to a response that has not begun."""
        self._headers += headers

    def write_head(self, head: ResponseHead) -> None:
        """Send status and headers, with those that were added."""
        added = ((name, encode_field_value(value)) for name, value in self._headers)
        headers = (*head.headers, *added)
        self._request.write_head(ResponseHead(head.status, head.reason, headers))

    def fail(self, error: CtllmError) -> None:
        """End the response with `error`."""
        self._request.fail(error, self._headers)
