"""Small requests whose response is read as a whole, with limits of time and size."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from ctllm.errors import BadGateway, ClientDisconnected, CtllmError
from ctllm.http.interfaces import Upstream
from ctllm.http.message.head import RequestHead, ResponseHead
from ctllm.reactor.interfaces import Clock


async def get(
    upstream: Upstream, path: bytes, clock: Clock, timeout: float, max_size: int = 64 * 1024
) -> tuple[int, bytes]:
    """Send a GET request for `path`; see `fetch`."""
    return await fetch(upstream, RequestHead(b"GET", path), clock, timeout, max_size)


async def fetch(
    upstream: Upstream,
    head: RequestHead,
    clock: Clock,
    timeout: float,
    max_size: int,
    body: bytes = b"",
) -> tuple[int, bytes]:
    """Send a request and return the status and body of its response; see `exchange`."""
    received, content = await exchange(upstream, head, clock, timeout, max_size, body)
    return received.status, content


async def exchange(
    upstream: Upstream,
    head: RequestHead,
    clock: Clock,
    timeout: float,
    max_size: int,
    body: bytes = b"",
) -> tuple[ResponseHead, bytes]:
    """Send a request and return the head and body of its response.

    `head` has the Content-Length of `body`. Raises BadGateway if the response is not complete
    within `timeout` seconds or larger than `max_size` bytes, and whatever `upstream` fails with.
    Cancelling closes the connection.
    """
    collector = _ResponseCollector(max_size)
    request = upstream.start_request(head, collector)
    if body:
        request.write(body)
    request.finish()
    timeout_error = BadGateway(f"The response was not complete within {timeout:g} seconds.")
    timer = clock.callLater(timeout, collector.abandon, timeout_error)
    try:
        return await collector.response
    finally:
        if timer.active():
            timer.cancel()
        if not collector.is_complete:
            request.cancel(ClientDisconnected("The response is not needed any more."))


class _ResponseCollector:
    """A `ResponseSink` that collects the response.

    `is_complete` is true once the request has ended, in whatever way.
    """

    def __init__(self, max_size: int) -> None:
        self.response: Deferred[tuple[ResponseHead, bytes]] = Deferred()
        self.is_complete = False
        self._max_size = max_size
        self._head = ResponseHead(0)
        self._body = bytearray()

    def write_head(self, head: ResponseHead) -> None:
        self._head = head

    def write(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > self._max_size:
            self.abandon(BadGateway(f"The response exceeds {self._max_size} bytes."))

    def finish(self) -> None:
        self.is_complete = True
        if not self.response.called:
            self.response.callback((self._head, bytes(self._body)))

    def fail(self, error: CtllmError) -> None:
        self.is_complete = True
        self.abandon(error)

    def abandon(self, error: CtllmError) -> None:
        if not self.response.called:
            self.response.errback(error)

    def pause_request_body(self) -> None:
        pass

    def resume_request_body(self) -> None:
        pass
