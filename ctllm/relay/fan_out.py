"""The same question to several sides at once (desktops; here and the cloud), for lists of models.

One may be slow, or send without end: one whose list does not come in time, or is very long,
is left out. A side that asks others itself is told to be ready sooner.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList

from ctllm.common.memory_budget import BufferBudget
from ctllm.errors import ClientDisconnected, CtllmError
from ctllm.http.interfaces import Upstream
from ctllm.http.message.head import RequestHead, ResponseHead, without_headers
from ctllm.http.request_timeout import NEXT_STAGE_SHARE, get_timeout, set_timeout
from ctllm.reactor.interfaces import Clock

#: Most seconds that each has for its list.
PATIENCE = 3.0
#: Most bytes of one list: some ten thousand models.
MOST = 4 * 1024 * 1024

#: What is about the connection or the form of an answer that is not passed on as it comes.
_NOT_ASKED = (b"accept-encoding", b"content-length", b"transfer-encoding", b"range", b"expect")


async def ask_all(
    upstreams: Sequence[Upstream], head: RequestHead, clock: Clock, room: BufferBudget
) -> list[bytes]:
    """The lists that came within the time and the sizes, in the order of `upstreams`."""
    seconds = get_timeout(head, PATIENCE)
    plain = RequestHead(head.method, head.target, without_headers(head.headers, _NOT_ASKED))
    plain = set_timeout(plain, seconds * NEXT_STAGE_SHARE)
    listings = [Listing(room) for _ in upstreams]
    asking = [
        Deferred.fromCoroutine(_ask(upstream, plain, clock, listing, seconds))
        for upstream, listing in zip(upstreams, listings, strict=True)
    ]
    try:
        results: list[tuple[bool, Any]] = await DeferredList(asking, consumeErrors=True)
        for asked, failure in results:
            if not asked:
                failure.trap(CtllmError)  # one that takes no request has no list
        return [bytes(listing.body) for listing in listings if listing.whole]
    finally:
        room.release(sum(len(listing.body) for listing in listings))


async def _ask(
    upstream: Upstream, head: RequestHead, clock: Clock, listing: Listing, seconds: float
) -> None:
    call = upstream.start_request(head, listing)
    call.finish()
    timer = clock.callLater(seconds, listing.over)
    try:
        await listing.done
    finally:
        if timer.active():
            timer.cancel()
        if not listing.ended:
            call.cancel(ClientDisconnected("this list is not waited for any more"))


class Listing:
    """A `Caller` that collects one list; `whole` if it is one."""

    def __init__(self, room: BufferBudget) -> None:
        self.body = bytearray()
        self.done: Deferred[None] = Deferred()
        self.ended = False  # the exchange came to its own end
        self.whole = False
        self._room = room

    def over(self) -> None:
        """There is nothing more to wait for."""
        if not self.done.called:
            self.done.callback(None)

    def write_head(self, head: ResponseHead) -> None:
        """Whatever is not a success is no list."""
        if head.status != 200:
            self.over()

    def write(self, piece: bytes) -> None:
        """Keep a piece, as far as there is room."""
        self.body += piece
        self._room.reserve(len(piece))
        if len(self.body) > MOST or self._room.is_full:
            self.over()

    def finish(self) -> None:
        """The answer is whole."""
        self.ended = self.whole = True
        self.over()

    def fail(self, error: CtllmError) -> None:
        """There is no answer."""
        self.ended = True
        self.over()

    def pause_request_body(self) -> None:
        """There is no body."""

    def resume_request_body(self) -> None:
        """There is no body."""
