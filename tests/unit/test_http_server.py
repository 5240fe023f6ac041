"""The serving side of HTTP: what a client sees, byte by byte."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from ctllm.errors import (
    ClientDisconnected,
    ContentTooLarge,
    CtllmError,
    DesktopLost,
    DesktopOffline,
    MethodNotAllowed,
    ServiceUnavailable,
    Unauthorized,
)
from ctllm.http.message.head import Headers, RequestHead, ResponseHead
from ctllm.http.server.connection import READ_AHEAD, HttpServerFactory, RequestHandler
from ctllm.http.server.request import ServerRequest
from ctllm.http.timeouts import DEFAULT_TIMEOUTS, MAX_LINGER_EXTENSIONS
from tests.unit.fakes import FakeRequestSink

NDJSON = ResponseHead(200, b"OK", ((b"Content-Type", b"application/x-ndjson"),))
CHAT = b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"


class Transport(StringTransport):
    """A StringTransport that says how it was closed."""

    closed = ""

    def loseConnection(self) -> None:
        self.closed = self.closed or "close"
        super().loseConnection()

    def abortConnection(self) -> None:
        self.closed = "abort"
        super().abortConnection()

    def loseWriteConnection(self) -> None:
        self.closed = "half"


class Served(SynchronousTestCase):
    """A connection whose requests a test answers."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.response_headers: Headers = ()
        self.handler: RequestHandler = self.relay
        self.incoming: list[ServerRequest] = []
        self.calls: list[FakeRequestSink] = []
        self.connect()

    def connect(self, max_head_bytes: int = 1000, is_internal: bool = False) -> None:
        """Make a new connection."""
        factory = HttpServerFactory(
            lambda request: self.handler(request),
            self.clock,
            max_head_bytes=max_head_bytes,
            response_headers=lambda head: self.response_headers,
            is_internal=is_internal,
        )
        self.server = factory.buildProtocol(None)
        self.transport = Transport()
        self.server.makeConnection(self.transport)

    async def relay(self, request: ServerRequest) -> None:
        """Relay a request to a fake sink."""
        self.incoming.append(request)
        sink = FakeRequestSink()
        self.calls.append(sink)
        request.relay_to(sink)

    def say(self, data: bytes) -> None:
        self.server.dataReceived(data)

    def said(self) -> bytes:
        value: bytes = self.transport.value()
        self.transport.clear()
        return value


