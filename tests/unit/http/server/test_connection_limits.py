"""`ctllm.http.server.connection_limits`: surplus anonymous connections are evicted."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.errors import ServiceUnavailable
from ctllm.http.server.burst_limiter import RequestThrottle
from ctllm.http.server.connection import HttpServerFactory
from ctllm.http.server.connection_limits import ConnectionLimiter, max_connections
from ctllm.http.server.request import ServerRequest
from tests.unit.fakes import MemoryTransport

GET = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n"


class FakeConnection:
    """A connection that remembers its eviction."""

    is_evicted = False

    def evict(self) -> None:
        self.is_evicted = True


class ConnectionLimiterTests(SynchronousTestCase):
    """A limit of eight, of which two may be anonymous."""

    def setUp(self) -> None:
        self.limiter = ConnectionLimiter(8)

    def connect(self, count: int) -> list[FakeConnection]:
        connections = [FakeConnection() for _ in range(count)]
        for connection in connections:
            self.limiter.add_anonymous(connection)
        return connections

    def test_evicts_the_longest_waiting_anonymous_connections(self) -> None:
        connections = self.connect(5)
        self.assertEqual(
            [connection.is_evicted for connection in connections], [True, True, True, False, False]
        )
        self.assertEqual(len(self.limiter), 2)

    def test_authenticated_connection_is_not_evicted_until_it_is_anonymous_again(self) -> None:
        (connection,) = self.connect(1)
        self.limiter.mark_authenticated(connection)
        self.connect(50)
        self.assertFalse(connection.is_evicted)
        self.limiter.add_anonymous(connection)
        self.connect(2)
        self.assertTrue(connection.is_evicted)

    def test_refuses_more_authenticated_connections_than_the_limit(self) -> None:
        authenticated = [FakeConnection() for _ in range(6)]
        for connection in authenticated:
            self.limiter.add_anonymous(connection)
            self.limiter.mark_authenticated(connection)
        self.limiter.mark_authenticated(authenticated[0])  # twice is as once
        (late,) = self.connect(1)
        self.assertRaises(ServiceUnavailable, self.limiter.mark_authenticated, late)
        self.limiter.remove(authenticated[3])
        self.limiter.mark_authenticated(late)

    def test_max_connections_is_what_the_open_files_limit_allows(self) -> None:
        self.assertEqual(max_connections(3, 2), 3)
        import resource

        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.assertLess(max_connections(10**9, 2), max(files, 2))


class LimitedServerTests(SynchronousTestCase):
    """A server with a limit of eight."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.requests: list[ServerRequest] = []
        self.factory = HttpServerFactory(
            self.handle, self.clock, connection_limiter=ConnectionLimiter(8)
        )

    async def handle(self, request: ServerRequest) -> None:
        self.requests.append(request)
        if request.head.path == b"/known":
            request.mark_authenticated()
        if request.head.path != b"/health":
            await Deferred()
        request.respond(200, {})

    def connect(self, data: bytes = b"") -> MemoryTransport:
        server, transport = self.factory.buildProtocol(None), MemoryTransport()
        transport.protocol = server
        server.makeConnection(transport)
        server.dataReceived(data)
        return transport

    def test_evicted_connection_without_a_request_gets_503(self) -> None:
        silent, halfway = self.connect(), self.connect(b"GET / HT")
        self.connect(), self.connect()
        for transport in (silent, halfway):
            self.assertIn(b"HTTP/1.1 503 ", transport.take_written())
            self.assertEqual(transport.closed, "close")

    def test_connection_is_anonymous_again_after_its_response(self) -> None:
        transport = self.connect(GET % b"/health")
        self.assertIn(b" 200 ", transport.take_written())
        self.connect(), self.connect()
        self.assertEqual(transport.closed, "close")

    def test_evicted_connection_with_an_anonymous_request_is_aborted(self) -> None:
        transport = self.connect(GET % b"/slow")
        self.connect(), self.connect()
        self.assertEqual((transport.closed, transport.take_written()), ("abort", b""))
        transport.deliver_abort()
        self.assertTrue(self.requests[0].is_disconnected)

    def test_connection_whose_request_is_queued_is_not_evicted(self) -> None:
        throttle = RequestThrottle(self.clock, 1)
        self.factory = HttpServerFactory(
            self.handle, self.clock, throttle=throttle, connection_limiter=ConnectionLimiter(8)
        )
        self.connect(GET % b"/health")
        waiting = [self.connect(GET % b"/health") for _ in range(9)]
        self.connect(), self.connect()
        self.clock.pump([0] * 12)
        self.assertEqual(
            [b" 200 " in transport.take_written() for transport in waiting], [True] * 9
        )

    def test_request_beyond_the_authenticated_limit_gets_503(self) -> None:
        authenticated = [self.connect(GET % b"/known") for _ in range(7)]
        self.assertEqual([transport.closed for transport in authenticated], [""] * 7)
        self.assertIn(b"HTTP/1.1 503 ", authenticated[6].take_written())
        self.assertIn(b" 200 ", self.connect(GET % b"/health").take_written())
        authenticated[0].disconnect()
        self.assertEqual(self.connect(GET % b"/known").take_written(), b"")
