"""Two connections spliced into one."""

from __future__ import annotations

from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.http.splice import CLOSE_TIMEOUT, HANGUP_POLL_INTERVAL, splice
from tests.unit.fakes import MemoryTransport


class SpliceTests(SynchronousTestCase):
    """A connection that has left HTTP, and one that was made for it."""

    def setUp(self) -> None:
        self.client, self.upstream = MemoryTransport(), MemoryTransport()
        self.hung_up: list[object] = []
        self.client.protocol = Protocol()
        self.clock = Clock()
        self.upstream.protocol = Protocol()
        splice(
            self.client,
            self.upstream,
            self.clock,
            b"101",
            b"read",
            has_hung_up=lambda transport: transport in self.hung_up,
        )

    def test_writes_the_given_data_first(self) -> None:
        """The 101 response, and the data that was read with the request."""
        self.assertEqual(
            (self.upstream.take_written(), self.client.take_written()), (b"read", b"101")
        )

    def test_passes_data_both_ways_unchanged(self) -> None:
        self.upstream.take_written(), self.client.take_written()
        self.client.protocol.dataReceived(b"\x00up")
        self.upstream.protocol.dataReceived(b"\xffdown")
        self.assertEqual(
            (self.upstream.take_written(), self.client.take_written()), (b"\x00up", b"\xffdown")
        )

    def test_a_full_buffer_pauses_the_other_connection(self) -> None:
        for slow, other in ((self.client, self.upstream), (self.upstream, self.client)):
            assert slow.producer is not None
            slow.producer.pauseProducing()
            self.assertEqual((other.producerState, slow.producerState), ("paused", "producing"))
            slow.producer.resumeProducing()
            self.assertEqual(other.producerState, "producing")

    def test_aborts_a_full_connection_some_time_after_the_paused_one_hung_up(self) -> None:
        for full, closing in (("upstream", "client"), ("client", "upstream")):
            self.setUp()
            slow, other = getattr(self, full), getattr(self, closing)
            slow.producer.pauseProducing()
            self.clock.pump([HANGUP_POLL_INTERVAL] * 10)
            self.assertEqual((slow.closed, other.closed), ("", ""))
            self.hung_up.append(other)
            self.clock.pump([HANGUP_POLL_INTERVAL, CLOSE_TIMEOUT - 0.1])
            self.assertEqual((slow.closed, other.closed), ("", ""))
            self.clock.pump([0.1])
            self.assertEqual(slow.closed, "abort")

    def test_stops_polling_after_resumption(self) -> None:
        assert self.client.producer is not None
        self.client.producer.pauseProducing()
        self.clock.advance(1)
        self.client.producer.resumeProducing()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_closes_the_other_connection_after_its_data(self) -> None:
        self.client.take_written()
        self.upstream.protocol.dataReceived(b"last data")
        self.upstream.disconnect()
        self.assertEqual((self.client.take_written(), self.client.closed), (b"last data", "close"))
        self.upstream.take_written()
        self.client.protocol.dataReceived(b"too late")
        self.assertEqual(self.upstream.take_written(), b"")
        self.client.disconnect()
        self.assertEqual((self.upstream.closed, self.clock.getDelayedCalls()), ("", []))

    def test_aborts_a_connection_that_does_not_flush_in_time(self) -> None:
        for closing, staying in (("upstream", "client"), ("client", "upstream")):
            self.setUp()
            side, other = getattr(self, closing), getattr(self, staying)
            side.protocol.dataReceived(b"last data")
            side.disconnect()
            self.clock.advance(CLOSE_TIMEOUT - 1)
            self.assertEqual(other.closed, "close")
            self.clock.advance(1)
            self.assertEqual(other.closed, "abort")
