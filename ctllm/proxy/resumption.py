"""Answers that outlive their client: parked when it leaves, taken up when it comes back.

A client that asked with ``Ctllm-Resume: <seconds>`` and leaves has not cancelled. The desktop keeps
the answer's last bytes; what is remembered here is only which desktop that is.
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

#: How many exchanges are remembered for those who come back.
MAX_RESUMABLE_STREAMS = 10_000

_TARGET = re.compile(rb"/ctllm/exchanges/([0-9a-f]{32})(?:\?from=([0-9]{1,18}))?")


def parse_resume_seconds(head: RequestHead, limit: int) -> int:
    """How long the client may stay away, by its Ctllm-Resume header; raises BadRequest."""
    given = get_header(head.headers, RESUME.lower())
    if given is None:
        return 0
    if not given.isdigit() or len(given) > 9:
        raise BadRequest("Ctllm-Resume must be a whole number of seconds")
    return min(int(given), limit)


def parse_resume_target(target: bytes) -> tuple[bytes, int]:
    """The exchange id and the offset that a target asks for; raises NotFound."""
    found = _TARGET.fullmatch(target)
    if found is None:
        raise NotFound("an answer is taken up at /ctllm/exchanges/<id>?from=<offset>")
    return bytes.fromhex(found[1].decode()), int(found[2] or 0)


class ResumableRequest:
    """A `Call` whose client may leave and come back within its time."""

    def __init__(self, stream: InitiatorStream, clock: Clock) -> None:
        self._stream = stream
        self._clock = clock

    def write(self, data: bytes) -> None:
        """Send a piece of the request body."""
        self._stream.write(data)

    def finish(self) -> None:
        """The request body is whole."""
        self._stream.finish()

    def pause_response(self) -> None:
        """Stop sending the answer."""
        self._stream.pause_response()

    def resume_response(self) -> None:
        """Go on with the answer."""
        self._stream.resume_response()

    def cancel(self, error: CtllmError) -> None:
        """The client left; it may be back. One that left while still asking has cancelled."""
        if self._stream.send_buffer.ended:
            DetachedSink(self._stream, self._clock)
        else:
            self._stream.cancel(error)


class ResumedRequest(ResumableRequest):
    """A `Call` that took an answer up: its own request has no body that would go anywhere."""

    def write(self, data: bytes) -> None:
        """The exchange has had its request."""

    def finish(self) -> None:
        """The exchange has had its request."""


class DetachedSink:
    """A `Caller` in the place of a client that left: lets the answer pass, for its time."""

    def __init__(self, stream: InitiatorStream, clock: Clock) -> None:
        self._stream = stream
        self._timer: Timer = clock.callLater(stream.resume_seconds, self._expire)
        stream.sink = self
        stream.resume_response()  # the desktop keeps what passes here

    def _expire(self) -> None:
        if self._stream.sink is self:
            self._stream.cancel(NotFound("the client did not come back in time"))

    def write_head(self, head: ResponseHead) -> None:
        """It comes again for whoever takes the answer up."""

    def write(self, data: bytes) -> None:
        """It comes again for whoever takes the answer up."""

    def finish(self) -> None:
        """Nothing more to wait for here; the desktop keeps the answer for its time."""
        self._cancel_timer()

    def fail(self, error: CtllmError) -> None:
        """Nobody is there to hear it, or somebody else has taken it up."""
        self._cancel_timer()

    def _cancel_timer(self) -> None:
        if self._timer.active():
            self._timer.cancel()

    def pause_request_body(self) -> None:
        """The request body is whole."""

    def resume_request_body(self) -> None:
        """The request body is whole."""


class ResumableStreams:
    """Which desktop holds which exchange."""

    def __init__(self) -> None:
        self._initiators: OrderedDict[bytes, Initiator] = OrderedDict()

    def add(self, id: bytes, initiator: Initiator) -> None:
        """The desktop behind `opener` holds the exchange `id`."""
        self._initiators[id] = initiator
        self._initiators.move_to_end(id)
        if len(self._initiators) > MAX_RESUMABLE_STREAMS:
            self._initiators.popitem(last=False)

    def find_initiator(self, id: bytes) -> Initiator:
        """The opener of the desktop that holds `id`; raises NotFound."""
        initiator = self._initiators.get(id)
        if initiator is None:
            raise NotFound("no answer of that id is kept, or not for this user")
        return initiator


class ResumedResponseSink:
    """A `Caller` that gives another one an answer from its middle."""

    def __init__(self, sink: ResponseSink, offset: int) -> None:
        self._sink = sink
        self._offset = offset
        self.write = sink.write
        self.finish = sink.finish
        self.fail = sink.fail
        self.pause_request_body = sink.pause_request_body
        self.resume_request_body = sink.resume_request_body

    def write_head(self, head: ResponseHead) -> None:
        """The length of the whole would be wrong for a part."""
        headers = (
            without_headers(head.headers, (b"content-length",)) if self._offset else head.headers
        )
        self._sink.write_head(ResponseHead(head.status, head.reason, headers))
