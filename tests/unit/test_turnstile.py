"""Beginnings take turns."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.http.server.connection import HttpServerFactory
from ctllm.http.server.request import ServerRequest
from ctllm.http.server.request_throttle import HIGH_WATER, LOW_WATER, RequestThrottle
from tests.unit.fakes import MemoryTransport


class Turns(Clock):
    """A clock whose turns can be told apart: what a turn asks for comes in the next."""

    def __init__(self) -> None:
        super().__init__()
        self.due: list[Callable[[], None]] = []

    def callLater(self, when: float, what: Callable[[], None]) -> object:
        if when:
            return super().callLater(when, what)
        self.due.append(what)
        return None

    def turn(self) -> None:
        due, self.due = self.due, []
        for each in due:
            each()


class TurnstileTests(SynchronousTestCase):
    """`Turnstile`, two a turn."""

    def setUp(self) -> None:
        self.clock = Turns()
        self.turnstile = RequestThrottle(self.clock, 2)
        self.begun: list[int] = []

    def come(self, *numbers: int) -> None:
        for number in numbers:
            self.turnstile.submit(lambda number=number: self.begin(number))

    def begin(self, number: int) -> bool:
        self.begun.append(number)
        return True

    def test_few_begin_at_once(self) -> None:
        """Nobody waits while there is no crowd."""
        self.come(1, 2)
        self.assertEqual(self.begun, [1, 2])

    def test_many_take_turns(self) -> None:
        """In the order of coming, so many a turn; and then nothing is left to be done."""
        self.come(1, 2, 3, 4, 5)
        for expected in ([1, 2], [1, 2, 3, 4], [1, 2, 3, 4, 5]):
            self.assertEqual(self.begun, expected)
            self.clock.turn()
        self.clock.turn()
        self.assertEqual(self.clock.due, [])

    def test_late_comers_wait_behind(self) -> None:
        """Who comes in the next turn goes after those who wait already."""
        self.come(1, 2, 3, 4, 5)
        self.clock.turn()
        self.come(6)
        self.clock.turn()
        self.clock.turn()
        self.assertEqual(self.begun, [1, 2, 3, 4, 5, 6])

    def test_who_has_gone_takes_nobodys_turn(self) -> None:
        """Where nothing was begun another begins."""
        self.come(1, 2)
        for _ in range(1000):
            self.turnstile.submit(lambda: False)
        self.come(3, 4)
        self.clock.turn()
        self.assertEqual(self.begun, [1, 2, 3, 4])

    def test_a_crowd_is_told_of_once_and_so_is_its_end(self) -> None:
        """Meanwhile nobody else should be let in."""
        told: list[tuple[bool, int]] = []
        self.turnstile.add_observer(lambda crowded: told.append((crowded, len(self.begun))))
        self.come(*range(HIGH_WATER + 100))
        self.assertEqual(told, [(True, 2)])
        for _ in range(HIGH_WATER):
            self.clock.turn()
        self.assertEqual(told[1:], [(False, HIGH_WATER + 100 - LOW_WATER)])
        self.come(*range(HIGH_WATER + 10))
        self.assertEqual(len(told), 3)


class ServerTests(SynchronousTestCase):
    """Requests at a server, one a turn."""

    def setUp(self) -> None:
        self.clock = Turns()
        self.asked: list[bytes] = []
        self.factory = HttpServerFactory(
            self.answer, self.clock, throttle=RequestThrottle(self.clock, 1)
        )

    async def answer(self, incoming: ServerRequest) -> None:
        self.asked.append(incoming.head.target)
        incoming.respond(200, b"ok")

    def client(self, target: bytes) -> MemoryTransport:
        wire = MemoryTransport()
        wire.protocol = self.factory.buildProtocol(None)
        wire.protocol.makeConnection(wire)
        wire.protocol.dataReceived(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % target)
        return wire

    def test_each_is_answered(self) -> None:
        """In its turn."""
        wires = [self.client(b"/%d" % number) for number in range(3)]
        self.assertEqual(self.asked, [b"/0"])
        self.clock.turn()
        self.clock.turn()
        self.assertEqual(self.asked, [b"/0", b"/1", b"/2"])
        self.assertTrue(all(wire.take_written().endswith(b"ok") for wire in wires))

    def test_who_left_is_not_begun(self) -> None:
        """A client that leaves while it waits has asked for nothing."""
        self.client(b"/0")
        self.client(b"/1").disconnect()
        self.clock.turn()
        self.assertEqual(self.asked, [b"/0"])

    def test_nonsense_is_refused_in_its_turn(self) -> None:
        """And the next one is served."""
        self.client(b"/0")
        wire = self.client(b"/a b")
        self.client(b"/2")
        self.clock.turn()
        self.assertIn(b"HTTP/1.1 400", wire.take_written())
        self.clock.turn()
        self.assertEqual(self.asked, [b"/0", b"/2"])

    def test_pipelined(self) -> None:
        """Each in its turn; what follows a head that waits is kept."""
        wire = self.client(b"/0")
        for target in (b"/1", b"/2"):
            wire.protocol.dataReceived(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % target)
        for _ in range(3):
            self.clock.turn()
        self.assertEqual(self.asked, [b"/0", b"/1", b"/2"])
        self.assertEqual(wire.take_written().count(b"HTTP/1.1 200"), 3)
