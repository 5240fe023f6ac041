"""Small requests whose response is read as a whole."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.errors import BadGateway, OllamaDown
from ctllm.http.client.fetch import get
from ctllm.http.message.head import RequestHead, ResponseHead
from tests.unit.fakes import FakeUpstream


class FetchTests(SynchronousTestCase):
    """With an Upstream whose response the test writes."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.upstream = FakeUpstream()
        self.fetching: Deferred[tuple[int, bytes]] = Deferred.fromCoroutine(
            get(self.upstream, b"/x", self.clock, 5.0, 4)
        )
        self.sink, self.request = self.upstream.sinks[0], self.upstream.requests[0]

    def request_calls(self) -> list[object]:
        """Check that no timer is left, and return the calls of the request."""
        self.assertEqual(self.clock.getDelayedCalls(), [])
        return self.request.calls

    def test_returns_status_and_body(self) -> None:
        self.assertEqual(self.upstream.heads, [RequestHead(b"GET", b"/x")])
        self.sink.write_head(ResponseHead(404))
        self.sink.write(b"ab")
        self.sink.write(b"cd")
        self.assertNoResult(self.fetching)
        self.sink.finish()
        self.assertEqual(self.successResultOf(self.fetching), (404, b"abcd"))
        self.assertEqual(self.request_calls(), ["end"])

    def test_raises_the_error_of_the_upstream(self) -> None:
        self.sink.fail(OllamaDown("no"))
        self.failureResultOf(self.fetching, OllamaDown)
        self.assertEqual(self.request_calls(), ["end"])

    def test_cancels_a_response_over_the_maximum_size(self) -> None:
        self.sink.write_head(ResponseHead(200))
        self.sink.write(b"abcde")
        self.failureResultOf(self.fetching, BadGateway)
        self.assertEqual(len(self.request_calls()), 2)

    def test_cancels_a_response_that_is_not_complete_in_time(self) -> None:
        """However much of it has arrived."""
        self.sink.write_head(ResponseHead(200))
        self.clock.advance(4.9)
        self.sink.write(b"a")
        self.clock.advance(0.1)
        self.failureResultOf(self.fetching, BadGateway)
        self.assertEqual(len(self.request_calls()), 2)

    def test_cancelling_cancels_the_request(self) -> None:
        self.fetching.cancel()
        self.failureResultOf(self.fetching, CancelledError)
        self.assertEqual(len(self.request_calls()), 2)
