"""The server's side of HTTP/1.1 on one connection, sans I/O: h11, and the buffer in front of it.

h11 has the rules of the protocol. Heads are read from a buffer of our own, so that what h11 would
read leniently is refused, and so that a pipelined request waits where it is counted.
"""

from __future__ import annotations

from enum import Enum

import h11

from ctllm.errors import BadRequest
from ctllm.http.message.head import Headers, RequestHead
from ctllm.http.message.request_parser import (
    RequestBuffer,
    check_request_head,
    discard_body,
    split_target,
)

#: Raised by `parse_head` and `next_body_event` where the client breaks the protocol.
MalformedRequest = h11.RemoteProtocolError
#: Raised by the methods that encode a response where it breaks the protocol.
MalformedResponse = h11.LocalProtocolError


class BodyEvent(Enum):
    """What a request body has in place of data."""

    NEED_DATA = "need_data"
    END = "end"


class ServerCodec:
    """Decodes the requests of a connection, and encodes their responses."""

    __slots__ = ("_buffer", "_bytes_in_h11", "_h11", "_max_head_bytes", "method")

    def __init__(self, max_head_bytes: int) -> None:
        self._max_head_bytes = max_head_bytes
        self._buffer = RequestBuffer(max_head_bytes)
        self._h11 = self._new_h11()
        self._bytes_in_h11 = 0  # of a request body
        #: The method of the request, or GET where no head was decoded.
        self.method = b"GET"

    def _new_h11(self) -> h11.Connection:
        return h11.Connection(h11.SERVER, max_incomplete_event_size=self._max_head_bytes)

    # -- requests

    def receive_data(self, data: bytes) -> None:
        """Append `data` to the buffer."""
        self._buffer.append(data)

    @property
    def buffered_bytes(self) -> int:
        """How many bytes are in the buffer, which counts towards what is read ahead."""
        return len(self._buffer)

    @property
    def unread_bytes(self) -> int:
        """How many bytes were received and not returned."""
        return len(self._buffer) + self._bytes_in_h11

    def take_buffer(self) -> bytes:
        """Return everything in the buffer, and empty it."""
        return self._buffer.take_all()

    def take_head(self) -> bytes | None:
        """Return the next request's head, undecoded, or None if it is incomplete.

        Raises RequestHeaderFieldsTooLarge or BadRequest.
        """
        return self._buffer.take_head()

    def parse_head(self, raw_head: bytes) -> RequestHead:
        """Decode a head; raises BadRequest or MalformedRequest."""
        target, ascii_head = split_target(raw_head)
        self._h11.receive_data(ascii_head)
        event = self._h11.next_event()
        if not isinstance(event, h11.Request):
            raise BadRequest("This is not an HTTP request.")
        self.method = bytes(event.method)
        return check_request_head(event, target, raw_head)

    @property
    def is_body_pending(self) -> bool:
        """Whether the request has a body that is not read to its end."""
        return self._h11.their_state is h11.SEND_BODY

    @property
    def is_continue_expected(self) -> bool:
        """Whether the client waits for 100 Continue (RFC 9110, section 10.1.1)."""
        return self._h11.they_are_waiting_for_100_continue

    def next_body_event(self) -> bytes | BodyEvent:
        """Return the next data of the request body, or what is there instead.

        After NEED_DATA, `feed_body` has to be called. Raises MalformedRequest.
        """
        event = self._h11.next_event()
        if isinstance(event, h11.Data):
            data = bytes(event.data)
            self._bytes_in_h11 = max(0, self._bytes_in_h11 - len(data))
            return data
        if isinstance(event, h11.EndOfMessage):
            self._bytes_in_h11 = 0
            return BodyEvent.END
        return BodyEvent.NEED_DATA

    def feed_body(self) -> bool:
        """Decode what is in the buffer as part of the body; return False if it is empty."""
        data = self._buffer.take_all()
        self._bytes_in_h11 = len(data)
        if data:
            self._h11.receive_data(data)
        return bool(data)

    def discard_body(self) -> None:
        """Drop what has come of a body that nothing reads."""
        discard_body(self._h11, self._buffer)

    @property
    def can_start_next_request(self) -> bool:
        """Whether request and response are complete, and the connection persists."""
        return self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE

    def start_next_request(self) -> None:
        """Be ready for the next request."""
        self.method = b"GET"
        leftover, _ = self._h11.trailing_data
        self._h11.start_next_cycle()
        if leftover:  # h11 would read the next head from it
            self._h11 = self._new_h11()
            self._buffer.prepend(leftover)

    # -- responses

    @property
    def can_start_response(self) -> bool:
        """Whether no response to the request has begun."""
        return self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE)

    @property
    def is_sending_body(self) -> bool:
        """Whether a response body may be continued."""
        return self._h11.our_state is h11.SEND_BODY

    @property
    def is_http_1_0(self) -> bool:
        """Whether a response without a length ends with the connection, as in HTTP/1.0."""
        return self._h11.their_http_version == b"1.0"

    @property
    def has_chunked_responses(self) -> bool:
        """Whether a response without a length is sent in chunks."""
        return self._h11.their_http_version == b"1.1"

    def delimit_by_close(self) -> None:
        """Have the response end with the connection, as in HTTP/1.0."""
        self._h11.their_http_version = b"1.0"

    def encode_continue(self) -> bytes:
        """Encode 100 Continue."""
        event = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
        return self._h11.send(event) or b""

    def encode_head(self, status: int, reason: bytes, headers: Headers) -> bytes:
        """Encode the head of a response; raises MalformedResponse."""
        event = h11.Response(status_code=status, headers=list(headers), reason=reason)
        return self._h11.send(event) or b""

    def encode_data(self, data: bytes) -> bytes:
        """Encode a part of a response body; raises MalformedResponse."""
        return self._h11.send(h11.Data(data=data)) or b""

    def encode_end(self) -> bytes:
        """Encode the end of a response; raises MalformedResponse where the body is too short."""
        return self._h11.send(h11.EndOfMessage()) or b""
