"""How many connections there are at once, and who goes when there are too many."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.errors import ServiceUnavailable
from ctllm.http.server.connection import HttpServerFactory
from ctllm.http.server.connection_limits import ConnectionLimiter, max_connections
from ctllm.http.server.request import ServerRequest
from ctllm.http.server.request_throttle import RequestThrottle
from tests.unit.fakes import MemoryTransport

GET = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n"


class Guest:
    """A connection that remembers being pushed out."""

    out = False

    def evict(self) -> None:
        self.out = True


class CrowdTests(SynchronousTestCase):
    """Room for eight, of whom two may be strangers."""

    def setUp(self) -> None:
        self.crowd = ConnectionLimiter(8)

    def come(self, count: int) -> list[Guest]:
        guests = [Guest() for _ in range(count)]
        for guest in guests:
            self.crowd.add_anonymous(guest)
        return guests

    def test_of_too_many_strangers_those_go_that_wait_longest(self) -> None:
        """So whoever comes and asks at once is served, however many only wait."""
        guests = self.come(5)
        self.assertEqual([guest.out for guest in guests], [True, True, True, False, False])
        self.assertEqual(len(self.crowd), 2)

    def test_who_is_known_is_never_pushed_out(self) -> None:
        """However many strangers come; it is a stranger again once it was answered."""
        (guest,) = self.come(1)
        self.crowd.mark_authenticated(guest)
        self.come(50)
        self.assertFalse(guest.out)
        self.crowd.add_anonymous(guest)
        self.come(2)
        self.assertTrue(guest.out)

    def test_no_more_known_ones_than_fit(self) -> None:
        """One more hears so; as soon as one leaves it fits."""
        known = [Guest() for _ in range(6)]
        for guest in known:
            self.crowd.add_anonymous(guest)
            self.crowd.mark_authenticated(guest)
        self.crowd.mark_authenticated(known[0])  # twice is as once
        (late,) = self.come(1)
        self.assertRaises(ServiceUnavailable, self.crowd.mark_authenticated, late)
        self.crowd.remove(known[3])
        self.crowd.mark_authenticated(late)

    def test_files_bound_it(self) -> None:
        """What is configured, or what the files of this process allow."""
        self.assertEqual(max_connections(3, 2), 3)
        import resource

        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.assertLess(max_connections(10**9, 2), max(files, 2))


class ServerTests(SynchronousTestCase):
    """Connections to a server with room for eight."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.asked: list[ServerRequest] = []
        self.factory = HttpServerFactory(
            self.app, self.clock, connection_limiter=ConnectionLimiter(8)
        )

    async def app(self, incoming: ServerRequest) -> None:
        self.asked.append(incoming)
        if incoming.head.path == b"/known":
            incoming.mark_authenticated()
        if incoming.head.path != b"/health":
            await Deferred()
        incoming.respond(200, {})

    def come(self, said: bytes = b"") -> Any:
        server, wire = self.factory.buildProtocol(None), MemoryTransport()
        wire.protocol = server
        server.makeConnection(wire)
        server.dataReceived(said)
        return wire

    def test_who_says_nothing_is_told_and_closed(self) -> None:
        """503, with when to try again."""
        silent, halfway = self.come(), self.come(b"GET / HT")
        self.come(), self.come()
        for wire in (silent, halfway):
            self.assertIn(b"HTTP/1.1 503 ", wire.take_written())
            self.assertEqual(wire.closed, "close")

    def test_an_answered_one_waits_like_a_new_one(self) -> None:
        """A connection that is kept open is a stranger's until it asks again."""
        wire = self.come(GET % b"/health")
        self.assertIn(b" 200 ", wire.take_written())
        self.come(), self.come()
        self.assertEqual(wire.closed, "close")

    def test_a_request_of_nobody_known_goes_without_a_word(self) -> None:
        """Its answer may have begun; its work ends with it."""
        wire = self.come(GET % b"/slow")
        self.come(), self.come()
        self.assertEqual((wire.closed, wire.take_written()), ("abort", b""))
        wire.deliver_abort()
        self.assertTrue(self.asked[0].is_disconnected)

    def test_who_has_asked_and_waits_for_a_turn_stays(self) -> None:
        """Else those that are about to be served would be the first to go."""
        turnstile = RequestThrottle(self.clock, 1)
        self.factory = HttpServerFactory(
            self.app, self.clock, throttle=turnstile, connection_limiter=ConnectionLimiter(8)
        )
        self.come(GET % b"/health")
        waiting = [self.come(GET % b"/health") for _ in range(9)]
        self.come(), self.come()
        self.clock.pump([0] * 12)
        self.assertEqual([b" 200 " in wire.take_written() for wire in waiting], [True] * 9)

    def test_who_is_known_stays_and_the_rest_are_told(self) -> None:
        """503 beyond the room for those who are known; those who are served go on."""
        known = [self.come(GET % b"/known") for _ in range(7)]
        self.assertEqual([wire.closed for wire in known], [""] * 7)
        self.assertIn(b"HTTP/1.1 503 ", known[6].take_written())
        self.assertIn(b" 200 ", self.come(GET % b"/health").take_written())
        known[0].disconnect()
        self.assertEqual(self.come(GET % b"/known").take_written(), b"")
