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
LIST_TIMEOUT = 3.0
#: Most bytes of one list: some ten thousand models.
MAX_LIST = 4 * 1024 * 1024

#: What is about the connection or the form of an answer that is not passed on as it comes.
_DROPPED_HEADERS = (
    b"accept-encoding",
    b"content-length",
    b"transfer-encoding",
    b"range",
    b"expect",
)


async def fetch_all(
    upstreams: Sequence[Upstream], head: RequestHead, clock: Clock, budget: BufferBudget
) -> list[bytes]:
    """The lists that came within the time and the sizes, in the order of `upstreams`."""
    seconds = get_timeout(head, LIST_TIMEOUT)
    plain = RequestHead(head.method, head.target, without_headers(head.headers, _DROPPED_HEADERS))
    plain = set_timeout(plain, seconds * NEXT_STAGE_SHARE)
    listings = [ResponseCollector(budget) for _ in upstreams]
    asking = [
        Deferred.fromCoroutine(_fetch(upstream, plain, clock, listing, seconds))
        for upstream, listing in zip(upstreams, listings, strict=True)
    ]
    try:
        results: list[tuple[bool, Any]] = await DeferredList(asking, consumeErrors=True)
        for asked, failure in results:
            if not asked:
                failure.trap(CtllmError)  # one that takes no request has no list
        return [bytes(listing.body) for listing in listings if listing.is_complete]
    finally:
        budget.release(sum(len(listing.body) for listing in listings))


async def _fetch(
    upstream: Upstream,
    head: RequestHead,
    clock: Clock,
    collector: ResponseCollector,
    seconds: float,
) -> None:
    call = upstream.start_request(head, collector)
    call.finish()
    timer = clock.callLater(seconds, collector.stop)
    try:
        await collector.done
    finally:
        if timer.active():
            timer.cancel()
        if not collector.has_ended:
            call.cancel(ClientDisconnected("this list is not waited for any more"))


class ResponseCollector:
    """A `Caller` that collects one list; `whole` if it is one."""

    def __init__(self, budget: BufferBudget) -> None:
        self.body = bytearray()
        self.done: Deferred[None] = Deferred()
        self.has_ended = False  # the exchange came to its own end
        self.is_complete = False
        self._budget = budget

    def stop(self) -> None:
        """There is nothing more to wait for."""
        if not self.done.called:
            self.done.callback(None)

    def write_head(self, head: ResponseHead) -> None:
        """Whatever is not a success is no list."""
        if head.status != 200:
            self.stop()

    def write(self, piece: bytes) -> None:
        """Keep a piece, as far as there is room."""
        self.body += piece
        self._budget.reserve(len(piece))
        if len(self.body) > MAX_LIST or self._budget.is_full:
            self.stop()

    def finish(self) -> None:
        """The answer is whole."""
        self.has_ended = self.is_complete = True
        self.stop()

    def fail(self, error: CtllmError) -> None:
        """There is no answer."""
        self.has_ended = True
        self.stop()

    def pause_request_body(self) -> None:
        """There is no body."""

    def resume_request_body(self) -> None:
        """There is no body."""
