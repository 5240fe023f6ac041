"""One budget for all that a process holds: what has begun goes on, what is new is told to wait."""

from __future__ import annotations

from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from ctllm.common.memory_budget import BufferBudget, MemoryBudget
from ctllm.errors import TooManyRequests
from ctllm.http.message.head import RequestHead
from ctllm.http.server.memory_limiter import SOCKET_BUFFER_SIZE
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
from tests.unit.fakes import FakeResponseSink

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
