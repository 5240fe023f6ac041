"""Two connections made one."""

from __future__ import annotations

from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.http.splice import CLOSE_TIMEOUT, HANGUP_POLL_INTERVAL, splice
from tests.unit.fakes import MemoryTransport


class SpliceTests(SynchronousTestCase):
    """One connection taken out of HTTP, and one made for it."""

    def setUp(self) -> None:
        self.taken, self.made = MemoryTransport(), MemoryTransport()
        self.hung_up: list[object] = []
        self.taken.protocol = Protocol()
        self.clock = Clock()
        self.made.protocol = Protocol()
        splice(
            self.taken,  # type: ignore[arg-type]
            self.made,  # type: ignore[arg-type]
            self.clock,
            b"101",
            b"read",
            has_hung_up=lambda transport: transport in self.hung_up,
        )

    def test_what_goes_first(self) -> None:
        """The answer that left HTTP, and what had been read before that."""
        self.assertEqual((self.made.take_written(), self.taken.take_written()), (b"read", b"101"))

    def test_both_ways(self) -> None:
        """Unchanged, and at once."""
        self.made.take_written(), self.taken.take_written()
        self.taken.protocol.dataReceived(b"\x00up")
        self.made.protocol.dataReceived(b"\xffdown")
        self.assertEqual(
            (self.made.take_written(), self.taken.take_written()), (b"\x00up", b"\xffdown")
        )

    def test_a_slow_reader_stops_the_other(self) -> None:
        """Each way for itself."""
        for slow, other in ((self.taken, self.made), (self.made, self.taken)):
            assert slow.producer is not None
            slow.producer.pauseProducing()
            self.assertEqual((other.producerState, slow.producerState), ("paused", "producing"))
            slow.producer.resumeProducing()
            self.assertEqual(other.producerState, "producing")

    def test_a_side_that_closes_while_the_other_is_full(self) -> None:
        """It is not read, so somebody has to look; then the other must not take for ever."""
        for full, closing in (("made", "taken"), ("taken", "made")):
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

    def test_a_side_that_was_only_slow(self) -> None:
        """Nobody looks any more."""
        assert self.taken.producer is not None
        self.taken.producer.pauseProducing()
        self.clock.advance(1)
        self.taken.producer.resumeProducing()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_side_that_closes(self) -> None:
        """The other closes too, after what was said; what it still says goes nowhere."""
        self.taken.take_written()
        self.made.protocol.dataReceived(b"last words")
        self.made.disconnect()
        self.assertEqual((self.taken.take_written(), self.taken.closed), (b"last words", "close"))
        self.made.take_written()
        self.taken.protocol.dataReceived(b"too late")
        self.assertEqual(self.made.take_written(), b"")
        self.taken.disconnect()
        self.assertEqual((self.made.closed, self.clock.getDelayedCalls()), ("", []))

    def test_a_side_that_does_not_take_the_last_words(self) -> None:
        """It is dropped after a while: its network may be gone without a word."""
        for closing, staying in (("made", "taken"), ("taken", "made")):
            self.setUp()
            side, other = getattr(self, closing), getattr(self, staying)
            side.protocol.dataReceived(b"last words")
            side.disconnect()
            self.clock.advance(CLOSE_TIMEOUT - 1)
            self.assertEqual(other.closed, "close")
            self.clock.advance(1)
            self.assertEqual(other.closed, "abort")
