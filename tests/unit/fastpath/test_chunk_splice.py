"""Chunks that pass from one socket to another as they are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.fastpath.chunk_splice import ChunkSplice
from tests.unit.fakes import MemoryTlsTransport, MemoryTransport, SocketTransport


class RecordingProtocol:
    """Records what the source's protocol receives."""

    def __init__(self) -> None:
        self.received: list[bytes] = []

    def dataReceived(self, data: bytes) -> None:
        self.received.append(data)


class ChunkSpliceTests(SynchronousTestCase):
    """A splice of two sockets, whose chunks end with a line break."""

    def setUp(self) -> None:
        self.source, self.target = SocketTransport(), SocketTransport()
        self.source.protocol = self.protocol = RecordingProtocol()
        self.last: list[bytes] = []
        self.splice = ChunkSplice(self.source, self.target, b"\n", self.last.append)
        self.splice.start()

    def test_sends_a_chunk_as_it_is(self) -> None:
        self.source.receive(b"5\r\nabcd\n\r\n", b"10\r\nabcdefghijklmno\n\r\n")
        self.assertEqual(self.target.socket.sent, b"5\r\nabcd\n\r\n10\r\nabcdefghijklmno\n\r\n")
        self.assertEqual((self.protocol.received, self.last), ([], []))

    def test_sends_nothing_else(self) -> None:
        """Nothing that a client might read in another way than the parser of responses."""
        for data in (
            b"0\r\n\r\n",  # the last chunk
            b"0\r\n\n\r\n",
            b"5\r\nabcd\n\r\n0\r\n\r\n",
            b"2\r\na\n\r\n2\r\nb\n\r\n0\r\n\r\n5\r\nabcd\n\r\n",
            b"2\r\na\n\r\n3\r\nb\n\r\n",
            b"1\r\na\r\n2\r\nb\n\r\n",  # the first is not a whole line
            b"2\r\na\n\r\n2\r\nb\n\r\n\n\r\n",
            b"2\r\na\n\r\n02\r\nb\n\r\n",
            b"2\r\na\n2\r\nb\n\r\n",
            b"3\r\na\n\r\n2\r\nb\n\r\n",
            b"2\r\na\n\r\n7\r\nb\n\r\n",
            b"5\r\nabc\n\r\n",  # shorter than its size
            b"5\r\nabcde\n\r\n",  # longer
            b"5\r\nabcd\n\n",
            b"5\r\nabcd\n\r",
            b"5\r\nab",
            b"5\r\nabcde\r\n",  # not a whole line
            b"05\r\nabcd\n\r\n",
            b"5 \r\nabcd\n\r\n",
            b"5;a=b\r\nabcd\n\r\n",
            b"5\nabcd\n\r\n",
            b"A\r\nabcdefghi\n\r\n",
            b"0x5\r\nabcd\n\r\n",
            b"+5\r\nabcd\n\r\n",
            b"5\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n\n\r\n",
            b"\n\r\n",
            b"\r\n\n\r\n",
            b"\0\0\0\n\r\n",
        ):
            self.setUp()
            self.source.receive(data)
            self.assertEqual((self.target.flush(), self.protocol.received), (b"", [data]), data)

    def test_line_breaks_within_a_chunk_are_its_content(self) -> None:
        event = b"13\r\ndata: one\r\ntwo\r\n\r\n\n\r\n"
        self.source.receive(event)
        self.splice.stop()
        self.assertEqual((self.target.flush(), self.protocol.received), (event, []))
        self.assertEqual(self.last, [b"data: one\r\ntwo\r\n\r\n\n"])

    def test_sends_several_chunks_as_they_are(self) -> None:
        chunks = b"2\r\na\n\r\n2\r\nb\n\r\n10\r\nabcdefghijklmno\n\r\n"
        self.source.receive(chunks)
        self.assertEqual((self.target.flush(), self.protocol.received), (chunks, []))
        self.splice.stop()
        self.assertEqual(self.last, [b"a\nb\nabcdefghijklmno\n"])

    @given(
        st.lists(st.binary(min_size=1, max_size=20), min_size=1),
        st.lists(st.tuples(st.integers(0, 400), st.sampled_from(b"\r\n0159aAfF;x \0"))),
    )
    def test_whatever_it_sends_is_whole_chunks(
        self, contents: list[bytes], changes: list[tuple[int, int]]
    ) -> None:
        """Chunks of any content, in which some bytes are changed."""
        self.setUp()
        lines = [content + b"\n" for content in contents]
        data = bytearray(b"".join(b"%x\r\n%b\r\n" % (len(line), line) for line in lines))
        for position, byte in changes:
            data[position % len(data)] = byte
        self.source.receive(bytes(data))
        rest = self.target.flush()
        self.assertEqual([rest, *self.protocol.received].count(bytes(data)), 1)
        self.assertTrue(rest or changes)
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            count = int(size, 16)
            self.assertEqual((b"%x" % count, rest[count : count + 2]), (size, b"\r\n"))
            rest = rest[count + 2 :]

    def test_every_length_of_a_chunk_is_recognised(self) -> None:
        sizes = (*range(1, 300), *range(4080, 4110), 65_535 - 8, 65_535, 65_536, 1_048_576)
        for size in sizes:
            chunk = b"%x\r\n%b\n\r\n" % (size, b"a" * (size - 1))
            self.source.receive(chunk)
            self.assertEqual((self.target.flush(), self.protocol.received), (chunk, []), size)

    def test_stops_at_other_data(self) -> None:
        self.source.receive(b"2\r\na\n\r\n", b"0\r\n\r\n", b"2\r\nb\n\r\n")
        self.assertEqual(self.target.flush(), b"2\r\na\n\r\n")
        self.assertEqual(self.protocol.received, [b"0\r\n\r\n", b"2\r\nb\n\r\n"])

    def test_tells_the_last_data_that_it_sent_when_it_stops(self) -> None:
        self.source.receive(b"2\r\na\n\r\n", b"3\r\nbb\n\r\n")
        self.splice.stop()
        self.splice.stop()
        self.assertEqual(self.last, [b"bb\n"])

    def test_starts_again(self) -> None:
        self.source.receive(b"x", b"2\r\na\n\r\n")
        self.splice.start()
        self.source.receive(b"2\r\nb\n\r\n")
        self.assertEqual(self.protocol.received, [b"x", b"2\r\na\n\r\n"])
        self.assertEqual(self.target.flush(), b"2\r\nb\n\r\n")

    def test_leaves_the_rest_to_the_transport_where_the_socket_is_full(self) -> None:
        for room in (0, 3):
            self.setUp()
            self.target.socket.room = room
            self.source.receive(b"2\r\na\n\r\n")
            self.assertEqual(self.target.flush(), b"2\r\na\n\r\n")

    def test_does_not_overtake_buffered_data(self) -> None:
        for name, value in (
            ("_tempDataBuffer", [b"x"]),
            ("dataBuffer", b"x"),
            ("disconnecting", True),
            ("connected", False),
        ):
            self.setUp()
            setattr(self.target, name, value)
            self.source.receive(b"2\r\na\n\r\n")
            self.assertEqual(
                (self.target.socket.sent, self.protocol.received), (b"", [b"2\r\na\n\r\n"]), name
            )

    def test_a_read_without_data_changes_nothing(self) -> None:
        self.assertIsNone(self.source.doRead())
        self.source.receive(b"2\r\na\n\r\n")
        self.assertEqual(self.target.flush(), b"2\r\na\n\r\n")

    def test_leaves_the_end_of_the_connection_to_the_transport(self) -> None:
        self.source.socket.unread.append(b"")
        result = self.source.receive(b"")
        self.assertEqual((type(result).__name__, self.last), ("ConnectionDone", []))
        self.setUp()
        self.source.socket.error = ConnectionResetError()
        self.assertEqual(type(self.source.doRead()).__name__, "ConnectionLost")

    def test_does_not_bring_an_aborted_connection_back(self) -> None:
        self.source.abortConnection()
        self.splice.stop()
        self.splice.start()
        self.source.receive(b"2\r\na\n\r\n")
        self.assertEqual((self.target.flush(), self.protocol.received), (b"", []))

    def test_does_not_start_where_a_transport_has_no_socket_of_its_own(self) -> None:
        for source, target in (
            (MemoryTransport(), SocketTransport()),
            (SocketTransport(), MemoryTransport()),
            (SocketTransport(), MemoryTlsTransport()),
        ):
            ChunkSplice(source, target, b"", self.last.append).start()
            self.assertNotIn("doRead", vars(source))
