"""One small question: the answer as a whole, in time, and not too large."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.errors import BadGateway, OllamaDown
from ctllm.http.client.fetch import get
from ctllm.http.message.head import RequestHead, ResponseHead
from tests.unit.fakes import FakeUpstream


class AskingTests(SynchronousTestCase):
    """Asked of an Upstream that the test answers for."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.upstream = FakeUpstream()
        self.asking: Deferred[tuple[int, bytes]] = Deferred.fromCoroutine(
            get(self.upstream, b"/x", self.clock, 5.0, 4)
        )
        self.caller, self.call = self.upstream.sinks[0], self.upstream.requests[0]

    def over(self) -> list[object]:
        """No timer is left; gives what the call was told."""
        self.assertEqual(self.clock.getDelayedCalls(), [])
        return self.call.calls

    def test_whole(self) -> None:
        """Status and body; an end that came by itself needs no cancel."""
        self.assertEqual(self.upstream.heads, [RequestHead(b"GET", b"/x")])
        self.caller.write_head(ResponseHead(404))
        self.caller.write(b"ab")
        self.caller.write(b"cd")
        self.assertNoResult(self.asking)
        self.caller.finish()
        self.assertEqual(self.successResultOf(self.asking), (404, b"abcd"))
        self.assertEqual(self.over(), ["end"])

    def test_failed(self) -> None:
        """With the error that it failed with."""
        self.caller.fail(OllamaDown("no"))
        self.failureResultOf(self.asking, OllamaDown)
        self.assertEqual(self.over(), ["end"])

    def test_too_large(self) -> None:
        """It is given up at the first byte too many, and not listened to any more."""
        self.caller.write_head(ResponseHead(200))
        self.caller.write(b"abcde")
        self.failureResultOf(self.asking, BadGateway)
        self.assertEqual(len(self.over()), 2)

    def test_too_late(self) -> None:
        """However much of it has come, and slowly: the time is for the whole."""
        self.caller.write_head(ResponseHead(200))
        self.clock.advance(4.9)
        self.caller.write(b"a")
        self.clock.advance(0.1)
        self.failureResultOf(self.asking, BadGateway)
        self.assertEqual(len(self.over()), 2)

    def test_cancelled(self) -> None:
        """So is the exchange."""
        self.asking.cancel()
        self.failureResultOf(self.asking, CancelledError)
        self.assertEqual(len(self.over()), 2)
