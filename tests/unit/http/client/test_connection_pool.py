"""A client of HTTP/1.1: the bytes that a server gets, and what a sink gets of its response."""

from __future__ import annotations

import errno
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost, ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.errors import BadGateway, ClientDisconnected, OllamaDown
from ctllm.http.client.connection_pool import (
    IDLE_TIMEOUT,
    MAX_IDLE_CONNECTIONS,
    MAX_TOTAL_RETRY_BUFFER,
    ConnectionPool,
)
from ctllm.http.client.request import MAX_RETRY_BUFFER, ClientRequest
from ctllm.http.message.head import RequestHead, ResponseHead, get_header
from ctllm.http.message.response_parser import MAX_HEAD
from ctllm.http.server.request import ServerRequest
from ctllm.http.timeouts import DEFAULT_TIMEOUTS, HANDSHAKE_TIMEOUT
from tests.unit.fakes import (
    FakeEndpoint,
    FakeResponseSink,
    MemoryTlsTransport,
    MemoryTransport,
    ServedEndpoint,
)

GET = RequestHead(b"GET", b"/api/tags")
POST = RequestHead(b"POST", b"/api/chat", ((b"Content-Length", b"4"),))
UPLOAD = RequestHead(b"POST", b"/api/blobs/x", ((b"Transfer-Encoding", b"chunked"),))
UPGRADE = RequestHead(b"GET", b"/ws", ((b"Upgrade", b"websocket"), (b"Connection", b"Upgrade")))
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LEFT = ClientDisconnected("the client left")


class Case(SynchronousTestCase):
    """A pool, and the endpoint that it connects to."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.endpoint = FakeEndpoint()
        self.pool = ConnectionPool(
            self.endpoint, self.clock, "Ollama", OllamaDown, b"127.0.0.1:11434"
        )

    def start(self, head: RequestHead = GET) -> tuple[ClientRequest, FakeResponseSink]:
        sink = FakeResponseSink()
        request = self.pool.start_request(head, sink)
        return request, sink  # type: ignore[return-value]

    def send(
        self, head: RequestHead = GET
    ) -> tuple[ClientRequest, FakeResponseSink, MemoryTransport]:
        """Send a complete request on a new connection."""
        request, sink = self.start(head)
        transport = self.endpoint.accept()
        if head is POST:
            request.write(b"body")
        request.finish()
        return request, sink, transport

    def assert_failed(self, sink: FakeResponseSink, kind: type[Exception] = BadGateway) -> None:
        self.assertIsInstance(sink.outcome, kind)


class RequestTests(Case):
    """The bytes that the server gets."""

    def test_sends_head_and_body_with_a_host_added(self) -> None:
        _, _, transport = self.send(POST)
        self.assertEqual(
            transport.take_written(),
            b"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1:11434\r\nContent-Length: 4\r\n\r\nbody",
        )

    def test_keeps_a_host_header_that_is_given(self) -> None:
        _, _, transport = self.send(RequestHead(b"GET", b"/", ((b"hOst", b"elsewhere"),)))
        data = transport.take_written().lower()
        self.assertEqual((data.count(b"host:"), b"elsewhere" in data), (1, True))

    def test_buffers_the_body_until_connected_and_pauses_its_source(self) -> None:
        request, sink = self.start(UPLOAD)
        self.assertFalse(sink.may_send_body)
        request.write(b"one")
        request.write(b"two")
        request.finish()
        transport = self.endpoint.accept()
        self.assertTrue(sink.may_send_body)
        body = transport.take_written().partition(b"\r\n\r\n")[2]
        self.assertEqual(body, b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")

    def test_a_full_transport_pauses_the_body(self) -> None:
        request, sink = self.start(UPLOAD)
        transport = self.endpoint.accept()
        assert transport.producer is not None
        transport.producer.pauseProducing()
        self.assertFalse(sink.may_send_body)
        transport.producer.resumeProducing()
        self.assertTrue(sink.may_send_body)
        request.cancel(LEFT)

    def test_refuses_a_body_that_differs_from_its_content_length(self) -> None:
        for pieces in ([b"five!"], [b"abc"]):
            request, sink = self.start(POST)
            transport = self.endpoint.accept()
            for piece in pieces:
                request.write(piece)
            request.finish()
            self.assert_failed(sink)
            self.assertEqual(transport.closed, "abort")

    def test_refuses_a_head_with_a_line_break_in_a_header(self) -> None:
        request, sink = self.start(RequestHead(b"GET", b"/", ((b"X", b"a\r\nY: b"),)))
        transport = self.endpoint.accept()
        request.finish()
        self.assert_failed(sink)
        self.assertEqual((transport.take_written(), transport.closed), (b"", "abort"))

    def test_fails_with_the_error_of_the_pool_if_nobody_listens(self) -> None:
        _, sink = self.start()
        self.endpoint.refuse(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"))
        self.assert_failed(sink, OllamaDown)
        self.assertEqual(str(sink.outcome), "Cannot connect to Ollama: Connection refused.")


class TlsTests(SynchronousTestCase):
    """Over TLS the request follows the handshake."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.endpoint = FakeEndpoint()
        pool = ConnectionPool(self.endpoint, self.clock, "Ollama", OllamaDown)
        self.sink = FakeResponseSink()
        self.request = pool.start_request(GET, self.sink)
        self.request.finish()
        self.transport = self.endpoint.accept(MemoryTlsTransport())

    def over(self) -> None:
        self.assertIsInstance(self.sink.outcome, OllamaDown)
        self.assertEqual((self.transport.take_written(), self.clock.getDelayedCalls()), (b"", []))

    def test_sends_the_request_after_the_handshake(self) -> None:
        self.assertEqual(self.transport.take_written(), b"")
        self.transport.protocol.handshakeCompleted()
        self.assertTrue(self.transport.take_written().startswith(b"GET "))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.transport.protocol.dataReceived(OK)
        self.assertEqual(self.sink.outcome, "end")

    def test_aborts_after_the_handshake_timeout(self) -> None:
        self.clock.advance(HANDSHAKE_TIMEOUT - 1)
        self.assertIsNone(self.sink.outcome)
        self.clock.advance(1)
        self.assertEqual(self.transport.closed, "abort")
        self.transport.deliver_abort()
        self.over()

    def test_reports_why_the_handshake_failed(self) -> None:
        self.transport.disconnect(ConnectionLost("bad certificate"))
        self.over()
        self.assertIn("bad certificate", str(self.sink.outcome))

    def test_cancelling_aborts_the_handshake(self) -> None:
        self.request.cancel(LEFT)
        self.assertEqual(self.transport.closed, "abort")
        self.transport.deliver_abort()
        self.assertEqual((self.sink.outcome, self.clock.getDelayedCalls()), (None, []))


