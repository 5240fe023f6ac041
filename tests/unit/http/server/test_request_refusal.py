"""`ctllm.http.server.connection`: requests that are refused, and how targets are read."""

from __future__ import annotations

from ctllm.errors import CtllmError
from ctllm.http.message.head import RequestHead
from ctllm.http.timeouts import DEFAULT_TIMEOUTS
from tests.unit.http.server.server_case import CHAT, ServerCase


class RefusalTests(ServerCase):
    def refused(self, data: bytes) -> bytes:
        self.setUp()
        self.receive(data)
        self.assertEqual(self.requests, [])
        self.assertEqual(self.transport.closed, "half")
        return self.take_written()

    def test_refuses_heads_that_other_servers_read_differently(self) -> None:
        """Such heads are used to smuggle requests (RFC 9112, section 11.2)."""
        for lines in (
            b"Content-Length: 1\r\nContent-Length: 2\r\n",
            b"Content-Length: 1\r\nContent-Length: 1\r\n",
            b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            b"Transfer-Encoding: gzip, chunked\r\n",
            b"Content-Length: -1\r\n",
            b"Content-Length: 9999999999999999999\r\n",
            b"A: b\n",
            b"A: b\r\n folded\r\n",
            b"A : b\r\n",
            b"A: \0\r\n",
            b"Host: y\r\n",
        ):
            written = self.refused(b"POST / HTTP/1.1\r\nHost: x\r\n" + lines + b"\r\n")
            self.assertRegex(written, rb"HTTP/1.1 (400|501)", lines)

    def test_refuses_invalid_request_lines(self) -> None:
        for line in (b"GET evil HTTP/1.1", b"hello", b"GET / HTTP/3.0", b"CONNECT a:1 HTTP/1.1"):
            written = self.refused(line + b"\r\nHost: x\r\n\r\n")
            self.assertIn(b"HTTP/1.1 400", written, line)
            self.assertIn(b'{"error":"', written)

    def test_refuses_large_heads_with_and_without_an_end(self) -> None:
        for end in (b"", b"\r\n\r\n"):
            written = self.refused(b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 1000 + end)
            self.assertIn(b"HTTP/1.1 431", written)

    def test_times_out_slow_heads_and_idle_connections_but_no_request(self) -> None:
        self.receive(b"GET / HT")
        self.clock.advance(DEFAULT_TIMEOUTS.head)
        self.assertTrue(self.take_written().startswith(b"HTTP/1.1 408 Request Timeout\r\n"))
        self.assertEqual(self.transport.closed, "half")
        self.clock.advance(DEFAULT_TIMEOUTS.linger)
        self.assertEqual(self.transport.closed, "abort")
        self.setUp()
        self.receive(CHAT)
        self.clock.advance(86400)
        self.assertEqual(self.transport.closed, "")
        self.requests[0].respond(200, {})
        self.take_written()
        self.clock.advance(DEFAULT_TIMEOUTS.keep_alive)
        self.assertEqual((self.take_written(), self.transport.closed), (b"", "close"))
        self.assertGreater(
            DEFAULT_TIMEOUTS.keep_alive, 118
        )  # as long as curl keeps a connection, the longest of them

    def test_malformed_chunk_cancels_the_request(self) -> None:
        self.receive(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n")
        [told] = self.sinks[0].calls
        self.assertIsInstance(told, CtllmError)
        self.assertIn(b"HTTP/1.1 400", self.take_written())

    def test_error_messages_do_not_quote_bytes(self) -> None:
        for head in (b"GET /\r\n", b"GET  / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nA : b\r\n"):
            written = self.refused(head + b"\r\n")
            self.assertIn(b"HTTP/1.1 400", written)
            self.assertNotIn(b"b'", written)
            self.assertNotIn(b"bytearray", written)
            self.assertRegex(written, rb'"error":"[^"]{20,}')
        self.setUp()
        self.receive(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n")
        self.assertIn(b'illegal chunk header."', self.take_written())


class OtherProtocolTests(ServerCase):
    def test_refuses_other_protocols_at_once(self) -> None:
        hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(32))
        for data, word in (
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
            self.receive(data)
            response = self.take_written()
            self.assertTrue(response.startswith(b"HTTP/1.1 400 Bad Request\r\n"), data)
            self.assertIn(word, response)
            self.assertEqual(self.transport.closed, "half")

    def test_waits_for_what_may_become_a_head(self) -> None:
        for byte in b"\r\nVERSION-CONTROL /caf\xc3\xa9 HTTP/1.1\r\nHost: x\r\nA: \xff\r\n\r\n":
            self.assertEqual(self.take_written(), b"")
            self.receive(bytes([byte]))
        self.assertEqual([each.head.method for each in self.requests], [b"VERSION-CONTROL"])


class TargetTests(ServerCase):
    """Request targets (RFC 9112, section 3.2)."""

    def parse(self, target: bytes, host: bytes = b"here") -> RequestHead | None:
        self.setUp()
        self.receive(b"GET %b HTTP/1.1\r\nA: b\r\nHost: %b\r\n\r\n" % (target, host))
        return self.requests[0].head if self.requests else None

    def test_reads_path_and_authority_of_each_form(self) -> None:
        """The authority of an absolute form replaces the Host."""
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
            head = self.parse(target)
            assert head is not None, target
            self.assertEqual((head.path, head.authority), (path, authority), target)
            self.assertEqual(head.target, path + query)
            hosts = [value for name, value in head.headers if name.lower() == b"host"]
            self.assertEqual(hosts, [authority])

    def test_refuses_an_invalid_authority(self) -> None:
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
            self.assertIsNone(self.parse(target, host), (target, host))
            self.assertIn(b"HTTP/1.1 400", self.take_written())

    def test_answers_options_for_the_whole_server(self) -> None:
        """As Go's server does in front of Ollama."""
        self.receive(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")
        written = self.take_written()
        self.assertIn(b"HTTP/1.1 200", written)
        self.assertIn(b"Content-Length: 0", written)
        self.receive(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual([each.head.target for each in self.requests], [b"/"])
        self.assertIsNone(self.parse(b"*"))
        self.assertIn(b"HTTP/1.1 400", self.take_written())
