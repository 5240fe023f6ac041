"""`ctllm.http.server.memory_limiter`: connections are held to a budget of memory."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.common.memory_budget import MemoryBudget
from ctllm.http.message.head import ResponseHead
from ctllm.http.server.connection import HttpServerFactory
from ctllm.http.server.memory_limiter import REQUEST_MEMORY, SOCKET_BUFFER_SIZE, MemoryLimiter
from ctllm.http.server.request import ServerRequest
from tests.unit.fakes import FakeRequestSink, MemoryTransport
from tests.unit.http.server.server_case import GET

POST = b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
LARGE = 100 * SOCKET_BUFFER_SIZE


class MemoryLimiterTests(SynchronousTestCase):
    """A server with a budget of two megabytes."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.budget = MemoryBudget(2 << 20)
        limiter = MemoryLimiter(self.budget, self.clock)
        self.factory = HttpServerFactory(self.handle, self.clock, memory_limiter=limiter)
        self.requests: list[ServerRequest] = []

    async def handle(self, request: ServerRequest) -> None:
        request.reserve_memory()
        self.requests.append(request)
        await Deferred()

    def connect(self, data: bytes = b"") -> MemoryTransport:
        server, transport = self.factory.buildProtocol(None), MemoryTransport()
        transport.protocol = server
        server.makeConnection(transport)
        server.dataReceived(data)
        return transport

    def upload(self, sent: int = SOCKET_BUFFER_SIZE // 2) -> MemoryTransport:
        return self.connect(POST % LARGE + bytes(sent))

    def test_refuses_new_requests_with_429_until_others_end(self) -> None:
        transports = [self.upload() for _ in range(60)]
        responses = [transport.take_written() for transport in transports]
        refused = [response for response in responses if response]
        self.assertTrue(0 < len(refused) < 60)
        for response in refused:
            self.assertTrue(response.startswith(b"HTTP/1.1 429 "), response)
            self.assertIn(b"\r\nRetry-After: 10\r\n", response)
        self.assertLessEqual(self.budget.reserved, self.budget.size * 3 // 4)
        for transport in transports:
            transport.disconnect()
        self.assertEqual(self.budget.reserved, 0)
        self.assertEqual(self.upload().take_written(), b"")

    def fill(self) -> list[MemoryTransport]:
        """As many uploads as are admitted, with room for one read of one of them."""
        count = self.budget.size // 2 // (REQUEST_MEMORY + SOCKET_BUFFER_SIZE)
        transports = [self.connect(POST % LARGE) for _ in range(count)]
        free = self.budget.size * 3 // 4 - self.budget.reserved
        self.budget.reserve(free)
        return transports

    def test_unread_bodies_continue_in_the_order_of_admission(self) -> None:
        transports = self.fill()
        self.assertEqual(
            {transport.producerState for transport in transports}, {"producing"}
        )  # one read response
        for transport in reversed(transports):
            transport.protocol.dataReceived(bytes(SOCKET_BUFFER_SIZE - 1))
        self.assertEqual({transport.producerState for transport in transports}, {"paused"})
        self.assertLessEqual(self.budget.reserved, self.budget.size * 3 // 4)
        self.budget.release(2 * SOCKET_BUFFER_SIZE)
        self.clock.advance(0)
        states = [transport.producerState for transport in transports]
        self.assertEqual(states, ["producing"] * 2 + ["paused"] * (len(transports) - 2))

    def test_waiting_connection_may_disconnect(self) -> None:
        transports = self.fill()
        for transport in transports:
            transport.protocol.dataReceived(bytes(SOCKET_BUFFER_SIZE - 1))
        transports[0].disconnect()
        self.clock.advance(0)
        self.assertEqual(transports[1].producerState, "producing")
        for transport in transports[1:]:
            transport.disconnect()
        self.clock.advance(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_data_that_was_passed_on_is_not_reserved(self) -> None:
        transport = self.upload()
        self.assertEqual(
            self.budget.reserved, REQUEST_MEMORY + SOCKET_BUFFER_SIZE // 2 + SOCKET_BUFFER_SIZE
        )
        sink = FakeRequestSink()
        self.requests[0].relay_to(sink)
        self.assertEqual(sum(map(len, sink.calls)), SOCKET_BUFFER_SIZE // 2)
        self.assertEqual(self.budget.reserved, REQUEST_MEMORY + SOCKET_BUFFER_SIZE)
        self.requests[0].write_head(ResponseHead(200, b"", ((b"Content-Length", b"0"),)))
        self.requests[0].finish()
        self.assertEqual(self.budget.reserved, 0)
        self.assertIn(b" 200 ", transport.take_written())

    def test_aborts_the_connection_with_most_unread_data_when_responses_exceed_the_budget(
        self,
    ) -> None:
        transports = [self.connect(GET) for _ in range(3)]
        for number, (transport, request) in enumerate(zip(transports, self.requests, strict=True)):
            request.relay_to(FakeRequestSink())
            request.write_head(ResponseHead(200))
            transport.protocol.pauseProducing()
            request.write(bytes((number + 1) * 250_000))
        self.assertEqual([transport.closed for transport in transports], ["", "", ""])
        self.requests[0].write(bytes(400_000))
        self.assertEqual([transport.closed for transport in transports], ["", "", "abort"])
        transports[2].deliver_abort()
        transports[1].protocol.resumeProducing()
        transports[0].disconnect()
        self.assertEqual(self.budget.reserved, REQUEST_MEMORY)
        transports[1].disconnect()
        self.assertEqual(self.budget.reserved, 0)
