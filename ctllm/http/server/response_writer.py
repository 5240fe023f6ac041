"""Writes one response of a server: its framing, its errors, and how it ends when it breaks off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ctllm.errors import CtllmError, MethodNotAllowed, Unauthorized
from ctllm.fastpath.chunk_splice import ChunkSplice
from ctllm.http.header_policy import FRAMING
from ctllm.http.message.head import (
    Headers,
    RequestHead,
    ResponseHead,
    encode_field_value,
    get_header,
    reason_phrase,
    without_headers,
)
from ctllm.http.server.codec import MalformedResponse
from ctllm.http.server.date import date_header
from ctllm.ollama.dialects import Dialect, dialect_of, error_body, error_in_stream, is_line_stream
from ctllm.reactor.interfaces import Transport

JSON = b"application/json"
#: The longest line that is completed where the response breaks off, in bytes.
MAX_LINE = 256 * 1024

_FRAMING = FRAMING.lower()

ResponseHeaders = Callable[[RequestHead], Headers]
"""Returns the headers that any response to a request has, besides its own."""


def no_headers(head: RequestHead) -> Headers:
    """Return no headers."""
    return ()


class ResponseTransport(Protocol):
    """What a `ResponseWriter` writes to: the connection. `transport` is that beneath it."""

    transport: Transport

    def write_head(self, head: ResponseHead) -> None:
        """Send the head of the response; raises MalformedResponse."""

    def write_data(self, data: bytes) -> None:
        """Send a part of a body that is not chunked; raises MalformedResponse."""

    def write_chunk(self, data: bytes) -> None:
        """Send a chunk of a chunked body."""

    def write_end(self) -> None:
        """Send the end of the response; raises MalformedResponse if the body is too short."""

    @property
    def has_chunked_responses(self) -> bool:
        """Whether a response without a length is sent in chunks."""

    def delimit_by_close(self) -> None:
        """Have the response end with the connection, as in HTTP/1.0."""

    def response_malformed(self, error: MalformedResponse) -> None:
        """Fail the request: data of its response does not fit the response's head."""

    def has_unread_body(self) -> bool:
        """Whether the client still sends the request's body, so that the connection will close."""


