"""One budget for all that a process holds: what has begun goes on, what is new is told to wait."""

from __future__ import annotations

from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.common.memory_budget import BufferBudget, MemoryBudget
from ctllm.errors import TooManyRequests
from ctllm.http.message.head import RequestHead, ResponseHead
from ctllm.http.server.connection import HttpServerFactory
from ctllm.http.server.memory_limiter import REQUEST_MEMORY, SOCKET_BUFFER_SIZE, MemoryLimiter
from ctllm.http.server.request import ServerRequest
from ctllm.proxy.process_limits import BASE_MEMORY, MIN_BUDGET, memory_budget
from ctllm.tunnel.frames import (
    CONNECTION_ID,
    Desktop,
    FrameKind,
    Hello,
    encode_json_frame,
    encode_offset_frame,
)
from ctllm.tunnel.initiator import Initiator
from tests.unit.fakes import FakeRequestSink, FakeResponseSink, MemoryTransport

POST = b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE = 100 * SOCKET_BUFFER_SIZE


class Budgets(SynchronousTestCase):
    """The three marks."""

    def setUp(self) -> None:
        self.budget = MemoryBudget(1000)

    def test_beyond_half_nothing_begins(self) -> None:
        self.budget.admit(500)
        error = self.assertRaises(TooManyRequests, self.budget.admit, 1)
        self.assertEqual(error.status, 429)
        self.budget.release(1)
        self.budget.admit(1)

    def test_beyond_three_quarters_no_body_is_read(self) -> None:
        self.budget.reserve(700)
        self.assertTrue(self.budget.try_reserve(50))
        self.assertFalse(self.budget.try_reserve(1))
        self.assertTrue(self.budget.is_tight)
        self.assertEqual(self.budget.reserved, 750)

    def test_beyond_all_something_is_given_up(self) -> None:
        calls: list[int] = []
        self.budget.add_observer(
            mock.Mock(memory_exceeded=lambda: calls.append(self.budget.reserved))
        )
        self.budget.reserve(1000)
        self.assertEqual(calls, [])
        self.budget.reserve(1)
        self.assertEqual(calls, [1001])

    def test_room_is_told_of_below_the_mark_of_bodies(self) -> None:
        calls: list[int] = []
        self.budget.add_observer(
            mock.Mock(memory_released=lambda: calls.append(self.budget.reserved))
        )
        self.budget.reserve(900)
        self.budget.release(100)
        self.assertEqual(calls, [])
        self.budget.release(100)
        self.assertEqual(calls, [700])

    def test_of_a_process(self) -> None:
        """It fits into the memory that the process may have, and is never nothing."""
        self.assertEqual(memory_budget(BASE_MEMORY + 300), MIN_BUDGET)
        for megabytes in (128, 512, 4096):
            self.assertLess(BASE_MEMORY + memory_budget(megabytes << 20), megabytes << 20)

    def test_a_room_is_part_of_it(self) -> None:
        """What one place holds is held by all; when the whole is tight, so is the part."""
        room = BufferBudget(900, self.budget)
        room.reserve(100)
        self.assertEqual((self.budget.reserved, room.is_full), (100, False))
        self.budget.reserve(700)
        self.assertTrue(room.is_full)
        room.release(100)
        self.assertEqual(self.budget.reserved, 700)


class Tunnels(SynchronousTestCase):
    """The windows of requests."""

    def setUp(self) -> None:
        self.budget = MemoryBudget(1 << 20)
        self.initiator = Initiator(1 << 16, 30, 9, budget=self.budget)
        hello = Hello(1, 1 << 18, Desktop("d" * 32, "d"))
        self.initiator.receive_message(encode_json_frame(FrameKind.HELLO, CONNECTION_ID, hello))
        self.heard = FakeResponseSink()
        self.asking = self.initiator.start_request(RequestHead(b"POST", b"/"), self.heard)

    def test_acknowledged_bytes_are_free(self) -> None:
        self.asking.write(bytes(1000))
        self.initiator.next_message()
        self.assertEqual(self.budget.reserved, 1000)
        self.initiator.receive_message(encode_offset_frame(FrameKind.ACK, self.asking.id, 400))
        self.assertEqual(self.budget.reserved, 600)

    def test_however_it_ends_all_are(self) -> None:
        for end in (
            lambda: self.asking.cancel(TooManyRequests("left")),
            lambda: self.initiator.fail_all(TooManyRequests("gone")),
            lambda: (self.initiator.connection_lost(0), self.initiator.remove_expired(1000)),
        ):
            self.setUp()
            self.asking.write(bytes(1000))
            end()
            self.asking.write(bytes(1000))  # whoever has not heard yet
            self.assertEqual(self.budget.reserved, 0)


