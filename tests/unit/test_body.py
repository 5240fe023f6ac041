"""Bodies from the wire and onto it, however the bytes are cut."""

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


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` in pieces, cut at each of `cuts` that lies within."""
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[low:high] for low, high in itertools.pairwise(edges) if low < high]


def read(body: BodyReader, data: bytes, cuts: list[int]) -> bytes:
    """What `body` makes of `data` as it comes in pieces; what follows its end is left in `rest`."""
    found = b""
    for piece in pieces_of(data, cuts):
        if body.is_complete:
            body.trailing_data += piece
        else:
            found += body.feed(piece)
    return found


class ChunkedTests(SynchronousTestCase):
    """Bodies in chunks."""

    @given(
        st.lists(st.binary(min_size=1, max_size=300), max_size=8),
        st.lists(st.integers(0, 3000), max_size=12),
        st.sampled_from([b"", b"GET / HTTP/1.1", b"\r\n"]),
        st.sampled_from([b"", b"Checksum: 1\r\nOther: 2\r\n"]),
    )
    def test_any_cut(
        self, chunks: list[bytes], cuts: list[int], after: bytes, trailers: bytes
    ) -> None:
        """The payload is the same however its bytes arrive, and what follows is not of it."""
        wire = b"".join(b"%X\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
        body = ChunkedReader()
        got = read(body, wire + b"0;last=1\r\n" + trailers + b"\r\n" + after, cuts)
        self.assertEqual(
            (got, body.is_complete, body.trailing_data), (b"".join(chunks), True, after)
        )
        body.feed_eof()

    def test_one_read_is_one_piece(self) -> None:
        """Chunks that came together go on together, less one whose rest is still to come."""
        body = ChunkedReader()
        self.assertEqual(body.feed(b"2\r\na\n\r\n2\r\nb\n\r\n2\r\nc"), b"a\nb\n")
        self.assertEqual(body.feed(b"\n"), b"c\n")

    def test_no_size(self) -> None:
        """What is no size is refused as soon as it can be seen."""
        for wrong in (b"x\r\n", b"-1\r\n", b"+1\r\n", b"0x1\r\n", b"1_0\r\n", b" 1\r\n",
                      b"\r\n", b"1" * 17 + b"\r\n", b"1\n", b"1 ;\rx\r\n", b"1\r\nab\r\n",
                      b"1\r\na\n"):  # fmt: skip
            for cuts in ([], list(range(len(wrong)))):
                with self.assertRaises(BadFraming, msg=wrong):
                    read(ChunkedReader(), wrong, cuts)

    def test_bounded(self) -> None:
        """Extensions and trailers without end are refused."""
        with self.assertRaises(BadFraming):
            read(ChunkedReader(), b"1;" + b"x" * (MAX_CHUNK_LINE + 10), [100, 2000])
        with self.assertRaises(BadFraming):
            read(ChunkedReader(), b"0\r\n" + b"a: b\r\n" * MAX_TRAILERS, [100, 20_000])

    def test_cut_short(self) -> None:
        """A connection that closes before the last chunk ends no body."""
        for short in (b"", b"1", b"1\r\na", b"1\r\na\r\n", b"0\r\n"):
            body = ChunkedReader()
            body.feed(short)
            with self.assertRaises(BadFraming):
                body.feed_eof()


class OtherTests(SynchronousTestCase):
    """Bodies of a length, and those that end with their connection."""

    @given(st.binary(max_size=50), st.lists(st.integers(0, 60), max_size=5), st.binary(max_size=5))
    def test_sized(self, payload: bytes, cuts: list[int], after: bytes) -> None:
        """Exactly so many bytes."""
        body = ContentLengthReader(len(payload))
        self.assertEqual(read(body, payload + after, cuts), payload)
        self.assertEqual((body.is_complete, body.trailing_data), (True, after))

    def test_sized_cut_short(self) -> None:
        """Fewer are an error."""
        body = ContentLengthReader(3)
        body.feed(b"ab")
        with self.assertRaises(BadFraming):
            body.feed_eof()

    def test_to_the_end(self) -> None:
        """All there is."""
        body = UntilCloseReader()
        self.assertEqual((body.feed(b"a"), body.is_complete), (b"a", False))
        body.feed_eof()
        self.assertTrue(body.is_complete)


class WriterTests(SynchronousTestCase):
    """Bodies onto the wire."""

    @given(st.lists(st.binary(max_size=40), max_size=6))
    def test_what_is_written_is_read(self, pieces: list[bytes]) -> None:
        """In chunks, also where a piece is empty: an empty chunk would be the last."""
        writer, body = BodyEncoder(CHUNKED), ChunkedReader()
        wire = b"".join(map(writer.encode, pieces)) + writer.encode_end()
        self.assertEqual((body.feed(wire), body.is_complete), (b"".join(pieces), True))
        self.assertTrue(writer.is_complete)

    def test_lengths_are_kept(self) -> None:
        """More or fewer bytes than the head says are an error, not a second request."""
        writer = BodyEncoder(((b"content-length", b"3"),))
        self.assertEqual(writer.encode(b"ab"), b"ab")
        with self.assertRaises(BadFraming):
            writer.encode_end()
        with self.assertRaises(BadFraming):
            writer.encode(b"cd")
        with self.assertRaises(BadFraming):
            BodyEncoder(()).encode(b"x")

    def test_two_framings(self) -> None:
        """A head that can be read in two ways is written in none."""
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

    def test_what_heads_say(self) -> None:
        """The same length twice is one length."""
        self.assertEqual(content_length(((b"Content-Length", b" 7"), (b"content-length", b"7"))), 7)
        self.assertIsNone(content_length(()))
        self.assertEqual((is_chunked(CHUNKED), is_chunked(())), (True, False))
