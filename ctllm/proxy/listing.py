"""The same question to several desktops at once, for their lists of models.

A desktop may be slow, or send without end: one whose list does not come in time, or is very long,
is left out.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, DeferredList

from ctllm.errors import Cancelled, CtllmError
from ctllm.http.faces import Clock
from ctllm.proxy.choice import Meeting
from ctllm.proxy.room import Room
from ctllm.wire.heads import AnswerHead, RequestHead, without

#: Seconds that a desktop has for its list.
PATIENCE = 3.0
#: Most bytes of one desktop's list: some ten thousand models.
MOST = 4 * 1024 * 1024

#: What is about the connection or the form of an answer that is not passed on as it comes.
_NOT_ASKED = (b"accept-encoding", b"content-length", b"transfer-encoding", b"range", b"expect")


async def ask_all(
    meetings: list[Meeting], head: RequestHead, clock: Clock, room: Room
) -> list[bytes]:
    """The lists that came within the time and the sizes, in the order of `meetings`."""
    plain = RequestHead(head.method, head.target, without(head.headers, _NOT_ASKED))
    listings = [Listing(room) for _ in meetings]
    asking = [
        Deferred.fromCoroutine(_ask(meeting, plain, clock, listing))
        for meeting, listing in zip(meetings, listings, strict=True)
    ]
    try:
        results: list[tuple[bool, Any]] = await DeferredList(asking, consumeErrors=True)
        for asked, failure in results:
            if not asked:
                failure.trap(CtllmError)  # one that takes no request has no list
        return [bytes(listing.body) for listing in listings if listing.whole]
    finally:
        room.give(sum(len(listing.body) for listing in listings))


async def _ask(meeting: Meeting, head: RequestHead, clock: Clock, listing: Listing) -> None:
    call = meeting.opener.open(head, listing)
    call.end()
    timer = clock.callLater(PATIENCE, listing.over)
    try:
        await listing.done
    finally:
        if timer.active():
            timer.cancel()
        if not listing.ended:
            call.cancel(Cancelled("this list is not waited for any more"))


class Listing:
    """A `Caller` that collects one desktop's list; `whole` if it is one."""

    def __init__(self, room: Room) -> None:
        self.body = bytearray()
        self.done: Deferred[None] = Deferred()
        self.ended = False  # the exchange came to its own end
        self.whole = False
        self._room = room

    def over(self) -> None:
        """There is nothing more to wait for."""
        if not self.done.called:
            self.done.callback(None)

    def head(self, head: AnswerHead) -> None:
        """Whatever is not a success is no list."""
        if head.status != 200:
            self.over()

    def data(self, piece: bytes) -> None:
        """Keep a piece, as far as there is room."""
        self.body += piece
        self._room.take(len(piece))
        if len(self.body) > MOST or self._room.full:
            self.over()

    def end(self) -> None:
        """The answer is whole."""
        self.ended = self.whole = True
        self.over()

    def fail(self, error: CtllmError) -> None:
        """There is no answer."""
        self.ended = True
        self.over()

    def pause_body(self) -> None:
        """There is no body."""

    def resume_body(self) -> None:
        """There is no body."""
