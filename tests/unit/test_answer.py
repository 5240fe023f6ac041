"""Answers as servers give them, and as they should not."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.http.message.body import BadFraming
from ctllm.http.message.head import ResponseHead
from ctllm.http.message.response_parser import MAX_HEAD, ResponseParser

OK = b"HTTP/1.1 200 OK\r\n"


def told(data: bytes, method: bytes = b"GET") -> tuple[ResponseParser, bytes | None]:
    """An answer given `data` at once, and what it left for the body."""
    answer = ResponseParser(method)
    return answer, answer.feed_head(data)


class Heads(SynchronousTestCase):
    """The status line and the headers."""

    @given(st.lists(st.integers(0, 80), max_size=6))
    def test_any_cut(self, cuts: list[int]) -> None:
        """A head is the same however its bytes arrive; interim ones are passed over."""
        wire = b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + OK + b"A: 1\r\na:\t2 \r\nB:\r\n\r\nrest"
        answer, rest = ResponseParser(b"GET"), None
        edges = [0, *sorted({cut % len(wire) for cut in cuts}), len(wire)]
        for low, high in itertools.pairwise(edges):
            if answer.head is None:
                rest = answer.feed_head(wire[low:high])
            elif rest is not None:
                rest += wire[low:high]
        headers = ((b"A", b"1"), (b"a", b"2"), (b"B", b""))
        self.assertEqual(answer.head, ResponseHead(200, b"OK", headers))
        self.assertEqual(rest, b"rest")

    def test_reasons(self) -> None:
        """There may be none, with and without the space before it."""
        for line, reason in ((b"HTTP/1.1 404", b""), (b"HTTP/1.1 404 ", b""),
                             (b"HTTP/1.0 404 Not \xe9 there", b"Not \xe9 there")):  # fmt: skip
            answer, _ = told(line + b"\r\n\r\n")
            self.assertEqual(answer.head, ResponseHead(404, reason))

    def test_no_answer(self) -> None:
        """What is not HTTP/1.1 as RFC 9112 has it is refused."""
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
                told(wrong)

    def test_bounded(self) -> None:
        """Neither a head nor interim answers may go on without end."""
        answer = ResponseParser(b"GET")
        with self.assertRaises(BadFraming):
            for _ in range(MAX_HEAD):
                answer.feed_head(b"HTTP/1.1 100 Continue\r\n\r\n")
        with self.assertRaises(BadFraming):
            told(OK + b"a: " + b"b" * MAX_HEAD)
        with self.assertRaises(BadFraming):
            told(OK + b"a: " + b"b" * MAX_HEAD + b"\r\n\r\n")

    def test_begun(self) -> None:
        """One byte is a beginning; so is an interim answer."""
        for data, begun in ((b"", False), (b"H", True), (b"HTTP/1.1 100 Go\r\n\r\n", True)):
            answer, _ = told(data)
            self.assertEqual(answer.has_started, begun)


class Bodies(SynchronousTestCase):
    """How much belongs to it, and whether the connection lasts."""

    def case(self, head: bytes, body: bytes, method: bytes = b"GET") -> tuple[bytes, bool, bool]:
        """The payload, whether it is whole, and whether the connection can be used again."""
        answer, rest = told(head + b"\r\n" + body, method)
        assert rest is not None
        return answer.body.feed(rest), answer.body.is_complete, answer.is_reusable

    def test_framings(self) -> None:
        """By chunks, by length, by nothing, by the end of the connection."""
        length = OK + b"Content-Length: 2\r\n"
        chunks = OK + b"Transfer-Encoding: Chunked\r\n"
        self.assertEqual(self.case(length, b"ab"), (b"ab", True, True))
        self.assertEqual(self.case(chunks, b"2\r\nab\r\n0\r\n\r\n"), (b"ab", True, True))
        self.assertEqual(self.case(OK, b"ab"), (b"ab", False, False))
        for status in (b"204 No", b"304 Not"):
            self.assertEqual(
                self.case(b"HTTP/1.1 " + status + b"\r\nContent-Length: 9\r\n", b""),
                (b"", True, True),
            )
        self.assertEqual(self.case(length, b"", b"HEAD"), (b"", True, True))
        self.assertEqual(self.case(chunks, b"", b"HEAD"), (b"", True, True))

    def test_what_nobody_asked_for(self) -> None:
        """Bytes after an answer are no part of it, and no beginning of the next."""
        length = OK + b"Content-Length: 2\r\n"
        self.assertEqual(self.case(length, b"abHTTP/1.1 200 OK"), (b"ab", True, False))
        self.assertEqual(self.case(length, b"ab", b"HEAD"), (b"", True, False))

    def test_lasting(self) -> None:
        """HTTP/1.0, and whoever says close, close."""
        for head in (
            b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n",
            OK + b"Content-Length: 0\r\nConnection: foo, Close\r\n",
        ):
            self.assertEqual(self.case(head, b""), (b"", True, False))

    def test_the_end_of_the_connection_ends_one_answer(self) -> None:
        """A connection whose end was the answer's is not there for another."""
        answer, rest = told(OK + b"\r\nab")
        answer.body.feed(rest or b"")
        answer.body.feed_eof()
        self.assertEqual((answer.body.is_complete, answer.is_reusable), (True, False))
