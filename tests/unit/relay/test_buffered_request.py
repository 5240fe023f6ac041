"""`ctllm.relay.buffered_request`: a request whose body is buffered until its upstream is known."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ctllm.common.memory_budget import BufferBudget
from ctllm.errors import ClientDisconnected, DesktopLost, DesktopOffline
from ctllm.http.interfaces import ResponseSink
from ctllm.http.message.content_coding import load_zstd
from ctllm.http.message.head import RequestHead, ResponseHead
from ctllm.ollama.model_sniffer import JsonModelSniffer
from ctllm.ollama.requested_model import create_model_sniffer
from ctllm.relay.buffered_request import BufferedRequest
from ctllm.relay.replay_buffer import ReplayBuffer
from ctllm.tunnel.flow_control import READ_SIZE
from tests.unit.fakes import FakeRequestSink, FakeResponseSink

WITH_MODEL = b'{"model":"m"}'
WITHOUT_MODEL = b'{"messages":["'
OK = ResponseHead(200)


class SlowRequestSink(FakeRequestSink):
    """An upstream that pauses the request body after every chunk."""

    sink: Any = None

    def write(self, chunk: bytes) -> None:
        super().write(chunk)
        self.sink.pause_request_body()


class BufferedRequestCase(SynchronousTestCase):
    """A buffered request, its client and its upstream."""

    def setUp(self) -> None:
        self.budget = BufferBudget(1 << 20)
        self.client = FakeResponseSink()
        self.upstream: FakeRequestSink = FakeRequestSink()
        self.models: list[str | None] = []
        self.upstream_sink: Any = None
        self.request = self.make()

    def make(self) -> BufferedRequest:
        return BufferedRequest(
            self.client,
            ReplayBuffer(self.budget),
            JsonModelSniffer(("model",)),
            lambda request: request.start(self.start),
        )

    def start(self, model: str | None, sink: ResponseSink) -> FakeRequestSink:
        self.models.append(model)
        self.upstream_sink = sink
        if isinstance(self.upstream, SlowRequestSink):
            self.upstream.sink = sink
        return self.upstream

    @property
    def body(self) -> bytes:
        """The part of the body that the upstream has."""
        return b"".join(chunk for chunk in self.upstream.calls if isinstance(chunk, bytes))


class BufferingTests(BufferedRequestCase):
    def test_model_in_the_first_chunk_starts_the_request_at_once(self) -> None:
        self.request.write(WITH_MODEL)
        self.assertEqual(
            (self.models, self.upstream.calls, self.budget.reserved), (["m"], [WITH_MODEL], 0)
        )
        self.request.write(b" ")
        self.request.finish()
        self.assertEqual(self.upstream.calls, [WITH_MODEL, b" ", "end"])

    def test_waits_for_a_second_model_name_for_64_kb(self) -> None:
        self.request.write(WITH_MODEL[:-1])
        self.assertEqual(self.models, [])
        self.request.write(b',"model":"n"}')
        self.assertEqual(self.models, ["n"])
        long = self.make()
        long.write(WITH_MODEL[:-1] + b',"x":"')
        long.write(b"x" * 65536)
        self.assertEqual(self.models, ["n", "m"])

    def test_memory_of_the_model_reader_is_released_at_the_end(self) -> None:
        half = load_zstd().compress(b'{"messages":["' + b"xyz" * 100)[:15]
        head = RequestHead(b"POST", b"/api/chat", ((b"Content-Encoding", b"zstd"),))
        for end in (
            lambda request: request.finish(),
            lambda request: request.cancel(ClientDisconnected("left")),
        ):
            budget = BufferBudget(1 << 30)
            finder = create_model_sniffer(head, budget)
            assert finder is not None
            request = BufferedRequest(
                self.client, ReplayBuffer(budget), finder, lambda request: request.start(self.start)
            )
            request.write(half)
            self.assertGreater(budget.reserved, 1 << 20)
            end(request)
            self.assertEqual(budget.reserved, 0)

    def test_buffered_body_is_sent_first_and_in_order(self) -> None:
        chunks = [WITHOUT_MODEL, b"x" * 200_000, b'"],"model":"m"', b"}"]
        for chunk in chunks[:2]:
            self.request.write(chunk)
        self.assertEqual((self.models, self.budget.reserved), ([], sum(map(len, chunks[:2]))))
        for chunk in chunks[2:]:
            self.request.write(chunk)
        self.request.finish()
        self.assertEqual((self.models, self.body), (["m"], b"".join(chunks)))
        self.assertEqual((self.upstream.calls[-1], self.budget.reserved), ("end", 0))
        self.assertLessEqual(max(map(len, self.upstream.calls[:-1])), READ_SIZE)

    def test_starts_without_a_model_when_the_body_has_none(self) -> None:
        for body in (b"", b"{}", b'{"x":1', b"--boundary"):
            self.upstream = FakeRequestSink()
            request = self.make()
            if body:
                request.write(body)
            request.finish()
            self.assertEqual((self.body, self.upstream.calls[-1]), (body, "end"))
        self.assertEqual((self.models, self.budget.reserved), ([None] * 4, 0))

    def test_starts_when_the_buffer_is_full(self) -> None:
        self.request = BufferedRequest(
            self.client,
            ReplayBuffer(self.budget, limit=1000),
            JsonModelSniffer(("model",)),
            lambda request: request.start(self.start),
        )
        self.request.write(WITHOUT_MODEL + b"x" * (999 - len(WITHOUT_MODEL)))
        self.assertEqual(self.models, [])
        self.request.write(b"x")
        self.assertEqual((self.models, len(self.body), self.budget.reserved), ([None], 1000, 0))

    def test_starts_when_all_requests_exhaust_the_budget(self) -> None:
        others = [self.make() for _ in range(15)]
        for other in others:
            other.write(WITHOUT_MODEL + bytes(65536))
        self.assertEqual(self.models, [])
        self.request.write(WITHOUT_MODEL + bytes(65536))
        self.assertEqual((self.models, len(self.body)), ([None], 65536 + len(WITHOUT_MODEL)))
        for other in others:
            other.cancel(ClientDisconnected("left"))
        self.assertEqual(self.budget.reserved, 0)

    def test_cancel_while_buffering_releases_the_memory(self) -> None:
        self.request.write(WITHOUT_MODEL)
        self.request.cancel(ClientDisconnected("left"))
        self.assertEqual((self.models, self.budget.reserved), ([], 0))

    def test_client_gets_the_error_when_no_request_can_start(self) -> None:
        error = DesktopOffline("none")

        def begin(model: str | None, sink: ResponseSink) -> FakeRequestSink:
            raise error

        request = BufferedRequest(
            self.client,
            ReplayBuffer(self.budget),
            JsonModelSniffer(("model",)),
            lambda r: r.start(begin),
        )
        request.write(WITHOUT_MODEL)
        request.write(b'"],"model":"m"}')
        self.assertEqual((self.client.outcome, self.budget.reserved), (error, 0))

    def test_pause_of_the_response_reaches_an_upstream_that_starts_later(self) -> None:
        self.request.pause_response()
        self.request.write(WITH_MODEL)
        self.assertEqual(self.upstream.calls, ["pause", WITH_MODEL])
        self.request.resume_response()
        self.request.pause_response()
        self.assertEqual(self.upstream.calls[2:], ["resume", "pause"])

    def test_resumed_response_is_not_paused_when_the_upstream_starts(self) -> None:
        self.request.pause_response()
        self.request.resume_response()
        self.request.write(WITH_MODEL)
        self.assertEqual(self.upstream.calls, [WITH_MODEL])


class SendingTests(BufferedRequestCase):
    def setUp(self) -> None:
        super().setUp()
        self.upstream = SlowRequestSink()
        self.whole = WITHOUT_MODEL + b"x" * 200_000 + b'"],"model":"m"}'
        self.request.write(self.whole)

    def test_buffer_is_sent_at_the_pace_of_the_upstream(self) -> None:
        self.assertEqual((len(self.upstream.calls), self.client.may_send_body), (1, False))
        self.assertEqual(self.budget.reserved, len(self.whole) - READ_SIZE)
        self.request.finish()
        while self.budget.reserved:
            self.assertNotIn("end", self.upstream.calls)
            self.upstream_sink.resume_request_body()
        self.assertEqual((self.body, self.upstream.calls[-1]), (self.whole, "end"))

    def test_data_that_arrives_while_sending_is_sent_after_the_buffer(self) -> None:
        self.request.write(b"more")
        self.assertEqual(len(self.upstream.calls), 1)
        while self.budget.reserved:
            self.assertFalse(self.client.may_send_body)
            self.upstream_sink.resume_request_body()
        self.assertFalse(self.client.may_send_body)
        self.upstream_sink.resume_request_body()
        self.assertTrue(self.client.may_send_body)
        self.request.write(b"last")
        self.request.finish()
        self.assertEqual(self.body, self.whole + b"morelast")
        self.assertEqual(self.upstream.calls.count("end"), 1)
        self.upstream_sink.resume_request_body()
        self.assertEqual(self.upstream.calls.count("end"), 1)

    def test_cancel_while_sending_cancels_the_upstream_request(self) -> None:
        error = ClientDisconnected("left")
        self.request.cancel(error)
        self.assertEqual((self.upstream.calls[-1], self.budget.reserved), (error, 0))

    def test_response_before_the_end_of_the_body_releases_the_memory(self) -> None:
        self.upstream_sink.write_head(OK)
        self.upstream_sink.write(b"no")
        self.upstream_sink.finish()
        self.assertEqual((bytes(self.client.body), self.client.outcome), (b"no", "end"))
        self.assertEqual(self.budget.reserved, 0)

    def test_failure_of_the_upstream_reaches_the_client_and_releases_the_memory(self) -> None:
        error = DesktopLost("gone")
        self.upstream_sink.fail(error)
        self.assertEqual((self.client.outcome, self.budget.reserved), (error, 0))
