"""What was written whole stays whole: where chunks are read, waited for, and cut into frames."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.errors import ClientDisconnected, OllamaDown
from ctllm.http.client.connection_pool import ConnectionPool
from ctllm.http.client.request import PARTIAL_CHUNK_TIMEOUT, ClientRequest
from ctllm.http.message.body import MAX_HELD_CHUNK, ChunkedReader
from ctllm.http.message.head import RequestHead
from ctllm.tunnel.flow_control import ReceiveWindow, SendBuffer
from ctllm.tunnel.frames import MAX_DATA
from tests.unit.fakes import FakeEndpoint, FakeResponseSink, MemoryTransport

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Reading(SynchronousTestCase):
    """Chunks out of the bytes of a connection."""

    def test_a_chunk_goes_on_whole(self) -> None:
        """Its beginning is held until all of it is there, though not its own line end."""
        body = ChunkedReader()
        self.assertEqual((body.feed(b"a\r\nabc"), body.has_partial_chunk), (b"", True))
        self.assertEqual((body.feed(b"defg"), body.has_partial_chunk), (b"", True))
        self.assertEqual((body.feed(b"hij"), body.has_partial_chunk), (b"abcdefghij", False))
        self.assertEqual((body.feed(b"\r\n0\r\n\r\n"), body.is_complete), (b"", True))

    def test_what_is_held_can_be_let_go(self) -> None:
        """Then the rest is waited for as if it were a chunk."""
        body = ChunkedReader()
        body.feed(b"a\r\nabc")
        self.assertEqual(
            (body.take_partial_chunk(), body.has_partial_chunk, body.take_partial_chunk()),
            (b"abc", False, b""),
        )
        self.assertEqual((body.feed(b"de"), body.has_partial_chunk), (b"", True))
        self.assertEqual(body.feed(b"fghij\r\n1\r\nk\r\n"), b"defghijk")

    def test_a_very_long_chunk_is_not_held(self) -> None:
        """Memory is bounded: one that is longer than a frame passes as it comes."""
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
    def test_any_cut(self, chunks: list[bytes], cuts: list[int]) -> None:
        """However the bytes come, each piece that goes on ends where a chunk ends."""
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


class Waiting(SynchronousTestCase):
    """An exchange with a server whose chunks come in parts."""

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

    def test_the_rest_is_on_its_way(self) -> None:
        """A chunk in two reads is one piece, and nothing is left to wait for."""
        self.wire.protocol.dataReceived(b"5\r\nab")
        self.assertEqual(self.heard.body, b"")
        self.clock.advance(PARTIAL_CHUNK_TIMEOUT / 2)
        self.wire.protocol.dataReceived(b"cde\r\n")
        self.assertEqual((self.heard.body, self.clock.getDelayedCalls()), (b"abcde", []))

    def test_the_rest_does_not_come(self) -> None:
        """After a moment from when it began, what there is goes on; the same for what follows."""
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

    def test_each_chunk_has_its_own_time(self) -> None:
        """In a flood every read ends within some chunk, and none is let go for an older one."""
        self.wire.protocol.dataReceived(b"5\r\nab")
        for _ in range(5):
            self.clock.advance(PARTIAL_CHUNK_TIMEOUT * 0.7)
            self.wire.protocol.dataReceived(b"cde\r\n5\r\nab")
        self.assertEqual(self.heard.body, b"abcde" * 5)

    def test_nobody_waits_for_what_is_not_read(self) -> None:
        """While the caller has it pause, the rest cannot come; afterwards it gets its time."""
        self.wire.protocol.dataReceived(b"5\r\nab")
        self.call.pause_response()
        self.clock.advance(PARTIAL_CHUNK_TIMEOUT * 10)
        self.assertEqual(self.heard.body, b"")
        self.call.resume_response()
        self.clock.advance(PARTIAL_CHUNK_TIMEOUT)
        self.assertEqual(self.heard.body, b"ab")

    def test_what_is_held_comes_before_the_failure(self) -> None:
        """An answer that breaks off within a chunk loses nothing of it."""
        self.wire.protocol.dataReceived(b"5\r\nab")
        self.wire.disconnect()
        self.assertEqual((self.heard.body, str(type(self.heard.outcome).__name__)),
                         (b"ab", "BadGateway"))  # fmt: skip
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_caller_that_left(self) -> None:
        """Nothing is waited for, and nothing said."""
        self.wire.protocol.dataReceived(b"5\r\nab")
        self.call.cancel(ClientDisconnected("the client left"))
        self.assertEqual((self.clock.getDelayedCalls(), self.heard.body), ([], b""))


class Cutting(SynchronousTestCase):
    """Where the sending end of a tunnel cuts."""

    def test_after_a_line(self) -> None:
        """A piece ends with the last line that fits its share."""
        out = SendBuffer(1000)
        out.append(b"123\n567\n9\n")
        self.assertEqual([out.next_chunk(9), out.next_chunk(9)], [(0, b"123\n567\n"), (8, b"9\n")])

    def test_after_an_event(self) -> None:
        """Where events end with an empty line, none is cut at another line's end."""
        out = SendBuffer(1000)
        out.append(b"event: a\ndata: b\n\nevent: c\ndata: d\n\n")
        self.assertEqual([out.next_chunk(28), out.next_chunk(28)], [
            (0, b"event: a\ndata: b\n\n"), (18, b"event: c\ndata: d\n\n")])  # fmt: skip

    def test_a_line_longer_than_its_share(self) -> None:
        """Goes whole, up to what a frame holds; what has no line is cut anywhere."""
        out = SendBuffer(10 * MAX_DATA)
        out.append(b"x" * 99 + b"\nyy\n")
        self.assertEqual(out.next_chunk(10), (0, b"x" * 99 + b"\n"))
        out = SendBuffer(10 * MAX_DATA)
        out.append(b"x" * MAX_DATA + b"\nyy\n")
        self.assertEqual(out.next_chunk(10), (0, b"x" * 10))
        out = SendBuffer(1000)
        out.append(b"x" * 99)
        self.assertEqual(out.next_chunk(10), (0, b"x" * 10))

    def test_a_line_for_which_there_is_no_room_waits(self) -> None:
        """While so much is under way that an acknowledgement must come; it is not ready before."""
        out = SendBuffer(100)
        out.append(b"x" * 59 + b"\n" + b"y" * 59 + b"\n")
        self.assertEqual(out.next_chunk(100), (0, b"x" * 59 + b"\n"))
        self.assertEqual((out.next_chunk(100), out.can_send), (None, False))
        out.acknowledge(60)
        self.assertTrue(out.can_send)
        self.assertEqual(out.next_chunk(100), (60, b"y" * 59 + b"\n"))

    def test_a_line_that_no_window_holds_does_not_wait(self) -> None:
        """With little under way nobody need ever acknowledge it: it is cut."""
        out = SendBuffer(100)
        out.append(b"x\n" + b"y" * 150 + b"\n")
        self.assertEqual([out.next_chunk(100), out.next_chunk(100)], [(0, b"x\n"), (2, b"y" * 98)])

    def test_after_a_new_attachment_nothing_waits(self) -> None:
        """What was said before is said again."""
        out = SendBuffer(100)
        out.append(b"x" * 59 + b"\n" + b"y" * 59 + b"\n")
        self.assertEqual((out.next_chunk(100), out.next_chunk(100)), ((0, b"x" * 59 + b"\n"), None))
        out.rewind(0)
        self.assertTrue(out.can_send)
        self.assertEqual(out.next_chunk(100), (0, b"x" * 59 + b"\n"))

    @settings(max_examples=300)
    @given(st.data(), st.integers(1, 200), st.integers(1, 64), st.booleans())
    def test_any_window(self, data: st.DataObject, window: int, share: int, events: bool) -> None:
        """All arrives however window and share lie; lines that fit half the window are whole."""
        end = b"\n\n" if events else b"\n"
        out, into = SendBuffer(window), ReceiveWindow(window)
        fits = window // 2 - len(end)
        sizes = data.draw(st.lists(st.integers(1, max(fits, 9)), max_size=20))
        sent = b"".join(b"x" * size + end for size in sizes)
        ends = {at for at in range(len(sent) + 1) if sent[:at].endswith(end)}
        out.append(sent)
        got = b""
        while out.can_send:
            piece = out.next_chunk(share)
            if piece is not None:
                into.receive(piece[0], len(piece[1]))
                got += piece[1]
                if max(sizes) <= fits:
                    self.assertIn(len(got), ends)
            if data.draw(st.booleans()) or not out.can_send:
                into.consume_all()
                if into.is_ack_due:
                    out.acknowledge(into.acknowledge())
        self.assertEqual(got, sent)
