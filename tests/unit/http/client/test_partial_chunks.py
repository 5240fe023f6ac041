"""Chunks of a response that arrive in parts: how long the client holds them back."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.errors import ClientDisconnected, OllamaDown
from ctllm.http.client.connection_pool import ConnectionPool
from ctllm.http.client.request import PARTIAL_CHUNK_TIMEOUT, ClientRequest
from ctllm.http.message.body import MAX_HELD_CHUNK, ChunkedReader
from ctllm.http.message.head import RequestHead
from tests.unit.fakes import FakeEndpoint, FakeResponseSink, MemoryTransport

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class ChunkedReaderTests(SynchronousTestCase):
    """Incomplete chunks in the reader."""

    def test_returns_a_chunk_when_it_is_complete(self) -> None:
        body = ChunkedReader()
        self.assertEqual((body.feed(b"a\r\nabc"), body.has_partial_chunk), (b"", True))
        self.assertEqual((body.feed(b"defg"), body.has_partial_chunk), (b"", True))
        self.assertEqual((body.feed(b"hij"), body.has_partial_chunk), (b"abcdefghij", False))
        self.assertEqual((body.feed(b"\r\n0\r\n\r\n"), body.is_complete), (b"", True))

    def test_take_partial_chunk_returns_the_held_part(self) -> None:
        body = ChunkedReader()
        body.feed(b"a\r\nabc")
        self.assertEqual(
            (body.take_partial_chunk(), body.has_partial_chunk, body.take_partial_chunk()),
            (b"abc", False, b""),
        )
        self.assertEqual((body.feed(b"de"), body.has_partial_chunk), (b"", True))
        self.assertEqual(body.feed(b"fghij\r\n1\r\nk\r\n"), b"defghijk")

    def test_does_not_hold_a_chunk_over_the_limit(self) -> None:
        body = ChunkedReader()
        self.assertEqual(body.feed(b"%x\r\nabc" % (MAX_HELD_CHUNK + 1)), b"abc")
        self.assertEqual((body.feed(b"defg"), body.has_partial_chunk), (b"defg", False))
        body = ChunkedReader()
        self.assertEqual(
            (body.feed(b"%x\r\nabc" % MAX_HELD_CHUNK), body.has_partial_chunk), (b"", True)
        )

    @given(
        st.lists(st.binary(min_size=1, max_size=300), max_size=8), st.lists(st.integers(0, 3000))
    )
    def test_returns_whole_chunks_however_data_is_cut(
        self, chunks: list[bytes], cuts: list[int]
    ) -> None:
        wire = b"".join(map(chunk, chunks)) + b"0\r\n\r\n"
        edges = [0, *sorted({cut % (len(wire) + 1) for cut in cuts}), len(wire)]
        ends = {0, *itertools.accumulate(map(len, chunks))}
        body, got = ChunkedReader(), b""
        for low, high in itertools.pairwise(edges):
            if low < high:
                got += body.feed(wire[low:high])
                self.assertIn(len(got), ends)
        self.assertEqual(
            (got, body.is_complete, body.has_partial_chunk), (b"".join(chunks), True, False)
        )


class PartialChunkTimeoutTests(SynchronousTestCase):
    """A request whose response has chunks that arrive in parts."""

    def setUp(self) -> None:
        self.clock = Clock()
        place = FakeEndpoint()
        origin = ConnectionPool(place, self.clock, "Ollama", OllamaDown)
        self.heard = FakeResponseSink()
        call = origin.start_request(RequestHead(b"GET", b"/"), self.heard)
        assert isinstance(call, ClientRequest)
        self.call = call
        self.wire: MemoryTransport = place.accept()
        call.finish()
        self.wire.protocol.dataReceived(HEAD)

    def test_passes_on_a_chunk_in_two_reads_as_one(self) -> None:
        self.wire.protocol.dataReceived(b"5\r\nab")
        self.assertEqual(self.heard.body, b"")
        self.clock.advance(PARTIAL_CHUNK_TIMEOUT / 2)
        self.wire.protocol.dataReceived(b"cde\r\n")
        self.assertEqual((self.heard.body, self.clock.getDelayedCalls()), (b"abcde", []))

    def test_passes_on_the_part_after_the_timeout(self) -> None:
        self.wire.protocol.dataReceived(b"5\r\nab")
        self.clock.advance(PARTIAL_CHUNK_TIMEOUT / 2)
        self.wire.protocol.dataReceived(b"c")
        self.assertEqual(self.heard.body, b"")
        self.clock.advance(PARTIAL_CHUNK_TIMEOUT / 2)
        self.assertEqual(self.heard.body, b"abc")
        self.wire.protocol.dataReceived(b"d")
        self.assertEqual(self.heard.body, b"abc")
        self.clock.advance(PARTIAL_CHUNK_TIMEOUT)
        self.assertEqual(self.heard.body, b"abcd")

    def test_timeout_counts_for_each_chunk(self) -> None:
        self.wire.protocol.dataReceived(b"5\r\nab")
        for _ in range(5):
            self.clock.advance(PARTIAL_CHUNK_TIMEOUT * 0.7)
            self.wire.protocol.dataReceived(b"cde\r\n5\r\nab")
        self.assertEqual(self.heard.body, b"abcde" * 5)

    def test_pause_stops_the_timeout(self) -> None:
        self.wire.protocol.dataReceived(b"5\r\nab")
        self.call.pause_response()
        self.clock.advance(PARTIAL_CHUNK_TIMEOUT * 10)
        self.assertEqual(self.heard.body, b"")
        self.call.resume_response()
        self.clock.advance(PARTIAL_CHUNK_TIMEOUT)
        self.assertEqual(self.heard.body, b"ab")

    def test_passes_on_the_part_before_a_failure(self) -> None:
        self.wire.protocol.dataReceived(b"5\r\nab")
        self.wire.disconnect()
        self.assertEqual((self.heard.body, str(type(self.heard.outcome).__name__)),
                         (b"ab", "BadGateway"))  # fmt: skip
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancel_stops_the_timeout(self) -> None:
        self.wire.protocol.dataReceived(b"5\r\nab")
        self.call.cancel(ClientDisconnected("the client left"))
        self.assertEqual((self.clock.getDelayedCalls(), self.heard.body), ([], b""))
