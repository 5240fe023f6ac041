"""A response in chunks from one HTTP server to the client of another, past parser and writer."""

from __future__ import annotations

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.errors import OllamaDown, Unauthorized
from ctllm.http.client.connection_pool import ConnectionPool
from ctllm.http.server.connection import HttpServerFactory
from ctllm.http.server.request import Outcome, ServerRequest
from ctllm.http.timeouts import DEFAULT_TIMEOUTS
from tests.unit.fakes import FakeEndpoint, SocketTransport

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
)
CHAT = b"GET /api/chat HTTP/1.1\r\nHost: x\r\n\r\n"
LINE = b'{"done":false}\n'


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class SplicedResponseTests(SynchronousTestCase):
    """The request of a client, relayed to an upstream; both connections have sockets."""

    def setUp(self, request: bytes = CHAT) -> None:
        self.clock, endpoint = Clock(), FakeEndpoint()
        self.pool = ConnectionPool(endpoint, self.clock, "the proxy", OllamaDown)
        self.outcomes: list[Outcome] = []
        self.client, self.upstream = SocketTransport(), SocketTransport()
        server = HttpServerFactory(self.relay, self.clock).buildProtocol(None)
        self.client.protocol = server
        server.makeConnection(self.client)
        self.client.receive(request)
        endpoint.accept(self.upstream)
        self.written: list[bytes] = []

    async def relay(self, request: ServerRequest) -> None:
        self.request = request
        self.write = request.write
        request.write = self.record_write
        request.add_observer(self.outcomes.append)
        request.relay_to(self.pool.start_request(request.head, request, request.splice))

    def record_write(self, data: bytes) -> None:
        """Record what passes the writer of the response."""
        self.written.append(data)
        self.write(data)

    def begin(self, head: bytes = HEAD) -> None:
        """Receive the head of the response, and a line."""
        self.upstream.receive(head, chunk(LINE))
        self.client.flush()
        self.written.clear()

    def test_whole_lines_pass_as_they_are(self) -> None:
        self.begin()
        self.upstream.receive(chunk(LINE), chunk(b"x\n"))
        self.assertEqual((self.client.flush(), self.written), (chunk(LINE) + chunk(b"x\n"), []))

    def test_ends_and_keeps_both_connections(self) -> None:
        self.begin()
        self.upstream.receive(chunk(LINE), b"0\r\n\r\n")
        self.assertEqual(self.client.flush(), chunk(LINE) + b"0\r\n\r\n")
        self.assertEqual(self.outcomes, [Outcome.COMPLETED])
        self.client.receive(CHAT)
        self.upstream.receive(HEAD + chunk(b"second\n"), chunk(LINE), b"0\r\n\r\n")
        self.assertTrue(
            self.client.flush().endswith(chunk(b"second\n") + chunk(LINE) + b"0\r\n\r\n")
        )
        self.assertEqual((self.client.closed, self.upstream.closed), ("", ""))

    def test_a_chunk_in_parts_is_framed_again_and_the_next_passes(self) -> None:
        self.begin()
        framed = chunk(LINE)
        for cut in range(1, len(framed)):
            self.upstream.receive(framed[:cut], framed[cut:], chunk(b"next\n"))
            self.assertEqual(self.client.flush(), framed + chunk(b"next\n"))
            self.assertEqual(self.written, [LINE])
            self.written.clear()

    def test_several_chunks_in_a_read_pass_as_they_are(self) -> None:
        self.begin()
        self.upstream.receive(chunk(LINE) * 3, chunk(LINE) + chunk(LINE)[:5], chunk(LINE)[5:])
        self.assertEqual(self.client.flush(), chunk(LINE) * 5)
        self.assertEqual(self.written, [LINE, LINE])

    def test_invalid_chunks_abort_the_upstream_and_break_the_response_off(self) -> None:
        for data in (
            b"5\r\nabcdef\r\n",
            b"z\r\n",
            b"-1\r\na\r\n",
            b"5\nabcde\n",
            b"HTTP/1.1 200 OK\r\n",
        ):
            self.setUp()
            self.begin()
            self.upstream.receive(chunk(LINE), data)
            sent = self.client.flush()
            self.assertTrue(sent.startswith(chunk(LINE)))
            self.assertIn(b'{"error":', sent)
            self.assertNotIn(b"\r\n0\r\n\r\n", sent)
            self.clock.advance(DEFAULT_TIMEOUTS.error_flush)
            self.assertEqual((self.upstream.closed, self.client.closed), ("abort", "close"))
            self.assertEqual(self.outcomes, [Outcome.FAILED])

    def test_data_after_the_response_reaches_no_client(self) -> None:
        self.begin()
        self.upstream.receive(chunk(LINE), b"0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n")
        self.assertEqual(self.client.flush(), chunk(LINE) + b"0\r\n\r\n")
        self.assertEqual(self.upstream.closed, "abort")

    def test_an_error_follows_the_last_line_where_the_upstream_closes(self) -> None:
        for reason in (ConnectionDone(), ConnectionLost()):
            self.setUp()
            self.begin()
            self.upstream.receive(chunk(LINE))
            self.upstream.disconnect(reason)
            sent = self.client.flush()
            self.assertTrue(sent.startswith(chunk(LINE)))
            self.assertIn(b'\r\n{"error":', sent[len(chunk(LINE)) :])
            self.assertNotIn(b"\r\n0\r\n\r\n", sent)
            self.clock.advance(DEFAULT_TIMEOUTS.error_flush)
            self.assertEqual(self.client.closed, "close")

    def test_no_second_error_follows_a_line_that_is_one(self) -> None:
        self.begin()
        self.upstream.receive(chunk(b'{"error":"out of memory"}\n'))
        self.upstream.disconnect()
        self.assertEqual(self.client.flush(), chunk(b'{"error":"out of memory"}\n'))
        self.assertEqual(self.client.closed, "close")

    def test_no_second_error_follows_one_that_came_in_two_chunks(self) -> None:
        self.begin()
        self.upstream.receive(chunk(b'{"error":'), chunk(b'"out of memory"}\n'))
        self.client.flush()
        self.upstream.disconnect()
        self.assertEqual((self.client.flush(), self.client.closed), (b"", "close"))

    def test_data_within_a_chunk_is_not_taken_for_a_chunk(self) -> None:
        self.begin()
        reads = (chunk(LINE), b"0\r\n\r\n")
        inside = b"".join(reads)
        self.upstream.receive(b"%x\r\n" % len(inside), *reads, b"\r\n")
        self.assertEqual(self.client.flush(), chunk(inside))

    def test_a_client_that_leaves_during_a_write_gets_no_splice(self) -> None:
        self.begin()
        self.request.write = lambda data: self.client.disconnect()
        self.upstream.receive(chunk(b"not a line"))
        self.assertEqual(self.upstream.closed, "abort")

    def test_an_incomplete_line_is_completed_with_the_error(self) -> None:
        """Lines that are split over chunks do not pass the writer by."""
        self.begin()
        self.upstream.receive(chunk(LINE), chunk(b'{"a":'), chunk(b'"b'))
        self.assertEqual(self.written, [b'{"a":', b'"b'])
        self.upstream.disconnect()
        self.assertIn(b'","error":', self.client.flush())

    def test_a_revoked_request_breaks_off(self) -> None:
        self.begin()
        self.upstream.receive(chunk(LINE))
        self.request.abort(Unauthorized("Revoked."))
        self.upstream.receive(chunk(LINE))
        sent = self.client.flush()
        self.assertTrue(sent.startswith(chunk(LINE)))
        self.assertIn(b'{"error":"Revoked."', sent[len(chunk(LINE)) :])
        self.assertEqual((sent.count(LINE), self.upstream.closed), (1, "abort"))
        self.assertNotIn(b"\r\n0\r\n\r\n", sent)

    def test_a_client_that_leaves_cancels_the_request(self) -> None:
        self.begin()
        self.client.disconnect()
        self.assertEqual(self.upstream.closed, "abort")
        self.assertEqual(self.outcomes, [Outcome.CLIENT_DISCONNECTED])

    def test_a_client_that_does_not_read_pauses_the_upstream(self) -> None:
        self.begin()
        self.client.socket.room = 4
        self.upstream.receive(chunk(LINE), chunk(b"next\n"))
        producer = self.client.producer
        assert producer is not None
        producer.pauseProducing()
        self.assertEqual(self.upstream.producerState, "paused")
        self.assertEqual(self.client.flush(), chunk(LINE) + chunk(b"next\n"))
        self.client.socket.room = 1000
        producer.resumeProducing()
        self.assertEqual(self.upstream.producerState, "producing")
        self.written.clear()
        self.upstream.receive(chunk(LINE), chunk(LINE))
        self.assertEqual((self.client.flush(), self.written), (chunk(LINE) * 2, []))

    def test_parts_of_a_body_that_is_not_in_lines_pass_as_they_are(self) -> None:
        self.begin(HEAD.replace(b"application/x-ndjson", b"application/octet-stream"))
        self.upstream.receive(chunk(b"abc"), chunk(b"def"))
        self.assertEqual((self.client.flush(), self.written), (chunk(b"abc") + chunk(b"def"), []))
        self.upstream.disconnect()
        self.assertEqual((self.client.flush(), self.client.closed), (b"", "close"))

    def test_responses_that_the_client_gets_in_another_framing_do_not_pass(self) -> None:
        old_client = CHAT.replace(b"1.1", b"1.0")
        sized = HEAD.replace(b"Transfer-Encoding: chunked", b"Content-Length: 15")
        endless = HEAD.replace(b"Transfer-Encoding: chunked\r\n", b"")
        for request, head, reads, body in (
            (old_client, HEAD, (chunk(LINE), chunk(LINE)), LINE * 2),
            (CHAT, sized, (LINE,), LINE),
            (CHAT, endless, (LINE, LINE), LINE * 2),
        ):
            self.setUp(request)
            self.upstream.receive(head, *reads)
            self.assertNotIn("doRead", vars(self.upstream))
            self.assertEqual(self.client.flush().partition(b"\r\n\r\n")[2], body)

    def test_nothing_follows_a_head_that_has_no_body(self) -> None:
        for request, head in (
            (CHAT.replace(b"GET", b"HEAD"), HEAD),
            (CHAT, HEAD.replace(b"200", b"204")),
            (CHAT, HEAD.replace(b"200", b"304")),
        ):
            self.setUp(request)
            self.upstream.receive(head, chunk(LINE))
            self.assertEqual(self.client.flush().partition(b"\r\n\r\n")[2], b"")
            self.assertEqual((self.outcomes, self.upstream.closed), ([Outcome.COMPLETED], "abort"))
