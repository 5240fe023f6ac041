"""A test case with one connection to an HTTP server."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.http.message.head import Headers, ResponseHead
from ctllm.http.server.connection import HttpServerFactory, RequestHandler
from ctllm.http.server.request import ServerRequest
from tests.unit.fakes import FakeRequestSink, MemoryTransport

NDJSON = ResponseHead(200, b"OK", ((b"Content-Type", b"application/x-ndjson"),))
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
CHAT = b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"
UPLOAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\nsome"
CHUNKED = b"POST /api/chat HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


class ServerCase(SynchronousTestCase):
    """A connection, whose requests are relayed to fake sinks unless a test sets `handler`."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.response_headers: Headers = ()
        self.handler: RequestHandler = self.relay
        self.requests: list[ServerRequest] = []
        self.sinks: list[FakeRequestSink] = []
        self.connect()

    def connect(self, max_head_bytes: int = 1000, is_internal: bool = False) -> None:
        """Make a new connection."""
        factory = HttpServerFactory(
            lambda request: self.handler(request),
            self.clock,
            max_head_bytes=max_head_bytes,
            response_headers=lambda head: self.response_headers,
            is_internal=is_internal,
        )
        self.server = factory.buildProtocol(None)
        self.transport = MemoryTransport()
        self.transport.protocol = self.server
        self.server.makeConnection(self.transport)

    async def relay(self, request: ServerRequest) -> None:
        """Relay a request to a fake sink."""
        self.requests.append(request)
        sink = FakeRequestSink()
        self.sinks.append(sink)
        request.relay_to(sink)

    def receive(self, data: bytes) -> None:
        """Have the server receive `data` from the client."""
        self.server.dataReceived(data)

    def take_written(self) -> bytes:
        """Return what the server wrote since the last call."""
        return self.transport.take_written()