class ResponseWriter:
    """Writes the response to a request with `method` to `transport`."""

    __slots__ = ("_content_type", "_is_chunked", "_is_in_lines", "_is_internal",
                 "_is_line_open", "_line", "_line_size", "_method", "_splice", "_transport",
                 "is_started", "status")  # fmt: skip

    def __init__(self, transport: ResponseTransport, method: bytes, is_internal: bool) -> None:
        self._transport = transport
        self._method = method
        self._is_internal = is_internal
        self.is_started = False
        self.status = 0  # none yet
        self._is_chunked = False
        self._is_in_lines = False
        self._content_type = b""
        self._is_line_open = False  # whether the last data ended within a line
        self._line: list[bytes] = []  # what was sent since a line began
        self._line_size = 0
        self._splice: ChunkSplice | None = None

    # -- a streamed response

    def write_head(self, head: ResponseHead, added: Headers = ()) -> None:
        """Send a head with the `added` headers; raises MalformedResponse.

        Without a Content-Length the body is sent in chunks.
        """
        headers = head.headers
        if head.status == 204:  # RFC 9110, section 8.6
            headers = without_headers(headers, (b"content-length",))
        if not self._is_internal and get_header(headers, _FRAMING) is not None:
            headers = without_headers(headers, (_FRAMING,))
            self._transport.delimit_by_close()
        reason = head.reason or reason_phrase(head.status)
        sent = (*headers, *((name, encode_field_value(value)) for name, value in added))
        self._transport.write_head(ResponseHead(head.status, reason, sent))
        self.is_started = True
        self.status = head.status
        has_body = self._method != b"HEAD" and head.status not in (204, 304)
        is_unsized = has_body and get_header(headers, b"content-length") is None
        self._is_chunked = is_unsized and self._transport.has_chunked_responses
        self._content_type = get_header(headers, b"content-type") or b""
        self._is_in_lines = is_unsized and is_line_stream(self._content_type)

    def write(self, data: bytes) -> None:
        """Send data of the body."""
        if self._is_in_lines:
            # Keep what may have to be completed: the line that this continues, or the last one.
            if self._is_line_open and self._line_size <= MAX_LINE:
                self._line.append(data)
                self._line_size += len(data)
            else:
                self._line = [data]
                self._line_size = len(data)
            self._is_line_open = not data.endswith(b"\n")
        if self._is_chunked:
            self._transport.write_chunk(data)
            return
        try:
            self._transport.write_data(data)
        except MalformedResponse as error:
            self._transport.response_malformed(error)

    def splice(self, source: Transport) -> None:
        """Send the next chunks of `source` as they are, where each is a line or more of the body.

        A line that is incomplete is completed by `write`, because it has to be known.
        """
        if not self._is_chunked or self._is_line_open:
            return
        if self._splice is None:
            end = b"\n" if self._is_in_lines else b""
            self._splice = ChunkSplice(source, self._transport.transport, end, self._spliced)
        self._splice.start()

    def _spliced(self, last: bytes) -> None:
        """Keep the last line that was sent past this writer."""
        if self._is_in_lines:
            self._line = [last]
            self._line_size = len(last)

    def finish(self) -> None:
        """Send the end of the body; raises MalformedResponse if it is too short."""
        self._transport.write_end()

    def last_data(self, path: bytes, error: CtllmError) -> bytes:
        """Return `error` as the last data of a response that breaks off.

        It is empty where the client would take it for content.
        """
        if self._splice is not None:
            self._splice.stop()
        if not self._is_in_lines:
            return b""
        return error_in_stream(dialect_of(path), self._content_type, error, b"".join(self._line))

    # -- a complete response

    def write_response(
        self, status: int, headers: Headers, body: bytes, added: Headers = ()
    ) -> None:
        """Send a complete response, with its Date; raises MalformedResponse."""
        headers = (*headers, date_header())
        if status != 204:
            headers = (*headers, (b"Content-Length", b"%d" % len(body)))
        if self._transport.has_unread_body():
            headers = (*headers, (b"Connection", b"close"))
        safe = tuple((name, encode_field_value(value)) for name, value in headers)
        self.write_head(ResponseHead(status, b"", safe), added)
        if body and self._method != b"HEAD":
            self._transport.write_data(body)
        self._transport.write_end()

    def write_error(
        self, path: bytes, error: CtllmError, headers: Headers, added: Headers = ()
    ) -> None:
        """Send `error` as a complete response, in the dialect of `path`."""
        body = error_body(dialect_of(path), error)
        self.write_response(error.status, (*_error_headers(error), *headers), body, added)


def _error_headers(error: CtllmError) -> Headers:
    headers: Headers = ((b"Content-Type", JSON), (b"Cache-Control", b"no-store"))
    if error.retry_after is not None:
        headers += ((b"Retry-After", b"%d" % error.retry_after),)
    if error.is_permanent:
        headers += ((b"X-Should-Retry", b"false"),)  # official clients repeat some of these
    if isinstance(error, Unauthorized):
        headers += ((b"WWW-Authenticate", _challenge(error)),)
    if error.status == 426:  # RFC 9110, section 15.5.22: the protocol that is spoken here
        headers += ((b"Upgrade", b"HTTP/1.1"), (b"Connection", b"Upgrade"))
    if isinstance(error, MethodNotAllowed):
        headers += ((b"Allow", error.allow.encode()),)
    return headers


def _challenge(error: Unauthorized) -> bytes:
    """Return the challenge of RFC 6750, section 3."""
    challenge = b'Bearer realm="ctllm"'
    if not error.challenge_error:
        return challenge
    return b'%b, error="%b"' % (challenge, error.challenge_error.encode())


def error_message(error: CtllmError) -> bytes:
    """Return a complete response message for `error`, which ends its connection."""
    status = b"%d %b" % (error.status, reason_phrase(error.status))
    body = error_body(Dialect.OLLAMA, error)
    retry = b"" if error.retry_after is None else b"Retry-After: %d\r\n" % error.retry_after
    return (
        b"HTTP/1.1 %b\r\nContent-Type: application/json\r\n%bConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (status, retry, len(body), body)
    )