class ResponseTests(Case):
    """What the sink gets."""

    def test_passes_on_head_and_body_without_headers_of_the_connection(self) -> None:
        _, sink, transport = self.send()
        self.receive(transport, b"HTTP/1.1 404 Nope\r\nETag: 1\r\nX-A: 1\r\nKeep-Alive: 5\r\n")
        self.receive(transport, b"Content-Length: 5\r\n\r\nhel")
        self.assertEqual((bytes(sink.body), sink.outcome), (b"hel", None))
        self.receive(transport, b"lo")
        self.assertEqual((bytes(sink.body), sink.outcome), (b"hello", "end"))
        assert sink.head is not None
        self.assertEqual((sink.head.status, sink.head.reason), (404, b"Nope"))
        self.assertEqual(sink.head.headers[:2], ((b"ETag", b"1"), (b"Content-Length", b"5")))
        self.assertIsNone(get_header(sink.head.headers, b"x-a"))

    def receive(self, transport: MemoryTransport, data: bytes) -> None:
        transport.protocol.dataReceived(data)

    def test_parses_a_response_byte_by_byte(self) -> None:
        _, sink, transport = self.send()
        for byte in STREAM + b"5\r\none\n\n\r\n0\r\n\r\n":
            self.receive(transport, bytes([byte]))
        self.assertEqual((bytes(sink.body), sink.outcome), (b"one\n\n", "end"))

    def test_passes_chunks_on_as_they_arrive(self) -> None:
        _, sink, transport = self.send()
        self.receive(transport, STREAM + b"4\r\none\n\r\n")
        self.assertEqual((bytes(sink.body), sink.outcome), (b"one\n", None))

    def test_skips_interim_responses(self) -> None:
        """100 and 103."""
        _, sink, transport = self.send(POST)
        self.receive(transport, b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n")
        self.assertIsNone(sink.head)
        self.receive(transport, OK)
        self.assertEqual((sink.head and sink.head.status, sink.outcome), (200, "end"))

    def test_ends_a_response_without_a_body_after_its_head(self) -> None:
        """HEAD, 204 and 304, whatever length they name."""
        for head, status in (
            (RequestHead(b"HEAD", b"/"), b"200 OK"),
            (GET, b"204 No Content"),
            (GET, b"304 Not Modified"),
        ):
            request, sink = self.start(head)
            transport = (
                self.endpoint.accept() if self.endpoint.pending else self.endpoint.transports[-1]
            )
            request.finish()
            length = b"" if status.startswith(b"204") else b"Content-Length: 9\r\n"
            self.receive(transport, b"HTTP/1.1 " + status + b"\r\n" + length + b"\r\n")
            self.assertEqual((bytes(sink.body), sink.outcome), (b"", "end"), status)
        self.assertEqual(len(self.endpoint.transports), 1)

    def test_ends_a_close_delimited_response_when_the_server_closes(self) -> None:
        _, sink, transport = self.send()
        self.receive(transport, b"HTTP/1.0 200 OK\r\n\r\nall of it")
        self.assertIsNone(sink.outcome)
        transport.disconnect()
        self.assertEqual((bytes(sink.body), sink.outcome), (b"all of it", "end"))
        assert sink.head is not None
        self.assertEqual(get_header(sink.head.headers, b"ctllm-framing"), b"close-delimited")

    def test_fails_a_close_delimited_response_after_a_reset(self) -> None:
        _, sink, transport = self.send()
        self.receive(transport, b"HTTP/1.0 200 OK\r\n\r\nhalf of")
        transport.disconnect(ConnectionLost())
        self.assert_failed(sink)

    def test_fails_a_response_that_breaks_off(self) -> None:
        """Before the head, in it, in the body or in a chunk."""
        for data in (
            b"",
            b"HTTP/1.1 200 OK\r\nContent-",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
            STREAM,
            STREAM + b"5\r\nhel",
            STREAM + b"5\r\nhello\r\n",
        ):
            _, sink, transport = self.send()
            if data:
                self.receive(transport, data)
            transport.disconnect()
            self.assert_failed(sink)

    def test_fails_an_invalid_response_and_closes_the_connection(self) -> None:
        for data in (
            b"SSH-2.0-OpenSSH\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
            STREAM + b"zz\r\n",
            b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_HEAD,
        ):
            _, sink, transport = self.send()
            self.receive(transport, data)
            self.assert_failed(sink)
            self.assertEqual(transport.closed, "abort", data[:40])

    def test_fails_at_the_first_byte_that_is_not_http(self) -> None:
        """A server that waits for the client to speak first would wait for ever."""
        for data in (
            b"\x15\x03\x01\x00\x02\x02\x0a",  # an alert of TLS
            b"\x00",
            b"SSH-",
            b"220 mail.example ESMTP\r\n",
            b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
            b"HTTP/1.1 200 OK\r\nA: b\nC",
            b"HTTP/1.1 200 OK\r\nA: \0",
            b"HTTP/2",
            b"HTTP/1.1 99",
            b"HTTP/1.1 2000 ",
            b"{}",
        ):
            _, sink, transport = self.send()
            self.receive(transport, data)
            self.assert_failed(sink)
            self.assertEqual(transport.closed, "abort", data)

    def test_pausing_the_response_pauses_the_transport_even_before_it_connects(self) -> None:
        request, sink = self.start()
        request.pause_response()
        request.finish()
        transport = self.endpoint.accept()
        self.assertEqual(transport.producerState, "paused")
        request.resume_response()
        self.assertEqual(transport.producerState, "producing")
        request.pause_response()
        self.assertEqual(transport.producerState, "paused")
        request.cancel(LEFT)
        self.assertIsNone(sink.outcome)

    def test_a_response_before_the_end_of_the_request_ends_both(self) -> None:
        request, sink = self.start(UPLOAD)
        transport = self.endpoint.accept()
        request.write(b"one")
        self.receive(transport, b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        self.assertEqual((sink.head and sink.head.status, sink.outcome), (413, "end"))
        transport.take_written()
        for _ in range(3):
            request.write(b"more")
        request.finish()
        request.cancel(LEFT)
        self.assertEqual((transport.take_written(), transport.closed), (b"", "abort"))


class CancelTests(Case):
    """Cancelling closes the connection."""

    def test_cancels_the_connection_attempt(self) -> None:
        request, sink = self.start()
        request.finish()
        request.cancel(LEFT)
        self.assertEqual(self.endpoint.cancelled, 1)
        self.assertIsNone(sink.outcome)

    def test_aborts_a_connection_that_was_made_before_it_could_be_cancelled(self) -> None:
        """A sink may cancel while it is asked to wait for a connection that is already there."""

        class ConnectedEndpoint(FakeEndpoint):
            def connect(self, factory: Any) -> Deferred[Any]:
                connecting = super().connect(factory)
                self.accept()
                return connecting

        class CancellingSink(FakeResponseSink):
            def pause_request_body(self) -> None:
                request.cancel(LEFT)

        self.endpoint = ConnectedEndpoint()
        pool = ConnectionPool(self.endpoint, self.clock, "Ollama", OllamaDown)
        pool.start_request(GET, FakeResponseSink()).finish()
        first = self.endpoint.transports[0]
        first.protocol.dataReceived(OK)
        sink = CancellingSink()
        request = pool.start_request(GET, sink)
        first.disconnect()  # so that the request is sent again
        second = self.endpoint.transports[1]
        self.assertEqual((second.take_written(), second.closed), (b"", "abort"))
        self.assertIsNone(sink.outcome)

    def test_aborts_the_connection_in_every_phase(self) -> None:
        for sent, data in ((False, b""), (True, b""), (True, STREAM + b"4\r\none\n\r\n")):
            request, sink = self.start(UPLOAD)
            transport = self.endpoint.accept()
            if sent:
                request.finish()
            if data:
                transport.protocol.dataReceived(data)
            request.cancel(LEFT)
            self.assertEqual(transport.closed, "abort")
            transport.deliver_abort()
            self.assertIsNone(sink.outcome)
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_all_connections_of_a_server_that_is_gone_are_aborted(self) -> None:
        """Also one that was upgraded, which the pool does not read any more."""
        _, sink, streaming = self.send()
        streaming.protocol.dataReceived(STREAM)
        self.pool.upgrade(UPGRADE, FakeResponseSink(), lambda *_: None)
        upgraded = self.endpoint.accept()
        self.pool.abort()
        self.assertEqual((streaming.closed, upgraded.closed), ("abort", "abort"))
        streaming.deliver_abort()
        self.assert_failed(sink)

    def test_a_sink_that_cancels_in_write_gets_nothing_more(self) -> None:
        class Impatient(FakeResponseSink):
            def write(self, piece: bytes) -> None:
                super().write(piece)
                request.cancel(LEFT)

        sink = Impatient()
        request = self.pool.start_request(GET, sink)
        transport = self.endpoint.accept()
        request.finish()
        transport.protocol.dataReceived(STREAM + b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n")
        self.assertEqual((bytes(sink.body), sink.outcome, transport.closed), (b"ab", None, "abort"))

    def test_after_the_response_does_not_touch_the_connection(self) -> None:
        request, _, transport = self.send()
        transport.protocol.dataReceived(OK)
        other, sink = self.start()
        other.finish()
        request.cancel(LEFT)
        request.pause_response()
        self.assertEqual((transport.closed, transport.producerState), ("", "producing"))
        transport.protocol.dataReceived(OK)
        self.assertEqual(sink.outcome, "end")


class PersistentConnectionTests(Case):
    """Connections that are used again."""

    def idle_transport(self) -> MemoryTransport:
        _, sink, transport = self.send()
        transport.protocol.dataReceived(OK)
        self.assertEqual(sink.outcome, "end")
        return transport

    def assert_not_reused(self, transport: MemoryTransport) -> None:
        """The next request makes a new connection."""
        self.start()
        self.assertEqual(len(self.endpoint.pending), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_sends_the_next_request_on_the_same_connection(self) -> None:
        transport = self.idle_transport()
        transport.take_written()
        request, sink = self.start()
        request.finish()
        self.assertIn(b"GET /api/tags", transport.take_written())
        transport.protocol.dataReceived(STREAM + b"2\r\nhi\r\n0\r\n\r\n")
        self.assertEqual((bytes(sink.body), sink.outcome), (b"hi", "end"))
        self.assertEqual(len(self.endpoint.transports), 1)

    def test_reads_from_a_connection_that_was_released_while_paused(self) -> None:
        request, _, transport = self.send()
        request.pause_response()
        transport.protocol.dataReceived(OK)
        self.assertEqual(transport.producerState, "producing")

    def test_two_concurrent_requests_use_two_connections(self) -> None:
        self.send()
        self.send()
        self.assertEqual(len(self.endpoint.transports), 2)

    def test_closes_an_idle_connection_after_the_timeout(self) -> None:
        transport = self.idle_transport()
        self.clock.advance(IDLE_TIMEOUT - 0.1)
        self.assertEqual(transport.closed, "")
        self.clock.advance(0.1)
        self.assertEqual(transport.closed, "close")

    def test_does_not_use_a_connection_that_is_closing(self) -> None:
        transport = self.idle_transport()
        self.clock.advance(IDLE_TIMEOUT)
        self.assert_not_reused(transport)
        transport.deliver_abort()

    def test_aborts_an_idle_connection_that_receives_data(self) -> None:
        transport = self.idle_transport()
        transport.protocol.dataReceived(b"HTTP/1.1 408 Too slow\r\n\r\n")
        self.assertEqual(transport.closed, "abort")
        self.assert_not_reused(transport)
        transport.deliver_abort()

    def test_aborts_a_connection_with_data_after_the_response(self) -> None:
        _, sink, transport = self.send()
        transport.protocol.dataReceived(OK + OK)
        self.assertEqual((bytes(sink.body), sink.outcome), (b"ok", "end"))
        self.assertEqual(transport.closed, "abort")
        self.assert_not_reused(transport)

    def test_forgets_an_idle_connection_that_the_server_closed(self) -> None:
        transport = self.idle_transport()
        transport.disconnect()
        self.assert_not_reused(transport)

    def test_does_not_reuse_a_connection_after_connection_close(self) -> None:
        _, sink, transport = self.send()
        transport.protocol.dataReceived(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
        )
        self.assertEqual((sink.outcome, transport.closed), ("end", "abort"))
        self.assert_not_reused(transport)

    def test_aborts_connections_beyond_the_limit_of_idle_ones(self) -> None:
        transports = [self.send()[2] for _ in range(MAX_IDLE_CONNECTIONS + 1)]
        for transport in transports:
            transport.protocol.dataReceived(OK)
        self.assertEqual(
            [transport.closed for transport in transports], [""] * MAX_IDLE_CONNECTIONS + ["abort"]
        )
        self.pool.close()

    def test_close_aborts_idle_connections_and_leaves_requests_running(self) -> None:
        idle = self.idle_transport()
        first_call, busy = self.start()
        first_call.finish()
        _, _, other = self.send()
        other.protocol.dataReceived(OK)
        self.pool.close()
        self.assertEqual((idle.closed, other.closed), ("", "abort"))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        idle.protocol.dataReceived(OK)
        self.assertEqual(busy.outcome, "end")


class RetryTests(Case):
    """A server may close an idle connection at the moment when it is used again."""

    def start_on_idle(
        self, head: RequestHead = GET
    ) -> tuple[ClientRequest, FakeResponseSink, MemoryTransport]:
        """Start a request on an idle connection."""
        _, _, transport = self.send()
        transport.protocol.dataReceived(OK)
        transport.take_written()
        request, sink = self.start(head)
        self.assertEqual(self.endpoint.pending, [])
        return request, sink, transport

    def test_retries_a_request_without_a_body(self) -> None:
        for reason in (None, ConnectionLost()):
            request, sink, transport = self.start_on_idle()
            request.finish()
            transport.disconnect(reason)
            self.assertIsNone(sink.outcome)
            again = self.endpoint.accept()
            self.assertTrue(again.take_written().startswith(b"GET /api/tags HTTP/1.1\r\n"))
            again.protocol.dataReceived(OK)
            self.assertEqual((bytes(sink.body), sink.outcome), (b"ok", "end"))
            self.setUp()

    def test_retries_a_request_whose_body_is_buffered(self) -> None:
        request, sink, transport = self.start_on_idle(UPLOAD)
        request.write(b"one")
        self.assertTrue(transport.take_written().endswith(b"3\r\none\r\n"))
        transport.disconnect()
        self.assertFalse(sink.may_send_body)
        request.write(b"two")
        again = self.endpoint.accept()
        self.assertTrue(sink.may_send_body)
        request.write(b"six")
        request.finish()
        body = again.take_written().partition(b"\r\n\r\n")[2]
        self.assertEqual(body, b"3\r\none\r\n3\r\ntwo\r\n3\r\nsix\r\n0\r\n\r\n")
        again.protocol.dataReceived(OK)
        self.assertEqual(sink.outcome, "end")
        self.assertEqual(self.pool.retry_budget.reserved, 0)

    def test_does_not_retry_on_a_new_connection(self) -> None:
        request, sink, transport = self.start_on_idle(POST)
        request.write(b"body")
        request.finish()
        transport.disconnect()
        self.endpoint.accept().disconnect()
        self.assert_failed(sink)
        self.assertEqual((self.endpoint.pending, self.pool.retry_budget.reserved), ([], 0))

    def test_does_not_retry_after_the_first_byte_of_a_response(self) -> None:
        request, sink, transport = self.start_on_idle()
        request.finish()
        transport.protocol.dataReceived(b"H")
        transport.disconnect()
        self.assert_failed(sink)
        self.assertEqual((self.endpoint.pending, self.pool.retry_budget.reserved), ([], 0))

    def test_does_not_retry_beyond_the_limits_of_the_buffers(self) -> None:
        """One limit for a body, and one for all of a pool."""
        for size, held in ((MAX_RETRY_BUFFER + 1, 0), (10, MAX_TOTAL_RETRY_BUFFER)):
            self.pool.retry_budget.reserve(held)
            request, sink, transport = self.start_on_idle(UPLOAD)
            request.write(b"x" * size)
            transport.disconnect()
            self.assert_failed(sink, OllamaDown)
            self.assertEqual((self.endpoint.pending, self.pool.retry_budget.reserved), ([], held))
            self.setUp()

    def test_does_not_retry_a_request_with_invalid_framing(self) -> None:
        request, sink, _ = self.start_on_idle(POST)
        request.write(b"too long")
        self.assert_failed(sink, OllamaDown)
        self.assertEqual((self.endpoint.pending, self.pool.retry_budget.reserved), ([], 0))

    def test_cancelling_a_retry_cancels_the_connection_attempt(self) -> None:
        request, sink, transport = self.start_on_idle()
        request.finish()
        transport.disconnect()
        request.cancel(LEFT)
        self.assertEqual(self.endpoint.cancelled, 1)
        self.assertIsNone(sink.outcome)


class AgainstHttpServerTests(SynchronousTestCase):
    """With the product's server, over memory."""

    def test_uploads_of_unknown_length_share_a_connection(self) -> None:
        clock = Clock()

        async def echo(incoming: ServerRequest) -> None:
            body = await incoming.read_body(100)
            incoming.respond(200, body, ((b"X-Request-Id", incoming.head.method),))

        served = ServedEndpoint(echo, clock)
        pool = ConnectionPool(served, clock, "the echo", BadGateway)
        for number in (b"one", b"two", b"three"):
            sink = FakeResponseSink()
            request = pool.start_request(UPLOAD, sink)
            request.write(number)
            request.finish()
            served.flush()
            assert sink.head is not None
            self.assertEqual(get_header(sink.head.headers, b"x-request-id"), b"POST")
            self.assertEqual((bytes(sink.body), sink.outcome), (number, "end"))
        self.assertEqual(len(served.pumps), 1)
        pool.close()
        served.flush()
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_fails_a_response_that_the_server_broke_off(self) -> None:
        clock = Clock()

        async def breaking(incoming: ServerRequest) -> None:
            incoming.write_head(
                ResponseHead(200, b"OK", ((b"Content-Type", b"application/x-ndjson"),))
            )
            incoming.write(b'{"half":')
            raise OllamaDown("it died")

        served = ServedEndpoint(breaking, clock)
        sink = FakeResponseSink()
        ConnectionPool(served, clock, "it", BadGateway).start_request(GET, sink).finish()
        served.flush()
        self.assertEqual(bytes(sink.body), b'{"half":null,"error":"it died"}\n')
        clock.advance(DEFAULT_TIMEOUTS.error_flush)
        served.flush()
        self.assertIsInstance(sink.outcome, BadGateway)
