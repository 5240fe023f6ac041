"""`ctllm.http.server.connection`: what a client reads and sends, byte by byte."""

from __future__ import annotations

from ctllm.errors import CtllmError, DesktopLost, DesktopOffline
from ctllm.http.message.head import ResponseHead
from ctllm.http.message.request_parser import MAX_HEADERS
from ctllm.http.server.connection import READ_AHEAD, HttpServerFactory
from ctllm.http.server.request import Outcome, ServerRequest
from ctllm.http.timeouts import DEFAULT_TIMEOUTS, MAX_LINGER_EXTENSIONS
from tests.unit.fakes import MemoryTransport
from tests.unit.http.server.server_case import CHAT, CHUNKED, GET, NDJSON, UPLOAD, ServerCase


class StreamingTests(ServerCase):
    def test_sends_data_of_a_response_as_one_chunk_at_once(self) -> None:
        self.receive(CHAT)
        self.assertEqual(self.sinks[0].calls, [b"body", "end"])
        request = self.requests[0]
        request.write_head(NDJSON)
        self.assertTrue(self.take_written().endswith(b"\r\n\r\n"))
        request.write(b"one\n")
        self.assertEqual(self.take_written(), b"4\r\none\n\r\n")
        request.write(b"two\n")
        request.finish()
        self.assertEqual(self.take_written(), b"4\r\ntwo\n\r\n0\r\n\r\n")

    def test_passes_a_body_on_as_it_arrives(self) -> None:
        self.receive(b"POST /api/blobs/x HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\nab")
        self.assertEqual(self.sinks[0].calls, [b"ab"])
        self.receive(b"cdefgh")
        self.assertEqual(self.sinks[0].calls, [b"ab", b"cdefgh", "end"])

    def test_paused_body_is_read_ahead_up_to_a_limit(self) -> None:
        self.receive(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\n\r\n")
        self.requests[0].pause_request_body()
        self.receive(b"x" * (READ_AHEAD - 1))
        self.assertEqual(self.transport.producerState, "producing")
        self.receive(b"y")
        self.assertEqual(self.transport.producerState, "paused")
        self.assertEqual(self.sinks[0].calls, [])
        self.requests[0].resume_request_body()
        self.assertEqual(self.transport.producerState, "producing")
        self.assertEqual(sum(map(len, self.sinks[0].calls)), READ_AHEAD)

    def test_full_write_buffer_pauses_the_response_once(self) -> None:
        self.receive(CHAT)
        self.server.pauseProducing()
        self.server.pauseProducing()
        self.server.resumeProducing()
        self.assertEqual(self.sinks[0].calls[2:], ["pause", "resume"])

    def test_sends_100_continue_when_the_body_is_wanted(self) -> None:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        self.receive(head)
        self.assertEqual(self.take_written(), b"HTTP/1.1 100 Continue\r\n\r\n")
        self.receive(b"ok")
        self.assertEqual(self.sinks[0].calls, [b"ok", "end"])


class ResponseEndTests(ServerCase):
    def test_disconnect_cancels_the_request(self) -> None:
        self.receive(CHAT)
        self.requests[0].write_head(NDJSON)
        self.server.connectionLost()
        self.assertIsInstance(self.sinks[0].calls[-1], CtllmError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_error_before_the_response_is_a_complete_response(self) -> None:
        self.receive(CHAT)
        self.requests[0].fail(DesktopOffline("nobody is there"))
        written = self.take_written()
        self.assertIn(b"HTTP/1.1 503", written)
        self.assertIn(b"Retry-After: 5", written)
        self.assertTrue(written.endswith(b'{"error":"nobody is there"}'))
        self.assertEqual(self.transport.closed, "")

    def test_error_within_a_stream_is_its_last_line_and_no_last_chunk_follows(self) -> None:
        self.receive(CHAT)
        self.requests[0].write_head(NDJSON)
        self.requests[0].write(b'{"a":')
        self.take_written()
        self.requests[0].fail(DesktopLost("gone"))
        self.assertEqual(self.take_written(), b'15\r\nnull,"error":"gone"}\n\r\n')
        self.assertEqual(self.transport.closed, "")
        self.clock.advance(DEFAULT_TIMEOUTS.error_flush)
        self.assertEqual(self.transport.closed, "close")

    def test_response_with_a_length_breaks_off_without_an_error(self) -> None:
        self.receive(CHAT)
        head = ResponseHead(200, b"OK", ((b"Content-Length", b"10"),))
        self.requests[0].write_head(head)
        self.requests[0].write(b"half")
        self.take_written()
        self.requests[0].fail(DesktopLost("gone"))
        self.assertEqual((self.take_written(), self.transport.closed), (b"", "close"))

    def test_response_of_http_1_0_breaks_off_with_a_reset(self) -> None:
        self.receive(b"GET /api/tags HTTP/1.0\r\n\r\n")
        self.requests[0].write_head(NDJSON)
        self.take_written()
        self.requests[0].fail(DesktopLost("gone"))
        self.assertEqual((self.take_written(), self.transport.closed), (b'{"error":"gone"}\n', ""))
        self.clock.advance(DEFAULT_TIMEOUTS.error_flush)
        self.assertEqual(self.transport.closed, "abort")

    def test_close_delimited_response_ends_with_the_connection_or_a_reset(self) -> None:
        head = ResponseHead(200, b"OK", (*NDJSON.headers, (b"Ctllm-Framing", b"close-delimited")))
        for broken in (False, True):
            self.setUp()
            self.receive(CHAT)
            self.requests[0].write_head(head)
            written = self.take_written()
            self.assertIn(b"\r\nConnection: close\r\n", written)
            self.assertNotIn(b"Transfer-Encoding", written)
            self.assertNotIn(b"Ctllm-Framing", written)
            self.requests[0].write(b"{}\n")
            self.assertEqual(self.take_written(), b"{}\n")
            if broken:
                self.requests[0].fail(DesktopLost("gone"))
                self.assertEqual(self.take_written(), b'{"error":"gone"}\n')
                self.clock.advance(DEFAULT_TIMEOUTS.error_flush)
            else:
                self.requests[0].finish()
            self.assertEqual(self.transport.closed, "abort" if broken else "close")

    def test_internal_client_receives_a_close_delimited_response_in_chunks_with_a_header(
        self,
    ) -> None:
        self.connect(is_internal=True)
        self.receive(CHAT)
        self.requests[0].write_head(
            ResponseHead(200, b"OK", ((b"Ctllm-Framing", b"close-delimited"),))
        )
        written = self.take_written()
        self.assertIn(b"Ctllm-Framing: close-delimited\r\n", written)
        self.assertIn(b"Transfer-Encoding: chunked\r\n", written)
        self.requests[0].finish()
        self.assertEqual((self.take_written(), self.transport.closed), (b"0\r\n\r\n", ""))

    def test_response_204_has_no_length(self) -> None:
        """RFC 9110, section 8.6."""
        self.receive(CHAT)
        self.requests[0].write_head(ResponseHead(204, b"", ((b"Content-Length", b"0"),)))
        self.requests[0].finish()
        self.assertEqual(self.take_written(), b"HTTP/1.1 204 No Content\r\n\r\n")

    def test_response_shorter_than_its_length_breaks_off(self) -> None:
        self.receive(CHAT)
        self.requests[0].write_head(ResponseHead(200, b"OK", ((b"Content-Length", b"10"),)))
        self.requests[0].write(b"half")
        self.requests[0].finish()
        self.assertEqual(self.transport.closed, "close")

    def test_pipelined_requests_are_served_one_after_the_other(self) -> None:
        self.receive(CHAT + b"GET /two HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual(len(self.requests), 1)
        self.requests[0].respond(200, {})
        self.assertEqual(self.requests[1].head.target, b"/two")
        self.requests[1].respond(204)
        self.assertEqual(self.take_written().count(b"HTTP/1.1 20"), 2)
        self.assertEqual(self.transport.closed, "")

    def test_lingers_for_a_client_that_still_sends(self) -> None:
        self.receive(UPLOAD)
        self.requests[0].fail(DesktopOffline("no"))
        self.assertEqual(self.transport.closed, "half")
        self.assertIn(b"Connection: close", self.take_written())
        for _ in range(3):  # a slow one, who would lose the answer to a reset
            self.receive(b"more of it" * 200)
            self.clock.advance(DEFAULT_TIMEOUTS.linger)
            self.assertEqual(self.transport.closed, "half")
        self.clock.advance(DEFAULT_TIMEOUTS.linger)
        self.assertEqual(self.transport.closed, "abort")

    def test_lingers_for_a_limited_time(self) -> None:
        self.receive(UPLOAD)
        self.requests[0].fail(DesktopOffline("no"))
        for _ in range(MAX_LINGER_EXTENSIONS + 1):
            self.assertEqual(self.transport.closed, "half")
            self.receive(b"more of it" * 200)
            self.clock.advance(DEFAULT_TIMEOUTS.linger)
        self.assertEqual(self.transport.closed, "abort")

    def test_does_not_linger_longer_for_a_client_that_sends_little(self) -> None:
        self.receive(UPLOAD)
        self.requests[0].fail(DesktopOffline("no"))
        for _ in range(10):
            self.assertEqual(self.transport.closed, "half")
            self.receive(b"x")
            self.clock.advance(DEFAULT_TIMEOUTS.linger / 10)
        self.assertEqual(self.transport.closed, "abort")

    def test_connection_persists_after_an_unread_body_that_was_received(self) -> None:
        async def handler(request: ServerRequest) -> None:
            request.respond(404, {})

        server = HttpServerFactory(handler, self.clock).buildProtocol(None)
        transport = MemoryTransport()
        server.makeConnection(transport)
        for request in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", CHAT, CHAT + CHAT):
            server.dataReceived(request)
        self.assertEqual(transport.value().count(b"HTTP/1.1 404"), 4)
        self.assertEqual(transport.closed, "")

    def test_slow_client_may_read_its_response_to_the_end(self) -> None:
        for close in (b"", b"Connection: close\r\n"):
            self.setUp()
            self.receive(b"GET / HTTP/1.1\r\nHost: x\r\n" + close + b"\r\n")
            self.server.pauseProducing()
            self.requests[0].respond(200, {})
            self.clock.advance(DEFAULT_TIMEOUTS.flush - 1)
            self.assertNotEqual(self.transport.closed, "abort")
            self.clock.advance(DEFAULT_TIMEOUTS.flush)
            self.assertEqual(self.transport.closed, "abort")

    def test_response_to_head_has_no_body(self) -> None:
        self.receive(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
        self.requests[0].write_head(ResponseHead(200, b"OK", ((b"Content-Length", b"17"),)))
        self.requests[0].finish()
        written = self.take_written()
        self.assertIn(b"Content-Length: 17", written)
        self.assertTrue(written.endswith(b"\r\n\r\n"))
        self.assertEqual(self.transport.closed, "")


class PipeliningTests(ServerCase):
    def test_full_write_buffer_stops_the_reading_of_requests(self) -> None:
        self.server.pauseProducing()
        self.receive(GET * 5000)
        self.assertEqual(self.requests, [])
        self.assertEqual(self.transport.producerState, "paused")
        self.server.resumeProducing()
        self.assertEqual(len(self.requests), 1)

    def test_pipelined_requests_are_read_ahead_up_to_a_limit(self) -> None:
        received = 0
        for _ in range(100):
            for _ in range(20):
                if self.transport.producerState == "producing":
                    self.receive(GET * 200)
                    received += len(GET * 200)
            self.requests[-1].respond(200, {})
        self.assertLess(received - len(GET) * len(self.requests), 2 * READ_AHEAD)
        self.assertEqual(len(self.requests), 101)

    def test_client_that_never_reads_is_disconnected_in_time(self) -> None:
        self.receive(GET)
        self.server.pauseProducing()
        self.requests[0].respond(200, {})
        self.receive(GET)
        for _ in range(int(DEFAULT_TIMEOUTS.head + DEFAULT_TIMEOUTS.flush)):
            self.clock.advance(1)
            self.receive(GET)
        self.assertEqual(self.transport.closed, "abort")
        self.assertEqual(len(self.requests), 1)


class CostTests(ServerCase):
    def test_refuses_more_headers_than_the_maximum(self) -> None:
        self.connect(max_head_bytes=65536)
        head = GET[:-2] + b"a:b\r\n" * (MAX_HEADERS - 1)
        self.receive(head + b"\r\n")
        self.assertEqual(len(self.requests), 1)
        self.requests[0].respond(200, {})
        self.take_written()
        self.receive(head + b"a:b\r\n\r\n")
        self.assertIn(b" 431 ", self.take_written())

    def test_unwanted_body_in_tiny_chunks_is_not_read_to_its_end(self) -> None:
        async def handler(request: ServerRequest) -> None:
            self.requests.append(request)

        self.handler = handler
        self.receive(CHUNKED + b"1\r\nx\r\n" * 9000 + b"0\r\n\r\n" + GET)
        self.requests[0].respond(200, {})
        written = self.take_written()
        self.assertIn(b"Connection: close", written)
        self.assertEqual(self.transport.closed, "half")
        self.assertEqual(len(self.requests), 1)

    def test_malformed_body_ends_the_request_once(self) -> None:
        outcomes: list[Outcome] = []
        self.receive(CHUNKED + b"1\r\nx\r\n")
        self.requests[0].add_observer(outcomes.append)
        self.receive(b"nonsense\r\n")
        self.assertIn(b" 400 ", self.take_written())
        self.assertEqual(outcomes, [Outcome.CLIENT_DISCONNECTED])


class SlowBodyTests(ServerCase):
    def start_body(self) -> None:
        self.receive(b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")

    def test_body_may_arrive_slowly(self) -> None:
        self.start_body()
        for _ in range(500):
            self.receive(b"x")
            self.clock.advance(DEFAULT_TIMEOUTS.body_idle * 0.9)
        self.assertEqual(self.transport.closed, "")

    def test_refuses_a_body_that_stops_arriving(self) -> None:
        self.start_body()
        self.clock.pump([1.0] * int(2 * DEFAULT_TIMEOUTS.body_idle))
        self.assertIn(b"HTTP/1.1 408 ", self.take_written())
        self.assertNotIn("end", self.sinks[0].calls)
        self.assertTrue(self.requests[0].is_disconnected)

    def test_paused_body_does_not_time_out(self) -> None:
        self.start_body()
        self.requests[0].pause_request_body()
        self.clock.pump([DEFAULT_TIMEOUTS.body_idle] * 20)
        self.assertEqual(self.transport.closed, "")

    def test_response_does_not_time_out(self) -> None:
        self.start_body()
        self.receive(b"x" * 1000)
        self.clock.pump([DEFAULT_TIMEOUTS.body_idle] * 20)
        self.requests[0].write_head(ResponseHead(200, b"", NDJSON.headers))
        self.requests[0].finish()
        self.assertEqual(self.transport.closed, "")
        self.assertTrue(self.take_written().endswith(b"0\r\n\r\n"))
