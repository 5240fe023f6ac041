"""One small question by HTTP: the answer as a whole, within a time and a size."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from ctllm.errors import BadGateway, ClientDisconnected, CtllmError
from ctllm.http.interfaces import Upstream
from ctllm.http.message.head import RequestHead, ResponseHead
from ctllm.reactor.interfaces import Clock


async def get(
    origin: Upstream, path: bytes, clock: Clock, timeout: float, limit: int = 64 * 1024
) -> tuple[int, bytes]:
    """GET `path`; see `ask`."""
    return await ask(origin, RequestHead(b"GET", path), clock, timeout, limit)


async def ask(
    origin: Upstream,
    head: RequestHead,
    clock: Clock,
    timeout: float,
    limit: int,
    body: bytes = b"",
) -> tuple[int, bytes]:
    """Ask `head` with `body`, whose length is in the head, and give status and body of the answer.

    Raises UpstreamFailed for an answer that is not whole within `timeout` seconds or larger than
    `limit` bytes, and whatever `origin` fails with. Cancelling closes the connection.
    """
    collecting = _Collecting(limit)
    call = origin.start_request(head, collecting)
    if body:
        call.write(body)
    call.finish()
    late = BadGateway(f"there was no whole answer within {timeout:g} seconds")
    timer = clock.callLater(timeout, collecting.give_up, late)
    try:
        return await collecting.answer
    finally:
        if timer.active():
            timer.cancel()
        if not collecting.over:
            call.cancel(ClientDisconnected("nobody waits for this answer any more"))


class _Collecting:
    """A `Caller` that keeps the answer; `over` when the exchange has come to its own end."""

    def __init__(self, limit: int) -> None:
        self.answer: Deferred[tuple[int, bytes]] = Deferred()
        self.over = False
        self._limit = limit
        self._status = 0
        self._body = bytearray()

    def write_head(self, head: ResponseHead) -> None:
        self._status = head.status

    def write(self, piece: bytes) -> None:
        self._body += piece
        if len(self._body) > self._limit:
            self.give_up(BadGateway(f"the answer exceeds {self._limit} bytes"))

    def finish(self) -> None:
        self.over = True
        if not self.answer.called:
            self.answer.callback((self._status, bytes(self._body)))

    def fail(self, error: CtllmError) -> None:
        self.over = True
        self.give_up(error)

    def give_up(self, error: CtllmError) -> None:
        if not self.answer.called:
            self.answer.errback(error)

    def pause_request_body(self) -> None:
        pass

    def resume_request_body(self) -> None:
        pass
