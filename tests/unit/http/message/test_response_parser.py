"""`ctllm.http.message.response_parser`: responses are parsed, and invalid ones refused."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.http.message.body import BadFraming
from ctllm.http.message.head import ResponseHead
from ctllm.http.message.response_parser import MAX_HEAD, ResponseParser

OK = b"HTTP/1.1 200 OK\r\n"


def parse(data: bytes, method: bytes = b"GET") -> tuple[ResponseParser, bytes | None]:
    """Parse `data` at once; return the parser, and what follows the head."""
    parser = ResponseParser(method)
    return parser, parser.feed_head(data)


class ResponseHeadTests(SynchronousTestCase):
    @given(st.lists(st.integers(0, 80), max_size=6))
    def test_head_does_not_depend_on_the_cuts_and_interim_heads_are_skipped(
        self, cuts: list[int]
    ) -> None:
        data = b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + OK + b"A: 1\r\na:\t2 \r\nB:\r\n\r\nrest"
        parser, rest = ResponseParser(b"GET"), None
        edges = [0, *sorted({cut % len(data) for cut in cuts}), len(data)]
        for low, high in itertools.pairwise(edges):
            if parser.head is None:
                rest = parser.feed_head(data[low:high])
            elif rest is not None:
                rest += data[low:high]
        headers = ((b"A", b"1"), (b"a", b"2"), (b"B", b""))
        self.assertEqual(parser.head, ResponseHead(200, b"OK", headers))
        self.assertEqual(rest, b"rest")

    def test_reason_may_be_empty(self) -> None:
        for line, reason in ((b"HTTP/1.1 404", b""), (b"HTTP/1.1 404 ", b""),
                             (b"HTTP/1.0 404 Not \xe9 there", b"Not \xe9 there")):  # fmt: skip
            parser, _ = parse(line + b"\r\n\r\n")
            self.assertEqual(parser.head, ResponseHead(404, reason))

    def test_refuses_an_invalid_head(self) -> None:
        for wrong in (b"HTTP/2 200 OK\r\n\r\n", b"HTTP/1.1 2000 OK\r\n\r\n", b"SSH-2.0\r\n\r\n",
                      b"HTTP/1.1 099 No\r\n\r\n", b"HTTP/1.1 600 No\r\n\r\n", b"\r\n\r\n",
                      b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
                      b"HTTP/1.1  200 OK\r\n\r\n", b"HTTP/1.1 200 O\0K\r\n\r\n",
                      OK + b"no colon\r\n\r\n", OK + b"a : b\r\n\r\n", OK + b": b\r\n\r\n",
                      OK + b"a: b\r\n folded\r\n\r\n", OK + b"a: b\nc: d\r\n\r\n",
                      OK + b"a: \0\r\n\r\n", OK + b"a: b\rc\r\n\r\n",
                      OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
                      OK + b"Content-Length: -1\r\n\r\n", OK + b"Content-Length: 0x1\r\n\r\n",
                      OK + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
                      OK + b"Transfer-Encoding: gzip\r\n\r\n",
                      OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n",
                      b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"):  # fmt: skip
            with self.assertRaises(BadFraming, msg=wrong):
                parse(wrong)

    def test_limits_the_size_of_heads(self) -> None:
        parser = ResponseParser(b"GET")
        with self.assertRaises(BadFraming):
            for _ in range(MAX_HEAD):
                parser.feed_head(b"HTTP/1.1 100 Continue\r\n\r\n")
        with self.assertRaises(BadFraming):
            parse(OK + b"a: " + b"b" * MAX_HEAD)
        with self.assertRaises(BadFraming):
            parse(OK + b"a: " + b"b" * MAX_HEAD + b"\r\n\r\n")

    def test_has_started_with_the_first_byte(self) -> None:
        for data, expected in ((b"", False), (b"H", True), (b"HTTP/1.1 100 Go\r\n\r\n", True)):
            parser, _ = parse(data)
            self.assertEqual(parser.has_started, expected)


class ResponseBodyTests(SynchronousTestCase):
    def read_body(
        self, head: bytes, body: bytes, method: bytes = b"GET"
    ) -> tuple[bytes, bool, bool]:
        """Return the payload, whether it is complete, and whether the connection is reusable."""
        parser, rest = parse(head + b"\r\n" + body, method)
        assert rest is not None
        return parser.body.feed(rest), parser.body.is_complete, parser.is_reusable

    def test_chooses_the_body_reader_by_headers_method_and_status(self) -> None:
        length = OK + b"Content-Length: 2\r\n"
        chunks = OK + b"Transfer-Encoding: Chunked\r\n"
        self.assertEqual(self.read_body(length, b"ab"), (b"ab", True, True))
        self.assertEqual(self.read_body(chunks, b"2\r\nab\r\n0\r\n\r\n"), (b"ab", True, True))
        self.assertEqual(self.read_body(OK, b"ab"), (b"ab", False, False))
        for status in (b"204 No", b"304 Not"):
            self.assertEqual(
                self.read_body(b"HTTP/1.1 " + status + b"\r\nContent-Length: 9\r\n", b""),
                (b"", True, True),
            )
        self.assertEqual(self.read_body(length, b"", b"HEAD"), (b"", True, True))
        self.assertEqual(self.read_body(chunks, b"", b"HEAD"), (b"", True, True))

    def test_connection_with_trailing_data_is_not_reusable(self) -> None:
        length = OK + b"Content-Length: 2\r\n"
        self.assertEqual(self.read_body(length, b"abHTTP/1.1 200 OK"), (b"ab", True, False))
        self.assertEqual(self.read_body(length, b"ab", b"HEAD"), (b"", True, False))

    def test_connection_of_http_1_0_or_with_close_is_not_reusable(self) -> None:
        for head in (
            b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n",
            OK + b"Content-Length: 0\r\nConnection: foo, Close\r\n",
        ):
            self.assertEqual(self.read_body(head, b""), (b"", True, False))

    def test_close_delimited_response_uses_up_its_connection(self) -> None:
        parser, rest = parse(OK + b"\r\nab")
        parser.body.feed(rest or b"")
        parser.body.feed_eof()
        self.assertEqual((parser.body.is_complete, parser.is_reusable), (True, False))
