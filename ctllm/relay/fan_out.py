"""One request to several upstreams at once, for lists of models.

An upstream whose response is late, too long or not a success is left out. The upstreams get less
time than the request has, because they may fan it out themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from ctllm.common.memory_budget import BufferBudget
from ctllm.errors import ClientDisconnected, CtllmError
from ctllm.http.interfaces import Upstream
from ctllm.http.message.head import RequestHead, ResponseHead, without_headers
from ctllm.http.request_timeout import NEXT_STAGE_SHARE, get_timeout, set_timeout
from ctllm.reactor.interfaces import Clock

#: Seconds that an upstream has for its list, unless the request allows fewer.
LIST_TIMEOUT = 3.0
#: Bytes of the longest list: about ten thousand models.
MAX_LIST = 4 * 1024 * 1024

#: Headers about the connection, or about the form of a response that the client does not get as is.
_DROPPED_HEADERS = (
    b"accept-encoding",
    b"content-length",
    b"transfer-encoding",
    b"range",
    b"expect",
)


async def fetch_all(
    upstreams: Sequence[Upstream],
    head: RequestHead,
    clock: Clock,
    budget: BufferBudget,
    max_size: int = MAX_LIST,
) -> list[bytes]:
    """Return the bodies of the successful responses, in the order of `upstreams`."""
    seconds = get_timeout(head, LIST_TIMEOUT)
    head = RequestHead(head.method, head.target, without_headers(head.headers, _DROPPED_HEADERS))
    head = set_timeout(head, seconds * NEXT_STAGE_SHARE)
    collectors = [ResponseCollector(budget, max_size) for _ in upstreams]
    fetches = [
        Deferred.fromCoroutine(_fetch(upstream, head, clock, collector, seconds))
        for upstream, collector in zip(upstreams, collectors, strict=True)
    ]
    try:
        for _, result in await DeferredList(fetches, consumeErrors=True):
            if isinstance(result, Failure):
                result.trap(CtllmError)  # an upstream that refuses the request has no list
        return [bytes(each.body) for each in collectors if each.is_complete]
    finally:
        budget.release(sum(len(each.body) for each in collectors))


async def _fetch(
    upstream: Upstream,
    head: RequestHead,
    clock: Clock,
    collector: ResponseCollector,
    seconds: float,
) -> None:
    upstream_request = upstream.start_request(head, collector)
    upstream_request.finish()
    timer = clock.callLater(seconds, collector.stop)
    try:
        await collector.done
    finally:
        if timer.active():
            timer.cancel()
        if not collector.has_ended:
            upstream_request.cancel(ClientDisconnected("The list is not needed any more."))


class ResponseCollector:
    """A `ResponseSink` that collects the body of one successful response."""

    def __init__(self, budget: BufferBudget, max_size: int) -> None:
        self.body = bytearray()
        self.done: Deferred[None] = Deferred()
        self.has_ended = False  # whether the upstream has ended the response
        self.is_complete = False
        self._budget = budget
        self._max_size = max_size

    def stop(self) -> None:
        """Fire `done`."""
        if not self.done.called:
            self.done.callback(None)

    def write_head(self, head: ResponseHead) -> None:
        """Stop unless the response is a success."""
        if head.status != 200:
            self.stop()

    def write(self, data: bytes) -> None:
        """Collect `data`; stop if it exceeds a limit."""
        self.body += data
        self._budget.reserve(len(data))
        if len(self.body) > self._max_size or self._budget.is_full:
            self.stop()

    def finish(self) -> None:
        """Mark the response as complete."""
        self.has_ended = self.is_complete = True
        self.stop()

    def fail(self, error: CtllmError) -> None:
        """Stop: there is no response."""
        self.has_ended = True
        self.stop()

    def pause_request_body(self) -> None:
        """Do nothing: the request has no body."""

    def resume_request_body(self) -> None:
        """Do nothing: the request has no body."""
