"""`ctllm.tunnel.initiator`: the data that a stream buffers is reserved in the memory budget."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ctllm.common.memory_budget import MemoryBudget
from ctllm.errors import TooManyRequests
from ctllm.http.message.head import RequestHead
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


class InitiatorMemoryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.budget = MemoryBudget(1 << 20)
        self.initiator = Initiator(1 << 16, 30, 9, budget=self.budget)
        hello = Hello(1, 1 << 18, Desktop("d" * 32, "d"))
        self.initiator.receive_message(encode_json_frame(FrameKind.HELLO, CONNECTION_ID, hello))
        self.sink = FakeResponseSink()
        self.stream = self.initiator.start_request(RequestHead(b"POST", b"/"), self.sink)

    def test_releases_acknowledged_data(self) -> None:
        self.stream.write(bytes(1000))
        self.initiator.next_message()
        self.assertEqual(self.budget.reserved, 1000)
        self.initiator.receive_message(encode_offset_frame(FrameKind.ACK, self.stream.id, 400))
        self.assertEqual(self.budget.reserved, 600)

    def expire(self) -> None:
        self.initiator.connection_lost(0)
        self.initiator.remove_expired(1000)

    def test_releases_all_data_however_the_stream_ends(self) -> None:
        for end in (
            lambda: self.stream.cancel(TooManyRequests("left")),
            lambda: self.initiator.fail_all(TooManyRequests("gone")),
            self.expire,
        ):
            self.setUp()
            self.stream.write(bytes(1000))
            end()
            self.stream.write(bytes(1000))  # from a client that was not told yet
            self.assertEqual(self.budget.reserved, 0)
