"""Two connections made one."""

from __future__ import annotations

from twisted.internet.protocol import Protocol
from twisted.trial.unittest import SynchronousTestCase

from ctllm.http.splice import Side, join
from tests.unit.pretend import Wire


class SpliceTests(SynchronousTestCase):
    """One connection taken out of HTTP, and one made for it."""

    def setUp(self) -> None:
        self.taken, self.made = Wire(), Wire()
        self.taken.protocol = Protocol()
        side = Side()
        self.made.protocol = side
        side.makeConnection(self.made)
        join(self.taken, side, b"head", b"read")  # type: ignore[arg-type]

    def test_what_goes_first(self) -> None:
        """The head, then what had been read before anybody knew where to."""
        self.assertEqual((self.made.said(), self.taken.said()), (b"headread", b""))

    def test_both_ways(self) -> None:
        """Unchanged, and at once."""
        self.made.said()
        self.taken.protocol.dataReceived(b"\x00up")
        self.made.protocol.dataReceived(b"\xffdown")
        self.assertEqual((self.made.said(), self.taken.said()), (b"\x00up", b"\xffdown"))

    def test_a_slow_reader_stops_the_other(self) -> None:
        """Each way for itself."""
        for slow, other in ((self.taken, self.made), (self.made, self.taken)):
            assert slow.producer is not None
            slow.producer.pauseProducing()
            self.assertEqual((other.producerState, slow.producerState), ("paused", "producing"))
            slow.producer.resumeProducing()
            self.assertEqual(other.producerState, "producing")

    def test_a_side_that_closes(self) -> None:
        """The other closes too, after what was said; what it still says goes nowhere."""
        self.made.protocol.dataReceived(b"last words")
        self.made.hang_up()
        self.assertEqual((self.taken.said(), self.taken.closed), (b"last words", "close"))
        self.made.said()
        self.taken.protocol.dataReceived(b"too late")
        self.assertEqual(self.made.said(), b"")
        self.taken.hang_up()
        self.assertEqual(self.made.closed, "")
