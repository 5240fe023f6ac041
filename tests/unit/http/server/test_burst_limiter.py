"""`ctllm.http.server.burst_limiter`: few requests start in one turn of the reactor."""

from __future__ import annotations

from functools import partial

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.http.server.burst_limiter import RequestThrottle
from ctllm.http.server.connection import HttpServerFactory
from ctllm.http.server.request import ServerRequest
from tests.unit.fakes import MemoryTransport


class TurnClock(Clock):
    """A clock with distinct turns: what one schedules without delay is due in the next."""

    def turn(self) -> None:
        """Make the calls that are due now."""
        due = [call for call in self.calls if call.getTime() <= self.seconds()]
        for call in due:
            self.calls.remove(call)
            call.called = 1
            call.func(*call.args, **call.kw)


class RequestThrottleTests(SynchronousTestCase):
    """A throttle of two a turn."""

    def setUp(self) -> None:
        self.clock = TurnClock()
        self.throttle = RequestThrottle(self.clock, 2, high_water=10, low_water=4)
        self.started: list[int] = []

    def submit(self, *numbers: int) -> None:
        for number in numbers:
            self.throttle.submit(partial(self.start, number))

    def start(self, number: int) -> bool:
        self.started.append(number)
        return True

    def test_starts_few_requests_at_once(self) -> None:
        self.submit(1, 2)
        self.assertEqual(self.started, [1, 2])

    def test_starts_many_requests_in_order_over_several_turns(self) -> None:
        self.submit(1, 2, 3, 4, 5)
        for expected in ([1, 2], [1, 2, 3, 4], [1, 2, 3, 4, 5]):
            self.assertEqual(self.started, expected)
            self.clock.turn()
        self.clock.turn()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_later_requests_start_after_those_that_wait(self) -> None:
        self.submit(1, 2, 3, 4, 5)
        self.clock.turn()
        self.submit(6)
        self.clock.turn()
        self.clock.turn()
        self.assertEqual(self.started, [1, 2, 3, 4, 5, 6])

    def test_request_that_did_not_start_does_not_count(self) -> None:
        self.submit(1, 2)
        for _ in range(1000):
            self.throttle.submit(lambda: False)
        self.submit(3, 4)
        self.clock.turn()
        self.assertEqual(self.started, [1, 2, 3, 4])

    def test_observers_are_notified_once_of_overload_and_once_of_its_end(self) -> None:
        notified: list[tuple[bool, int]] = []
        self.throttle.add_observer(
            lambda is_overloaded: notified.append((is_overloaded, len(self.started)))
        )
        self.submit(*range(20))
        self.assertEqual(notified, [(True, 2)])
        for _ in range(10):
            self.clock.turn()
        self.assertEqual(notified[1:], [(False, 20 - 4)])
        self.submit(*range(12))
        self.assertEqual(len(notified), 3)


class ThrottledServerTests(SynchronousTestCase):
    """A server that starts one request a turn."""

    def setUp(self) -> None:
        self.clock = TurnClock()
        self.targets: list[bytes] = []
        self.factory = HttpServerFactory(
            self.handle, self.clock, throttle=RequestThrottle(self.clock, 1)
        )

    async def handle(self, request: ServerRequest) -> None:
        self.targets.append(request.head.target)
        request.respond(200, b"ok")

    def connect(self, target: bytes) -> MemoryTransport:
        transport = MemoryTransport()
        transport.protocol = self.factory.buildProtocol(None)
        transport.protocol.makeConnection(transport)
        transport.protocol.dataReceived(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % target)
        return transport

    def test_responds_to_each_request(self) -> None:
        transports = [self.connect(b"/%d" % number) for number in range(3)]
        self.assertEqual(self.targets, [b"/0"])
        self.clock.turn()
        self.clock.turn()
        self.assertEqual(self.targets, [b"/0", b"/1", b"/2"])
        self.assertTrue(all(transport.take_written().endswith(b"ok") for transport in transports))

    def test_request_of_a_disconnected_client_is_not_started(self) -> None:
        self.connect(b"/0")
        self.connect(b"/1").disconnect()
        self.clock.turn()
        self.assertEqual(self.targets, [b"/0"])

    def test_invalid_request_is_refused_in_its_turn(self) -> None:
        self.connect(b"/0")
        transport = self.connect(b"/a b")
        self.connect(b"/2")
        self.clock.turn()
        self.assertIn(b"HTTP/1.1 400", transport.take_written())
        self.clock.turn()
        self.assertEqual(self.targets, [b"/0", b"/2"])

    def test_pipelined_requests_start_one_a_turn(self) -> None:
        transport = self.connect(b"/0")
        for target in (b"/1", b"/2"):
            transport.protocol.dataReceived(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % target)
        for _ in range(3):
            self.clock.turn()
        self.assertEqual(self.targets, [b"/0", b"/1", b"/2"])
        self.assertEqual(transport.take_written().count(b"HTTP/1.1 200"), 3)
