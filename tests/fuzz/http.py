"""Mutated HTTP messages for both parsers: requests to a server, responses to a client."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from ctllm.common.memory_budget import MemoryBudget
from ctllm.http.message.body import BadFraming
from ctllm.http.message.response_parser import MAX_HEAD, ResponseParser
from ctllm.http.server.connection import HttpServerFactory
from ctllm.http.server.memory_limiter import SOCKET_BUFFER_SIZE, MemoryLimiter
from ctllm.http.server.request import ServerRequest
from tests.fuzz.tunnel import CheckingSink, mutated

MAX_HEAD_BYTES = 4096
REQUESTS = (
    b"GET /api/tags HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /v1/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;a=b\r\nhello\r\n1\r\nx\r\n0\r\nA: b\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
    b"GET http://x:1?caf\xc3\xa9=%ff HTTP/1.1\r\nHost: y\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"HEAD http://x/y HTTP/1.0\r\nConnection: keep-alive\r\nA: " + b"b" * 300 + b"\r\n\r\n",
)
RESPONSES = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n3;x\r\n{}\n\r\n0\r\nA: b\r\n\r\n",
    b"HTTP/1.0 500 No\r\nA: b\r\n\r\nto the end",
    b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
)


class ClosingTransport(StringTransport):
    """A transport that closes immediately."""

    is_closed = False
    reason = Failure(ConnectionDone())

    def abortConnection(self) -> None:
        self.is_closed = True

    loseConnection = abortConnection
    loseWriteConnection = abortConnection

    def unregisterProducer(self) -> None:
        self.producer = None


def split_randomly(rng: Random, data: bytes) -> list[bytes]:
    """Split `data` into chunks of random sizes."""
    chunks = []
    while data:
        cut = rng.choice((1, 2, 7, 50, len(data)))
        chunks.append(data[:cut])
        data = data[cut:]
    return chunks


def mutated_messages(rng: Random, seeds: tuple[bytes, ...]) -> bytes:
    """Return one to three messages, most of them mutated."""
    chosen = [rng.choice(seeds) for _ in range(rng.randrange(1, 4))]
    return b"".join(mutated(rng, one) if rng.random() < 0.7 else one for one in chosen)


def fuzz_server(rng: Random, count: int) -> int:
    """Send random requests on `count` connections; return how many got a 4xx response."""
    refused = 0
    for _ in range(count):
        clock, transport = Clock(), ClosingTransport()
        broken: list[Any] = []

        async def app(incoming: ServerRequest, broken: list[Any] = broken) -> None:
            if incoming.head.method == b"GET":
                incoming.respond(200, {})
                return
            taken = await incoming.read_body(10_000)
            assert len(taken) <= 10_000
            incoming.respond(200, taken)

        budget = MemoryBudget(1 << 30)
        protocol = HttpServerFactory(
            app, clock, max_head_bytes=MAX_HEAD_BYTES, memory_limiter=MemoryLimiter(budget, clock)
        ).buildProtocol(None)
        protocol.makeConnection(transport)
        for chunk in split_randomly(rng, mutated_messages(rng, REQUESTS)):
            if not transport.is_closed:
                protocol.dataReceived(chunk)
                assert budget.reserved <= MAX_HEAD_BYTES + 70_000 + SOCKET_BUFFER_SIZE
        response = transport.value()
        assert response == b"" or response.startswith(b"HTTP/1.1 "), response
        assert b" 500 " not in response.split(b"\r\n", 1)[0], response
        refused += b"HTTP/1.1 4" in response
        protocol.connectionLost()
        assert budget.reserved == 0, "memory stays reserved"
        assert not clock.getDelayedCalls(), "a timer outlives its connection"
    return refused


def fuzz_response_parser(rng: Random, count: int) -> int:
    """Parse `count` random responses; return how many were invalid."""
    refused = 0
    for _ in range(count):
        parser = ResponseParser(rng.choice((b"GET", b"HEAD", b"POST")))
        sink = CheckingSink()
        try:
            for chunk in split_randomly(rng, mutated_messages(rng, RESPONSES)):
                rest: bytes | None = chunk
                if parser.head is None:
                    rest = parser.feed_head(chunk)
                if rest is not None and not parser.body.is_complete:
                    sink.write(parser.body.feed(rest))
                assert len(parser._unread) <= MAX_HEAD
            parser.body.feed_eof()
        except BadFraming:
            refused += 1
    return refused
