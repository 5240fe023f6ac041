"""Resumption: a client may disconnect during a response and request the rest of it later.

A client opts in with ``Ctllm-Resume: <seconds>``; then its disconnection does not cancel the
request. The desktop stores the last bytes of the response. The proxy only stores which desktop has
which stream.
"""

from __future__ import annotations

import re
from collections import OrderedDict

from ctllm.errors import BadRequest, CtllmError, NotFound
from ctllm.http.header_policy import RESUME
from ctllm.http.interfaces import ResponseSink
from ctllm.http.message.head import RequestHead, ResponseHead, get_header, without_headers
from ctllm.reactor.interfaces import Clock, Timer
from ctllm.tunnel.initiator import Initiator, InitiatorStream

#: Maximum number of streams whose desktop is stored.
MAX_RESUMABLE_STREAMS = 10_000

_TARGET = re.compile(rb"/ctllm/exchanges/([0-9a-f]{32})(?:\?from=([0-9]{1,18}))?")


def parse_resume_seconds(head: RequestHead, limit: int) -> int:
    """Return the seconds in Ctllm-Resume, at most `limit`; raises BadRequest."""
    given = get_header(head.headers, RESUME.lower())
    if given is None:
        return 0
    if not given.isdigit() or len(given) > 9:
        raise BadRequest("Ctllm-Resume must be a whole number of seconds.")
    return min(int(given), limit)


def parse_resume_target(target: bytes) -> tuple[bytes, int]:
    """Return the stream id and the offset in the target of a request; raises NotFound."""
    found = _TARGET.fullmatch(target)
    if found is None:
        raise NotFound("A response is resumed at /ctllm/exchanges/<id>?from=<offset>.")
    return bytes.fromhex(found[1].decode()), int(found[2] or 0)


class ResumableRequest:
    """A RequestSink whose client may disconnect and resume within its time."""

    def __init__(self, stream: InitiatorStream, clock: Clock) -> None:
        self._stream = stream
        self._clock = clock

    def write(self, data: bytes) -> None:
        """Send data of the request body."""
        self._stream.write(data)

    def finish(self) -> None:
        """End the request body."""
        self._stream.finish()

    def pause_response(self) -> None:
        """Pause the response."""
        self._stream.pause_response()

    def resume_response(self) -> None:
        """Resume the response after a pause."""
        self._stream.resume_response()

    def cancel(self, error: CtllmError) -> None:
        """Detach the response, because the client may return; cancel an incomplete request."""
        if self._stream.send_buffer.ended:
            DetachedSink(self._stream, self._clock)
        else:
            self._stream.cancel(error)


class ResumedRequest(ResumableRequest):
    """The RequestSink of a client that resumes a response; its request has no body to relay."""

    def write(self, data: bytes) -> None:
        """Do nothing: the stream already has its request."""

    def finish(self) -> None:
        """Do nothing: the stream already has its request."""


class DetachedSink:
    """A ResponseSink that replaces a disconnected client: it discards the response.

    The desktop stores the response. The stream is cancelled if no client resumes it in time.
    """

    def __init__(self, stream: InitiatorStream, clock: Clock) -> None:
        self._stream = stream
        self._timer: Timer = clock.callLater(stream.resume_seconds, self._expire)
        stream.sink = self
        stream.resume_response()  # the desktop stores what is discarded here

    def _expire(self) -> None:
        if self._stream.sink is self:
            self._stream.cancel(NotFound("The client did not resume the response in time."))

    def write_head(self, head: ResponseHead) -> None:
        """Discard it: the desktop sends it again when the response is resumed."""

    def write(self, data: bytes) -> None:
        """Discard it: the desktop sends it again when the response is resumed."""

    def finish(self) -> None:
        """Cancel the timer; the desktop stores the response for its own time."""
        self._cancel_timer()

    def fail(self, error: CtllmError) -> None:
        """Cancel the timer: the stream failed, or another connection has resumed it."""
        self._cancel_timer()

    def _cancel_timer(self) -> None:
        if self._timer.active():
            self._timer.cancel()

    def pause_request_body(self) -> None:
        """Do nothing: the request body is complete."""

    def resume_request_body(self) -> None:
        """Do nothing: the request body is complete."""


class ResumableStreams:
    """A bounded table of resumable streams and the desktops that have them."""

    def __init__(self) -> None:
        self._initiators: OrderedDict[bytes, Initiator] = OrderedDict()

    def add(self, id: bytes, initiator: Initiator) -> None:
        """Store that the desktop of `initiator` has the stream `id`."""
        self._initiators[id] = initiator
        self._initiators.move_to_end(id)
        if len(self._initiators) > MAX_RESUMABLE_STREAMS:
            self._initiators.popitem(last=False)

    def has(self, id: bytes) -> bool:
        """Return whether there is a resumable stream with this id."""
        return id in self._initiators

    def find_initiator(self, id: bytes) -> Initiator:
        """Return the initiator of the desktop with the stream `id`; raises NotFound."""
        initiator = self._initiators.get(id)
        if initiator is None:
            raise NotFound("No response with this id is stored for this user.")
        return initiator


class ResumedResponseSink:
    """A ResponseSink that passes a response from `offset` to another sink."""

    def __init__(self, sink: ResponseSink, offset: int) -> None:
        self._sink = sink
        self._offset = offset
        self.write = sink.write
        self.finish = sink.finish
        self.fail = sink.fail
        self.pause_request_body = sink.pause_request_body
        self.resume_request_body = sink.resume_request_body

    def write_head(self, head: ResponseHead) -> None:
        """Pass on the head, without the Content-Length if only a part follows."""
        headers = (
            without_headers(head.headers, (b"content-length",)) if self._offset else head.headers
        )
        self._sink.write_head(ResponseHead(head.status, head.reason, headers))