class Streaming(Served):
    """Bodies pass piece by piece."""

    def test_each_piece_is_a_chunk_of_its_own(self) -> None:
        """Lines leave as they come, and the end is the last chunk."""
        self.say(CHAT)
        self.assertEqual(self.calls[0].calls, [b"body", "end"])
        incoming = self.incoming[0]
        incoming.write_head(NDJSON)
        self.assertTrue(self.said().endswith(b"\r\n\r\n"))
        incoming.write(b"one\n")
        self.assertEqual(self.said(), b"4\r\none\n\r\n")
        incoming.write(b"two\n")
        incoming.finish()
        self.assertEqual(self.said(), b"4\r\ntwo\n\r\n0\r\n\r\n")

    def test_work_begins_when_the_head_is_in(self) -> None:
        """An upload is passed on as it comes, not when it is whole."""
        self.say(b"POST /api/blobs/x HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\nab")
        self.assertEqual(self.calls[0].calls, [b"ab"])
        self.say(b"cdefgh")
        self.assertEqual(self.calls[0].calls, [b"ab", b"cdefgh", "end"])

    def test_a_busy_upstream_stops_the_reading_of_the_body(self) -> None:
        """Beyond a little read-ahead the socket is left alone until there is room."""
        self.say(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\n\r\n")
        self.incoming[0].pause_request_body()
        self.say(b"x" * (READ_AHEAD - 1))
        self.assertEqual(self.transport.producerState, "producing")
        self.say(b"y")
        self.assertEqual(self.transport.producerState, "paused")
        self.assertEqual(self.calls[0].calls, [])
        self.incoming[0].resume_request_body()
        self.assertEqual(self.transport.producerState, "producing")
        self.assertEqual(sum(map(len, self.calls[0].calls)), READ_AHEAD)  # type: ignore[arg-type]

    def test_a_slow_client_pauses_the_answer(self) -> None:
        """The transport's pause reaches the call, once, and so does its resumption."""
        self.say(CHAT)
        self.server.pauseProducing()
        self.server.pauseProducing()
        self.server.resumeProducing()
        self.assertEqual(self.calls[0].calls[2:], ["pause", "resume"])

    def test_expecting_clients_are_told_to_continue_once_wanted(self) -> None:
        """100 Continue comes when the body has somewhere to go."""
        head = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        self.say(head)
        self.assertEqual(self.said(), b"HTTP/1.1 100 Continue\r\n\r\n")
        self.say(b"ok")
        self.assertEqual(self.calls[0].calls, [b"ok", "end"])


class Endings(Served):
    """How answers and connections end."""

    def test_a_client_that_leaves_cancels_the_call(self) -> None:
        """Whatever phase the exchange is in."""
        self.say(CHAT)
        self.incoming[0].write_head(NDJSON)
        self.server.connectionLost()
        self.assertIsInstance(self.calls[0].calls[-1], CtllmError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_an_error_before_the_answer_is_a_whole_answer(self) -> None:
        """Status, Retry-After and the dialect's words; the connection goes on."""
        self.say(CHAT)
        self.incoming[0].fail(DesktopOffline("nobody is there"))
        said = self.said()
        self.assertIn(b"HTTP/1.1 503", said)
        self.assertIn(b"Retry-After: 5", said)
        self.assertTrue(said.endswith(b'{"error":"nobody is there"}'))
        self.assertEqual(self.transport.closed, "")

    def test_an_error_in_the_stream_is_said_and_never_ends_cleanly(self) -> None:
        """A line with the error, then the connection closes without the last chunk."""
        self.say(CHAT)
        self.incoming[0].write_head(NDJSON)
        self.incoming[0].write(b'{"a":')
        self.said()
        self.incoming[0].fail(DesktopLost("gone"))
        self.assertEqual(self.said(), b'15\r\nnull,"error":"gone"}\n\r\n')
        self.assertEqual(self.transport.closed, "")
        self.clock.advance(DEFAULT_TIMEOUTS.error_flush)
        self.assertEqual(self.transport.closed, "close")

    def test_an_answer_of_known_length_breaks_off_without_words(self) -> None:
        """Words would count as content; the missing bytes tell."""
        self.say(CHAT)
        head = ResponseHead(200, b"OK", ((b"Content-Length", b"10"),))
        self.incoming[0].write_head(head)
        self.incoming[0].write(b"half")
        self.said()
        self.incoming[0].fail(DesktopLost("gone"))
        self.assertEqual((self.said(), self.transport.closed), (b"", "close"))

    def test_http_1_0_breaks_off_with_a_reset(self) -> None:
        """There a plain close is how answers end; the dialect's words go before it."""
        self.say(b"GET /api/tags HTTP/1.0\r\n\r\n")
        self.incoming[0].write_head(NDJSON)
        self.said()
        self.incoming[0].fail(DesktopLost("gone"))
        self.assertEqual((self.said(), self.transport.closed), (b'{"error":"gone"}\n', ""))
        self.clock.advance(DEFAULT_TIMEOUTS.error_flush)
        self.assertEqual(self.transport.closed, "abort")

    def test_an_answer_without_an_end_of_its_own(self) -> None:
        """It ends with the connection, as it came; whole, or by a reset where it broke."""
        head = ResponseHead(200, b"OK", (*NDJSON.headers, (b"Ctllm-Framing", b"close-delimited")))
        for broken in (False, True):
            self.setUp()
            self.say(CHAT)
            self.incoming[0].write_head(head)
            said = self.said()
            self.assertIn(b"\r\nConnection: close\r\n", said)
            self.assertNotIn(b"Transfer-Encoding", said)
            self.assertNotIn(b"Ctllm-Framing", said)
            self.incoming[0].write(b"{}\n")
            self.assertEqual(self.said(), b"{}\n")
            if broken:
                self.incoming[0].fail(DesktopLost("gone"))
                self.assertEqual(self.said(), b'{"error":"gone"}\n')
                self.clock.advance(DEFAULT_TIMEOUTS.error_flush)
            else:
                self.incoming[0].finish()
            self.assertEqual(self.transport.closed, "abort" if broken else "close")

    def test_between_our_own_parts_its_framing_is_told(self) -> None:
        """In chunks, so that a break can be told from an end there."""
        self.connect(is_internal=True)
        self.say(CHAT)
        self.incoming[0].write_head(
            ResponseHead(200, b"OK", ((b"Ctllm-Framing", b"close-delimited"),))
        )
        said = self.said()
        self.assertIn(b"Ctllm-Framing: close-delimited\r\n", said)
        self.assertIn(b"Transfer-Encoding: chunked\r\n", said)
        self.incoming[0].finish()
        self.assertEqual((self.said(), self.transport.closed), (b"0\r\n\r\n", ""))

    def test_no_content_has_no_length(self) -> None:
        """Of 204 (RFC 9110, section 8.6), whoever gave it one."""
        self.say(CHAT)
        self.incoming[0].write_head(ResponseHead(204, b"", ((b"Content-Length", b"0"),)))
        self.incoming[0].finish()
        self.assertEqual(self.said(), b"HTTP/1.1 204 No Content\r\n\r\n")

    def test_an_answer_shorter_than_it_said_is_broken_off(self) -> None:
        """An upstream that ends early does not make a clean end here."""
        self.say(CHAT)
        self.incoming[0].write_head(ResponseHead(200, b"OK", ((b"Content-Length", b"10"),)))
        self.incoming[0].write(b"half")
        self.incoming[0].finish()
        self.assertEqual(self.transport.closed, "close")

    def test_one_connection_serves_one_request_after_another(self) -> None:
        """Pipelined requests wait their turn and are answered in order."""
        self.say(CHAT + b"GET /two HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual(len(self.incoming), 1)
        self.incoming[0].respond(200, {})
        self.assertEqual(self.incoming[1].head.target, b"/two")
        self.incoming[1].respond(204)
        self.assertEqual(self.said().count(b"HTTP/1.1 20"), 2)
        self.assertEqual(self.transport.closed, "")

    def test_an_answer_before_the_body_was_read_closes_gently(self) -> None:
        """The client may still be sending: it must be able to read the answer."""
        self.say(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\nsome")
        self.incoming[0].fail(DesktopOffline("no"))
        self.assertEqual(self.transport.closed, "half")
        self.assertIn(b"Connection: close", self.said())
        for _ in range(3):  # a slow one, who would lose the answer to a reset
            self.say(b"more of it" * 200)
            self.clock.advance(DEFAULT_TIMEOUTS.linger)
            self.assertEqual(self.transport.closed, "half")
        self.clock.advance(DEFAULT_TIMEOUTS.linger)
        self.assertEqual(self.transport.closed, "abort")

    def test_who_sends_on_and_on_after_the_answer(self) -> None:
        """Is not waited for without end."""
        self.say(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\nsome")
        self.incoming[0].fail(DesktopOffline("no"))
        for _ in range(MAX_LINGER_EXTENSIONS + 1):
            self.assertEqual(self.transport.closed, "half")
            self.say(b"more of it" * 200)
            self.clock.advance(DEFAULT_TIMEOUTS.linger)
        self.assertEqual(self.transport.closed, "abort")

    def test_who_only_trickles_after_the_answer(self) -> None:
        """Is waited for no longer than who sends nothing."""
        self.say(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\nsome")
        self.incoming[0].fail(DesktopOffline("no"))
        for _ in range(10):
            self.assertEqual(self.transport.closed, "half")
            self.say(b"x")
            self.clock.advance(DEFAULT_TIMEOUTS.linger / 10)
        self.assertEqual(self.transport.closed, "abort")

    def test_an_unread_body_that_has_come_does_not_end_the_connection(self) -> None:
        """An answer at once, without reading: the next request is served."""

        async def app(incoming: ServerRequest) -> None:
            incoming.respond(404, {})

        server = HttpServerFactory(app, self.clock).buildProtocol(None)
        transport = Transport()
        server.makeConnection(transport)
        for request in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", CHAT, CHAT + CHAT):
            server.dataReceived(request)
        self.assertEqual(transport.value().count(b"HTTP/1.1 404"), 4)
        self.assertEqual(transport.closed, "")

    def test_a_slow_reader_may_read_its_answer_to_the_end(self) -> None:
        """Neither idleness nor a close that is due cuts what is still being read."""
        for close in (b"", b"Connection: close\r\n"):
            self.setUp()
            self.say(b"GET / HTTP/1.1\r\nHost: x\r\n" + close + b"\r\n")
            self.server.pauseProducing()
            self.incoming[0].respond(200, {})
            self.clock.advance(DEFAULT_TIMEOUTS.flush - 1)
            self.assertNotEqual(self.transport.closed, "abort")
            self.clock.advance(DEFAULT_TIMEOUTS.flush)
            self.assertEqual(self.transport.closed, "abort")

    def test_no_body_for_head(self) -> None:
        """HEAD gets the headers of GET and nothing after them."""
        self.say(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
        self.incoming[0].write_head(ResponseHead(200, b"OK", ((b"Content-Length", b"17"),)))
        self.incoming[0].finish()
        said = self.said()
        self.assertIn(b"Content-Length: 17", said)
        self.assertTrue(said.endswith(b"\r\n\r\n"))
        self.assertEqual(self.transport.closed, "")


class Refusals(Served):
    """What is not served, and how that is said."""

    def refused(self, data: bytes) -> bytes:
        self.setUp()
        self.say(data)
        self.assertEqual(self.incoming, [])
        self.assertEqual(self.transport.closed, "half")
        return self.said()

    def test_heads_that_others_read_differently(self) -> None:
        """Smuggling's shapes: two lengths, both framings, bare line feeds, folded lines."""
        for lines in (
            b"Content-Length: 1\r\nContent-Length: 2\r\n",
            b"Content-Length: 1\r\nContent-Length: 1\r\n",
            b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            b"Transfer-Encoding: gzip, chunked\r\n",
            b"Content-Length: -1\r\n",
            b"A: b\n",
            b"A: b\r\n folded\r\n",
            b"A : b\r\n",
            b"A: \0\r\n",
            b"Host: y\r\n",
        ):
            said = self.refused(b"POST / HTTP/1.1\r\nHost: x\r\n" + lines + b"\r\n")
            self.assertRegex(said, rb"HTTP/1.1 (400|501)", lines)

    def test_targets_and_lines_that_are_not_http(self) -> None:
        """Clear 400s."""
        for head in (b"GET evil HTTP/1.1", b"hello", b"GET / HTTP/3.0", b"CONNECT a:1 HTTP/1.1"):
            said = self.refused(head + b"\r\nHost: x\r\n\r\n")
            self.assertIn(b"HTTP/1.1 400", said, head)
            self.assertIn(b'{"error":"', said)

    def test_large_heads(self) -> None:
        """431, whether the head ever ends or not."""
        for end in (b"", b"\r\n\r\n"):
            said = self.refused(b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 1000 + end)
            self.assertIn(b"HTTP/1.1 431", said)

    def test_slow_heads_and_idle_connections_are_closed(self) -> None:
        """A head has its time, and so has silence between requests; an exchange has none."""
        self.say(b"GET / HT")
        self.clock.advance(DEFAULT_TIMEOUTS.head)
        self.assertTrue(self.said().startswith(b"HTTP/1.1 408 Request Timeout\r\n"))
        self.assertEqual(self.transport.closed, "half")
        self.clock.advance(DEFAULT_TIMEOUTS.linger)
        self.assertEqual(self.transport.closed, "abort")
        self.setUp()
        self.say(CHAT)
        self.clock.advance(86400)
        self.assertEqual(self.transport.closed, "")
        self.incoming[0].respond(200, {})
        self.said()
        self.clock.advance(DEFAULT_TIMEOUTS.keep_alive)
        self.assertEqual((self.said(), self.transport.closed), (b"", "close"))
        self.assertGreater(
            DEFAULT_TIMEOUTS.keep_alive, 118
        )  # as long as curl keeps a connection, the longest of them

    def test_a_broken_chunk_ends_the_exchange(self) -> None:
        """The call is cancelled and the client told."""
        self.say(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n")
        [told] = self.calls[0].calls
        self.assertIsInstance(told, CtllmError)
        self.assertIn(b"HTTP/1.1 400", self.said())

    def test_refusals_show_no_python(self) -> None:
        """What was wrong is said, and not how h11 quotes it."""
        for head in (b"GET /\r\n", b"GET  / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nA : b\r\n"):
            said = self.refused(head + b"\r\n")
            self.assertIn(b"HTTP/1.1 400", said)
            self.assertNotIn(b"b'", said)
            self.assertNotIn(b"bytearray", said)
            self.assertRegex(said, rb'"error":"[^"]{20,}')
        self.setUp()
        self.say(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n")
        self.assertIn(b'illegal chunk header."', self.said())


class OtherProtocols(Served):
    """What is no HTTP is told so at once, for nothing else may ever follow."""

    def test_at_the_first_sign(self) -> None:
        """400, and the connection ends."""
        hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(32))
        for said, word in (
            (hello, b"TLS"),
            (hello[:1], b"TLS"),
            (b"hello\n", b"without a carriage return"),
            (b"hello\r\n", b"request line"),
            (b"SSH-2.0-OpenSSH_9.2\r\n", b"request line"),
            (b"EHLO here\r\n", b"request line"),
            (b"\x00\x00\x00\x12", b"request line"),
            (b'{"json":', b"request line"),
            (b"GET / HTTP/1.1\nHost: x\n\n", b"without a carriage return"),
            (b"GET / HTTP/1.1\r\nHost: x\n", b"without a carriage return"),
        ):
            self.setUp()
            self.say(said)
            heard = self.said()
            self.assertTrue(heard.startswith(b"HTTP/1.1 400 Bad Request\r\n"), said)
            self.assertIn(word, heard)
            self.assertEqual(self.transport.closed, "half")

    def test_a_head_in_any_pieces(self) -> None:
        """What may still become one is waited for."""
        for byte in b"\r\nVERSION-CONTROL /caf\xc3\xa9 HTTP/1.1\r\nHost: x\r\nA: \xff\r\n\r\n":
            self.assertEqual(self.said(), b"")
            self.say(bytes([byte]))
        self.assertEqual([each.head.method for each in self.incoming], [b"VERSION-CONTROL"])


class Targets(Served):
    """What a request is for (RFC 9112, section 3.2)."""

    def asked(self, target: bytes, host: bytes = b"here") -> RequestHead | None:
        self.setUp()
        self.say(b"GET %b HTTP/1.1\r\nA: b\r\nHost: %b\r\n\r\n" % (target, host))
        return self.incoming[0].head if self.incoming else None

    def test_the_path_and_the_authority_of_each_form(self) -> None:
        """Of the absolute form the authority is the host, whatever Host says beside it."""
        for target, path, query, authority in (
            (b"/api/tags?a=b", b"/api/tags", b"?a=b", b"here"),
            (b"//api/chat", b"//api/chat", b"", b"here"),
            (b"http://x/api/tags?a=b", b"/api/tags", b"?a=b", b"x"),
            (b"HTTPS://x:8443", b"/", b"", b"x:8443"),
            (b"http://h?x=1", b"/", b"?x=1", b"h"),
            (b"http://h?/ctllm/desktops", b"/", b"?/ctllm/desktops", b"h"),
            (b"http://h?x=http://i/j", b"/", b"?x=http://i/j", b"h"),
            (b"http://[::1]:80/a", b"/a", b"", b"[::1]:80"),
            (b"/caf\xc3\xa9?q=\xff", b"/caf\xc3\xa9", b"?q=\xff", b"here"),
        ):
            asked = self.asked(target)
            assert asked is not None, target
            self.assertEqual((asked.path, asked.authority), (path, authority), target)
            self.assertEqual(asked.target, path + query)
            hosts = [value for name, value in asked.headers if name.lower() == b"host"]
            self.assertEqual(hosts, [authority])

    def test_an_authority_that_hides_another_is_refused(self) -> None:
        """A user's name before the host, or anything else that a host cannot be."""
        for target, host in (
            (b"http://localhost@evil/", b"here"),
            (b"http://evil\\@localhost/", b"here"),
            (b"http://a b/", b"here"),
            (b"http://h#x/", b"here"),
            (b"http:///a", b"here"),
            (b"/", b"evil@localhost"),
            (b"/", b"evil/localhost"),
            (b"/", b"localhost#evil"),
            (b"/", b"local host"),
            (b"/", b"caf\xc3\xa9"),
            (b"/", b"h:x"),
        ):
            self.assertIsNone(self.asked(target, host), (target, host))
            self.assertIn(b"HTTP/1.1 400", self.said())

    def test_what_is_asked_of_the_server_itself(self) -> None:
        """OPTIONS * is answered here, as Go's server does in front of Ollama; nothing else is."""
        self.say(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")
        said = self.said()
        self.assertIn(b"HTTP/1.1 200", said)
        self.assertIn(b"Content-Length: 0", said)
        self.say(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual([each.head.target for each in self.incoming], [b"/"])
        self.assertIsNone(self.asked(b"*"))
        self.assertIn(b"HTTP/1.1 400", self.said())


class OwnAnswers(Served):
    """What is said by this side, and by no upstream."""

    def test_values_are_safe_where_they_are_written(self) -> None:
        """Of headers of every response and of one: edges, controls and other languages are percent-encoded."""
        for value, written in (
            (b" m", b"%20m"),
            (b"attic \t", b"attic%20%09"),
            (b"a\r\nX: y\0", b"a%0D%0AX: y%00"),
            ("caf\xe9".encode(), b"caf%C3%A9"),
            (b"   ", b"%20%20%20"),
            (b"two words", b"two words"),
            (b"", b""),
        ):
            self.setUp()
            self.say(CHAT)
            self.response_headers = ((b"Ctllm-Model", value),)
            self.incoming[0].respond(200, {}, ((b"X-Mine", value),))
            said = self.said()
            self.assertIn(b"\r\nCtllm-Model: " + written + b"\r\n", said)
            self.assertIn(b"\r\nX-Mine: " + written + b"\r\n", said)
            self.assertEqual(self.transport.closed, "")

    def test_every_status_has_its_phrase(self) -> None:
        """Some clients show nothing else of an error."""
        for kind, line in (
            (Unauthorized, b"HTTP/1.1 401 Unauthorized\r\n"),
            (ContentTooLarge, b"HTTP/1.1 413 Content Too Large\r\n"),
            (ServiceUnavailable, b"HTTP/1.1 503 Service Unavailable\r\n"),
            (ClientDisconnected, b"HTTP/1.1 499 Client Closed Request\r\n"),
        ):
            self.setUp()
            self.say(CHAT)
            self.incoming[0].fail(kind("no"))
            self.assertTrue(self.said().startswith(line))
        self.server.evict()
        self.assertTrue(self.said().startswith(b"HTTP/1.1 503 Service Unavailable\r\n"))

    def test_an_upstreams_phrase_stays(self) -> None:
        """One that it left out is filled in."""
        for reason, written in ((b"Fine, thanks", b"Fine, thanks"), (b"", b"OK")):
            self.setUp()
            self.say(CHAT)
            self.incoming[0].write_head(ResponseHead(200, reason, NDJSON.headers))
            self.assertTrue(self.said().startswith(b"HTTP/1.1 200 %b\r\n" % written))

    def test_what_no_retry_can_mend_says_so(self) -> None:
        """Official clients otherwise repeat a 401 for minutes; what may pass is not marked."""
        for kind in _every(CtllmError):
            if kind is MethodNotAllowed:
                error: CtllmError = MethodNotAllowed("no", allow="GET")
            else:
                error = kind("no")
            self.setUp()
            self.say(CHAT)
            self.incoming[0].fail(error)
            final = error.status in (400, 401, 403, 404, 405, 410, 413, 415, 426, 431)
            self.assertEqual(b"\r\nX-Should-Retry: false\r\n" in self.said(), final, kind)

    def test_an_answer_that_cannot_be_written(self) -> None:
        """The client gets an answer all the same, and the connection ends."""

        class Odd(CtllmError):
            retry_after: Any = "soon"

        for error, extra in ((Odd("no"), b"X-Y"), (DesktopLost("gone"), b"X Y")):
            self.setUp()
            self.say(CHAT)
            self.response_headers = ((extra, b"1"),)
            self.incoming[0].fail(error)
            said = self.said()
            self.assertTrue(said.startswith(b"HTTP/1.1 500 Internal Server Error\r\n"), said)
            self.assertIn(b"\r\nConnection: close\r\n", said)
            self.assertEqual(self.transport.closed, "close")
            self.assertEqual(len(self.flushLoggedErrors()), 1)

    def test_a_reply_that_cannot_be_written(self) -> None:
        """It is an error like any other, in the dialect; the connection goes on."""

        async def app(incoming: ServerRequest) -> None:
            incoming.respond(200, {}, ((b"X y", b"1"),))

        self.handler = app
        self.say(CHAT)
        said = self.said()
        self.assertTrue(said.startswith(b"HTTP/1.1 500 "), said)
        self.assertIn(b'{"error":"An internal error occurred', said)
        self.assertEqual(len(self.flushLoggedErrors()), 1)

    def test_an_upstream_that_fails_on_the_body(self) -> None:
        """Its client hears of it; nothing is raised into the reactor."""

        class Broken(FakeRequestSink):
            def write(self, piece: bytes) -> None:
                raise RuntimeError("a bug")

        async def app(incoming: ServerRequest) -> None:
            incoming.relay_to(Broken())

        self.handler = app
        self.say(CHAT)
        self.assertTrue(self.said().startswith(b"HTTP/1.1 500 "))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


def _every(root: type[CtllmError]) -> set[type[CtllmError]]:
    below = (_every(kind) for kind in root.__subclasses__() if kind.__module__ == "ctllm.errors")
    return {root}.union(*below)


class Bodies(SynchronousTestCase):
    """Handlers that read a whole body."""

    def test_a_body_is_read_up_to_its_limit(self) -> None:
        """Beyond it the client gets 413."""
        for size, status in ((10, b"200"), (11, b"413")):
            read: list[Deferred[bytes]] = []

            async def app(incoming: ServerRequest) -> None:
                incoming.respond(200, {"length": len(await incoming.read_body(10))})

            server = HttpServerFactory(app, Clock()).buildProtocol(None)
            transport = Transport()
            server.makeConnection(transport)
            server.dataReceived(
                b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
            )
            self.assertEqual(transport.value()[9:12], status)
            self.assertEqual(read, [])

    def test_what_breaks_inside_is_logged_and_told_without_details(self) -> None:
        """A bug is a 500 for the client and a failure in the log."""

        async def app(incoming: ServerRequest) -> None:
            raise RuntimeError("secret details")

        server = HttpServerFactory(app, Clock()).buildProtocol(None)
        transport = Transport()
        server.makeConnection(transport)
        server.dataReceived(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertIn(b"HTTP/1.1 500", transport.value())
        self.assertNotIn(b"secret", transport.value())
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