class Connections(SynchronousTestCase):
    """A server whose process may hold two megabytes."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.budget = MemoryBudget(2 << 20)
        limiter = MemoryLimiter(self.budget, self.clock)
        self.factory = HttpServerFactory(self.app, self.clock, memory_limiter=limiter)
        self.asked: list[ServerRequest] = []

    async def app(self, incoming: ServerRequest) -> None:
        incoming.reserve_memory()
        self.asked.append(incoming)
        await Deferred()

    def come(self, said: bytes = b"") -> MemoryTransport:
        server, wire = self.factory.buildProtocol(None), MemoryTransport()
        wire.protocol = server
        server.makeConnection(wire)
        server.dataReceived(said)
        return wire

    def upload(self, sent: int = SOCKET_BUFFER_SIZE // 2) -> MemoryTransport:
        return self.come(POST % LARGE + bytes(sent))

    def test_what_is_new_is_refused(self) -> None:
        """429 with Retry-After; who is under way goes on, and when it ends there is room again."""
        wires = [self.upload() for _ in range(60)]
        said = [wire.take_written() for wire in wires]
        refused = [each for each in said if each]
        self.assertTrue(0 < len(refused) < 60)
        for each in refused:
            self.assertTrue(each.startswith(b"HTTP/1.1 429 "), each)
            self.assertIn(b"\r\nRetry-After: 10\r\n", each)
        self.assertLessEqual(self.budget.reserved, self.budget.size * 3 // 4)
        for wire in wires:
            wire.disconnect()
        self.assertEqual(self.budget.reserved, 0)
        self.assertEqual(self.upload().take_written(), b"")

    def fill(self) -> list[MemoryTransport]:
        """As many uploads as are admitted, with room for one read of one of them."""
        count = self.budget.size // 2 // (REQUEST_MEMORY + SOCKET_BUFFER_SIZE)
        wires = [self.come(POST % LARGE) for _ in range(count)]
        free = self.budget.size * 3 // 4 - self.budget.reserved
        self.budget.reserve(free)
        return wires

    def test_bodies_wait_and_the_oldest_goes_on_first(self) -> None:
        """Who waits is not read; so no more comes than there is room for."""
        wires = self.fill()
        self.assertEqual({wire.producerState for wire in wires}, {"producing"})  # one read each
        for wire in reversed(wires):
            wire.protocol.dataReceived(bytes(SOCKET_BUFFER_SIZE - 1))
        self.assertEqual({wire.producerState for wire in wires}, {"paused"})
        self.assertLessEqual(self.budget.reserved, self.budget.size * 3 // 4)
        self.budget.release(2 * SOCKET_BUFFER_SIZE)
        self.clock.advance(0)
        states = [wire.producerState for wire in wires]
        self.assertEqual(states, ["producing"] * 2 + ["paused"] * (len(wires) - 2))

    def test_who_waits_may_leave(self) -> None:
        wires = self.fill()
        for wire in wires:
            wire.protocol.dataReceived(bytes(SOCKET_BUFFER_SIZE - 1))
        wires[0].disconnect()
        self.clock.advance(0)
        self.assertEqual(wires[1].producerState, "producing")
        for wire in wires[1:]:
            wire.disconnect()
        self.clock.advance(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_body_that_is_passed_on_is_not_held_here(self) -> None:
        """What its call holds, that counts."""
        wire = self.upload()
        self.assertEqual(
            self.budget.reserved, REQUEST_MEMORY + SOCKET_BUFFER_SIZE // 2 + SOCKET_BUFFER_SIZE
        )
        call = FakeRequestSink()
        self.asked[0].relay_to(call)
        self.assertEqual(sum(map(len, call.calls)), SOCKET_BUFFER_SIZE // 2)
        self.assertEqual(self.budget.reserved, REQUEST_MEMORY + SOCKET_BUFFER_SIZE)
        self.asked[0].write_head(ResponseHead(200, b"", ((b"Content-Length", b"0"),)))
        self.asked[0].finish()
        self.assertEqual(self.budget.reserved, 0)
        self.assertIn(b" 200 ", wire.take_written())

    def test_who_leaves_most_unread_is_cut_off(self) -> None:
        """When answers fill it all; the others' go on."""
        wires: list[Any] = [self.come(GET) for _ in range(3)]
        for number, (wire, incoming) in enumerate(zip(wires, self.asked, strict=True)):
            incoming.relay_to(FakeRequestSink())
            incoming.write_head(ResponseHead(200))
            wire.protocol.pauseProducing()
            incoming.write(bytes((number + 1) * 250_000))
        self.assertEqual([wire.closed for wire in wires], ["", "", ""])
        self.asked[0].write(bytes(400_000))
        self.assertEqual([wire.closed for wire in wires], ["", "", "abort"])
        wires[2].deliver_abort()
        wires[1].protocol.resumeProducing()
        wires[0].disconnect()
        self.assertEqual(self.budget.reserved, REQUEST_MEMORY)
        wires[1].disconnect()
        self.assertEqual(self.budget.reserved, 0)
