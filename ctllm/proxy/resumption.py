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
REMEMBERED = 10_000

_TARGET = re.compile(rb"/ctllm/exchanges/([0-9a-f]{32})(?:\?from=([0-9]{1,18}))?")


def wanted_seconds(head: RequestHead, limit: int) -> int:
    """How long the client may stay away, by its Ctllm-Resume header; raises BadRequest."""
    given = get_header(head.headers, RESUME.lower())
    if given is None:
        return 0
    if not given.isdigit() or len(given) > 9:
        raise BadRequest("Ctllm-Resume must be a whole number of seconds")
    return min(int(given), limit)


def wanted_exchange(target: bytes) -> tuple[bytes, int]:
    """The exchange id and the offset that a target asks for; raises NotFound."""
    found = _TARGET.fullmatch(target)
    if found is None:
        raise NotFound("an answer is taken up at /ctllm/exchanges/<id>?from=<offset>")
    return bytes.fromhex(found[1].decode()), int(found[2] or 0)


class Resumable:
    """A `Call` whose client may leave and come back within its time."""

    def __init__(self, asking: InitiatorStream, clock: Clock) -> None:
        self._asking = asking
        self._clock = clock

    def write(self, piece: bytes) -> None:
        """Send a piece of the request body."""
        self._asking.write(piece)

    def finish(self) -> None:
        """The request body is whole."""
        self._asking.finish()

    def pause_response(self) -> None:
        """Stop sending the answer."""
        self._asking.pause_response()

    def resume_response(self) -> None:
        """Go on with the answer."""
        self._asking.resume_response()

    def cancel(self, error: CtllmError) -> None:
        """The client left; it may be back. One that left while still asking has cancelled."""
        if self._asking.out.ended:
            Parked(self._asking, self._clock)
        else:
            self._asking.cancel(error)


class Again(Resumable):
    """A `Call` that took an answer up: its own request has no body that would go anywhere."""

    def write(self, piece: bytes) -> None:
        """The exchange has had its request."""

    def end(self) -> None:
        """The exchange has had its request."""


class Parked:
    """A `Caller` in the place of a client that left: lets the answer pass, for its time."""

    def __init__(self, asking: InitiatorStream, clock: Clock) -> None:
        self._asking = asking
        self._timer: Timer = clock.callLater(asking.resume_seconds, self._give_up)
        asking.caller = self
        asking.resume_response()  # the desktop keeps what passes here

    def _give_up(self) -> None:
        if self._asking.caller is self:
            self._asking.cancel(NotFound("the client did not come back in time"))

    def write_head(self, head: ResponseHead) -> None:
        """It comes again for whoever takes the answer up."""

    def write(self, piece: bytes) -> None:
        """It comes again for whoever takes the answer up."""

    def finish(self) -> None:
        """Nothing more to wait for here; the desktop keeps the answer for its time."""
        self._over()

    def fail(self, error: CtllmError) -> None:
        """Nobody is there to hear it, or somebody else has taken it up."""
        self._over()

    def _over(self) -> None:
        if self._timer.active():
            self._timer.cancel()

    def pause_request_body(self) -> None:
        """The request body is whole."""

    def resume_request_body(self) -> None:
        """The request body is whole."""


class Remembered:
    """Which desktop holds which exchange."""

    def __init__(self) -> None:
        self._where: OrderedDict[bytes, Initiator] = OrderedDict()

    def add(self, id: bytes, opener: Initiator) -> None:
        """The desktop behind `opener` holds the exchange `id`."""
        self._where[id] = opener
        self._where.move_to_end(id)
        if len(self._where) > REMEMBERED:
            self._where.popitem(last=False)

    def find(self, id: bytes) -> Initiator:
        """The opener of the desktop that holds `id`; raises NotFound."""
        opener = self._where.get(id)
        if opener is None:
            raise NotFound("no answer of that id is kept, or not for this user")
        return opener


class FromOffset:
    """A `Caller` that gives another one an answer from its middle."""

    def __init__(self, caller: ResponseSink, offset: int) -> None:
        self._caller = caller
        self._offset = offset
        self.write = caller.write
        self.finish = caller.finish
        self.fail = caller.fail
        self.pause_request_body = caller.pause_request_body
        self.resume_request_body = caller.resume_request_body

    def write_head(self, head: ResponseHead) -> None:
        """The length of the whole would be wrong for a part."""
        headers = (
            without_headers(head.headers, (b"content-length",)) if self._offset else head.headers
        )
        self._caller.write_head(ResponseHead(head.status, head.reason, headers))
