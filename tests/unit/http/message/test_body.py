"""`ctllm.http.message.body`: bodies are decoded and encoded, however their bytes are cut."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.http.message.body import (
    MAX_CHUNK_LINE,
    MAX_TRAILERS,
    BadFraming,
    BodyEncoder,
    BodyReader,
    ChunkedReader,
    ContentLengthReader,
    UntilCloseReader,
    content_length,
    is_chunked,
)

CHUNKED = ((b"Transfer-Encoding", b"chunked"),)


def cut_data(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cut `data` at each of `cuts`, modulo its length."""
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[low:high] for low, high in itertools.pairwise(edges) if low < high]


def feed_all(body: BodyReader, data: bytes, cuts: list[int]) -> bytes:
    """Feed `data` in pieces; return the payload. `trailing_data` is what follows the end."""
    payload = b""
    for piece in cut_data(data, cuts):
        if body.is_complete:
            body.trailing_data += piece
        else:
            payload += body.feed(piece)
    return payload


class ChunkedReaderTests(SynchronousTestCase):
    @given(
        st.lists(st.binary(min_size=1, max_size=300), max_size=8),
        st.lists(st.integers(0, 3000), max_size=12),
        st.sampled_from([b"", b"GET / HTTP/1.1", b"\r\n"]),
        st.sampled_from([b"", b"Checksum: 1\r\nOther: 2\r\n"]),
    )
    def test_payload_does_not_depend_on_the_cuts(
        self, chunks: list[bytes], cuts: list[int], following: bytes, trailers: bytes
    ) -> None:
        encoded = b"".join(b"%X\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
        body = ChunkedReader()
        payload = feed_all(body, encoded + b"0;last=1\r\n" + trailers + b"\r\n" + following, cuts)
        self.assertEqual(
            (payload, body.is_complete, body.trailing_data), (b"".join(chunks), True, following)
        )
        body.feed_eof()

    @given(
        st.lists(
            st.sampled_from((b"a\n", b"\r\n", b"\r", b"2\r\nok\r\n", b"0\r\n\r\n", b"x" * 99)),
            max_size=20,
        ),
        st.sampled_from((b"%X", b"%x", b"%04x", b"%09x", b"%x ", b"%x;name=value")),
        st.lists(st.integers(0, 3000), max_size=3),
    )
    def test_many_chunks_in_a_read_are_decoded_like_one_by_one(
        self, chunks: list[bytes], size: bytes, cuts: list[int]
    ) -> None:
        encoded = b"".join(b"%b\r\n%b\r\n" % (size % len(chunk), chunk) for chunk in chunks)
        body = ChunkedReader()
        payload = feed_all(body, encoded + b"0\r\n\r\n", cuts)
        self.assertEqual(payload, b"".join(chunks))
        body.feed_eof()

    def test_refuses_a_wrong_size_among_many_chunks(self) -> None:
        whole = b"2\r\na\n\r\n"
        for wrong in (b"3", b"1", b"-2", b"+2", b"0x2", b" 2", b"2_", b"", b"\n2", b"2\n"):
            with self.subTest(wrong), self.assertRaises(BadFraming):
                ChunkedReader().feed(whole * 3 + wrong + whole[1:] + whole * 3)

    def test_returns_complete_chunks_of_one_read_at_once_and_holds_back_a_partial_one(self) -> None:
        body = ChunkedReader()
        self.assertEqual(body.feed(b"2\r\na\n\r\n2\r\nb\n\r\n2\r\nc"), b"a\nb\n")
        self.assertEqual(body.feed(b"\n"), b"c\n")

    def test_refuses_an_invalid_chunk_size_at_once(self) -> None:
        for wrong in (b"x\r\n", b"-1\r\n", b"+1\r\n", b"0x1\r\n", b"1_0\r\n", b" 1\r\n",
                      b"\r\n", b"1" * 17 + b"\r\n", b"1\n", b"1 ;\rx\r\n", b"1\r\nab\r\n",
                      b"1\r\na\n"):  # fmt: skip
            for cuts in ([], list(range(len(wrong)))):
                with self.assertRaises(BadFraming, msg=wrong):
                    feed_all(ChunkedReader(), wrong, cuts)

    def test_limits_chunk_extensions_and_trailers(self) -> None:
        with self.assertRaises(BadFraming):
            feed_all(ChunkedReader(), b"1;" + b"x" * (MAX_CHUNK_LINE + 10), [100, 2000])
        with self.assertRaises(BadFraming):
            feed_all(ChunkedReader(), b"0\r\n" + b"a: b\r\n" * MAX_TRAILERS, [100, 20_000])

    def test_refuses_an_end_before_the_last_chunk(self) -> None:
        for short in (b"", b"1", b"1\r\na", b"1\r\na\r\n", b"0\r\n"):
            body = ChunkedReader()
            body.feed(short)
            with self.assertRaises(BadFraming):
                body.feed_eof()


class UnchunkedReaderTests(SynchronousTestCase):
    @given(st.binary(max_size=50), st.lists(st.integers(0, 60), max_size=5), st.binary(max_size=5))
    def test_content_length_reader_takes_exactly_its_length(
        self, payload: bytes, cuts: list[int], following: bytes
    ) -> None:
        body = ContentLengthReader(len(payload))
        self.assertEqual(feed_all(body, payload + following, cuts), payload)
        self.assertEqual((body.is_complete, body.trailing_data), (True, following))

    def test_content_length_reader_refuses_an_early_end(self) -> None:
        body = ContentLengthReader(3)
        body.feed(b"ab")
        with self.assertRaises(BadFraming):
            body.feed_eof()

    def test_until_close_reader_takes_everything(self) -> None:
        body = UntilCloseReader()
        self.assertEqual((body.feed(b"a"), body.is_complete), (b"a", False))
        body.feed_eof()
        self.assertTrue(body.is_complete)


class BodyEncoderTests(SynchronousTestCase):
    @given(st.lists(st.binary(max_size=40), max_size=6))
    def test_encoded_chunks_are_decoded_to_the_same_payload(self, pieces: list[bytes]) -> None:
        """Empty data is no chunk: an empty chunk would be the last."""
        encoder, body = BodyEncoder(CHUNKED), ChunkedReader()
        encoded = b"".join(map(encoder.encode, pieces)) + encoder.encode_end()
        self.assertEqual((body.feed(encoded), body.is_complete), (b"".join(pieces), True))
        self.assertTrue(encoder.is_complete)

    def test_refuses_more_or_less_data_than_the_length(self) -> None:
        encoder = BodyEncoder(((b"content-length", b"3"),))
        self.assertEqual(encoder.encode(b"ab"), b"ab")
        with self.assertRaises(BadFraming):
            encoder.encode_end()
        with self.assertRaises(BadFraming):
            encoder.encode(b"cd")
        with self.assertRaises(BadFraming):
            BodyEncoder(()).encode(b"x")

    def test_refuses_ambiguous_headers(self) -> None:
        length = (b"Content-Length", b"1")
        for headers in (
            (*CHUNKED, length),
            (length, (b"content-length", b"2")),
            ((b"Content-Length", b"+1"),),
            ((b"Content-Length", b"1, 1"),),
            ((b"Content-Length", b""),),
            ((b"Transfer-Encoding", b"gzip, chunked"),),
            (*CHUNKED, *CHUNKED),
        ):
            with self.assertRaises(BadFraming, msg=headers):
                BodyEncoder(headers)

    def test_equal_content_lengths_count_as_one(self) -> None:
        self.assertEqual(content_length(((b"Content-Length", b" 7"), (b"content-length", b"7"))), 7)
        self.assertIsNone(content_length(()))
        self.assertEqual((is_chunked(CHUNKED), is_chunked(())), (True, False))
