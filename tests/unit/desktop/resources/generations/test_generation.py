"""`ctllm.desktop.resources.generations.generation`: a response, and its readers."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.resources.generations.generation import PIECE, Generation, Reader, State
from ctllm.errors import BadGateway, ClientDisconnected
from ctllm.http.message.head import RequestHead, ResponseHead
from tests.unit.fakes import FakeRequestSink, FakeResponseSink

HEAD = ResponseHead(200, b"OK", ((b"Content-Type", b"application/x-ndjson"),))


class GenerationCase(SynchronousTestCase):
    """A generation, and the end of its request."""

    def setUp(self) -> None:
        self.make()

    def make(self, limit: int = 10**6, body: bytes = b"{}") -> None:
        self.changes: list[State] = []
        self.reserved: list[int] = []
        self.may_reserve = True
        self.generation = Generation(limit, self.reserve, self.changed)
        self.ollama: Any = FakeRequestSink()
        self.generation.start(
            lambda head, sink: self.ollama, RequestHead(b"POST", b"/api/chat", ()), body
        )

    def reserve(self, count: int) -> bool:
        self.reserved.append(count)
        return self.may_reserve

    def changed(self) -> None:
        self.changes.append(self.generation.state)

    def add_reader(self, offset: int = 0) -> tuple[Any, Reader]:
        sink: Any = FakeResponseSink()
        reader = self.generation.add_reader(sink, offset)
        reader.finish()
        return sink, reader


class ReaderTests(GenerationCase):
    """Readers."""

    def test_a_reader_follows_the_response(self) -> None:
        sink, _ = self.add_reader()
        self.assertIsNone(sink.head)
        self.generation.write_head(HEAD)
        self.generation.write(b"one\n")
        self.generation.write(b"two\n")
        self.assertEqual((sink.head, sink.data), (HEAD, b"one\ntwo\n"))
        self.assertFalse(sink.is_finished)
        self.generation.finish()
        self.assertTrue(sink.is_finished)
        self.assertEqual(self.generation.state, State.COMPLETE)

    def test_nothing_is_sent_before_the_request_is_complete(self) -> None:
        """Before that, its sender could not pause or cancel the response."""
        self.generation.write_head(HEAD)
        self.generation.write(b"one\n")
        sink: Any = FakeResponseSink()
        reader = self.generation.add_reader(sink, 0)
        self.generation.write(b"two\n")
        self.generation.finish()
        self.assertEqual((sink.head, sink.outcome), (None, None))
        reader.finish()
        self.assertEqual((sink.data, sink.is_finished), (b"one\ntwo\n", True))

    def test_a_late_reader_gets_the_rest(self) -> None:
        self.generation.write_head(HEAD)
        self.generation.write(b"one\ntwo\n")
        self.generation.finish()
        for offset in range(9):
            sink, _ = self.add_reader(offset)
            self.assertEqual((sink.data, sink.is_finished), (b"one\ntwo\n"[offset:], True))

    def test_a_paused_reader_holds_up_no_other(self) -> None:
        slow, reader = self.add_reader()
        quick, _ = self.add_reader()
        self.generation.write_head(HEAD)
        reader.pause_response()
        self.generation.write(b"one\n")
        self.generation.finish()
        self.assertEqual((quick.data, quick.is_finished), (b"one\n", True))
        self.assertEqual((slow.data, slow.is_finished), (b"", False))
        reader.resume_response()
        self.assertEqual((slow.data, slow.is_finished), (b"one\n", True))

    def test_a_reader_that_is_behind_is_paused_between_pieces(self) -> None:
        self.generation.write_head(HEAD)
        self.generation.write(bytes(3 * PIECE))
        sink: Any = FakeResponseSink()
        reader = Reader(self.generation, sink, 0)
        write = sink.write

        def write_and_pause(data: bytes) -> None:
            write(data)
            reader.pause_response()

        sink.write = write_and_pause
        reader.finish()
        self.assertEqual(len(sink.data), PIECE)
        reader.resume_response()
        self.assertEqual(len(sink.data), 2 * PIECE)

    def test_nothing_is_sent_to_a_reader_that_left_meanwhile(self) -> None:
        self.generation.write_head(HEAD)
        self.generation.write(bytes(3 * PIECE))
        sink: Any = FakeResponseSink()
        reader = Reader(self.generation, sink, 0)
        write = sink.write

        def write_and_leave(data: bytes) -> None:
            write(data)
            reader.cancel(ClientDisconnected("left"))

        sink.write = write_and_leave
        reader.finish()
        self.generation.finish()
        self.assertEqual((len(sink.data), sink.is_finished), (PIECE, False))

    def test_readers_come_and_leave(self) -> None:
        _, reader = self.add_reader()
        self.assertEqual((self.generation.reader_count, len(self.changes)), (1, 1))
        reader.cancel(ClientDisconnected("left"))
        reader.cancel(ClientDisconnected("left"))
        self.assertEqual((self.generation.reader_count, len(self.changes)), (0, 2))
        self.assertEqual(self.generation.state, State.RUNNING)

    @given(st.lists(st.binary(max_size=9), max_size=9), st.integers(0, 9), st.data())
    def test_every_byte_arrives_once_however_a_reader_comes_back(
        self, chunks: list[bytes], cut: int, data: Any
    ) -> None:
        self.make()
        self.generation.write_head(HEAD)
        received = b""
        sink, reader = self.add_reader()
        for index, chunk in enumerate(chunks):
            if chunk:
                self.generation.write(chunk)
            if index == cut:
                reader.cancel(ClientDisconnected("left"))
                received = sink.data[: data.draw(st.integers(0, len(sink.data)))]
                sink, reader = self.add_reader(len(received))
        self.generation.finish()
        self.assertEqual(received + sink.data, b"".join(chunks))
        self.assertTrue(sink.is_finished)

    def test_the_head_is_not_held_up_by_a_pause(self) -> None:
        sink, reader = self.add_reader()
        reader.pause_response()
        self.generation.write_head(HEAD)
        self.generation.write(b"one\n")
        self.assertEqual((sink.head, sink.data), (HEAD, b""))

    def test_a_pause_before_the_request_is_complete_holds(self) -> None:
        self.generation.write_head(HEAD)
        self.generation.write(b"one\n")
        sink: Any = FakeResponseSink()
        reader = self.generation.add_reader(sink, 0)
        reader.pause_response()
        reader.finish()
        self.assertEqual((sink.head, sink.data), (HEAD, b""))
        reader.resume_response()
        self.assertEqual(sink.data, b"one\n")

    @given(st.lists(st.lists(st.sampled_from(("pause", "resume")), max_size=3), max_size=9))
    def test_a_sink_may_pause_and_resume_while_it_is_written_to(
        self, reactions: list[list[str]]
    ) -> None:
        """Each byte arrives once, in order, and none within the writing of another."""
        self.make()
        self.generation.write_head(HEAD)
        response = bytes(index // PIECE for index in range(5 * PIECE))
        self.generation.write(response)
        sink = _ReactingSink(reactions)
        sink.reader = reader = self.generation.add_reader(sink, 0)
        reader.finish()
        self.generation.finish()
        while not sink.is_finished:
            reader.resume_response()
            reader.pause_response()
        self.assertEqual(sink.data, response)


class _ReactingSink(FakeResponseSink):
    """Pauses and resumes the response from within `write`."""

    def __init__(self, reactions: list[list[str]]) -> None:
        super().__init__()
        self.reader: Reader | None = None
        self._reactions = reactions
        self._is_writing = False

    def write(self, data: bytes) -> None:
        """Receive data, and react."""
        assert not self._is_writing and self.reader is not None
        self._is_writing = True
        for reaction in self._reactions.pop(0) if self._reactions else ():
            if reaction == "pause":
                self.reader.pause_response()
            else:
                self.reader.resume_response()
        self._is_writing = False
        super().write(data)


class EndTests(GenerationCase):
    """How generations end."""

    def test_cancelling_closes_the_connection_to_ollama(self) -> None:
        sink, _ = self.add_reader()
        self.generation.write_head(HEAD)
        self.generation.write(b"one\n")
        self.generation.cancel()
        self.assertEqual(self.generation.state, State.CANCELLED)
        self.assertIsInstance(self.ollama.error, ClientDisconnected)
        self.assertEqual(sink.error.code, "cancelled")
        self.generation.write(b"late")
        self.generation.finish()
        self.assertEqual((self.generation.size, self.generation.state), (4, State.CANCELLED))

    def test_a_failure_reaches_present_and_later_readers_after_the_data(self) -> None:
        early, _ = self.add_reader()
        self.generation.write_head(HEAD)
        self.generation.write(b"one\n")
        self.generation.fail(BadGateway("Ollama broke off."))
        late, _ = self.add_reader(1)
        self.assertEqual((early.data, early.error.code), (b"one\n", "upstream_failed"))
        self.assertEqual((late.data, late.error.code), (b"ne\n", "upstream_failed"))
        self.assertEqual(self.generation.state, State.FAILED)

    def test_a_refusal_of_ollama_passes_and_is_a_failure(self) -> None:
        sink, _ = self.add_reader()
        self.generation.write_head(ResponseHead(404, b"", ((b"Content-Length", b"9"),)))
        self.generation.write(b"not found")
        self.generation.finish()
        self.assertEqual((sink.head.status, sink.head.headers), (404, ()))
        self.assertEqual((sink.data, sink.is_finished), (b"not found", True))
        self.assertEqual(self.generation.state, State.FAILED)

    def test_a_response_beyond_the_limit_is_stopped(self) -> None:
        self.make(limit=5)
        sink, _ = self.add_reader()
        self.generation.write_head(HEAD)
        self.generation.write(b"12345")
        self.generation.write(b"6")
        self.assertEqual((sink.data, sink.error.code), (b"12345", "too_large"))
        self.assertIsNotNone(self.ollama.error)

    def test_a_response_without_memory_is_stopped(self) -> None:
        sink, _ = self.add_reader()
        self.generation.write_head(HEAD)
        self.generation.write(b"123")
        self.may_reserve = False
        self.generation.write(b"45")
        self.assertEqual((sink.data, sink.error.code), (b"123", "overloaded"))
        self.assertEqual(self.reserved, [3, 2])
        self.assertIsNotNone(self.ollama.error)

    def test_readers_of_a_released_response_fail(self) -> None:
        self.generation.write_head(HEAD)
        self.generation.write(b"123")
        sink, reader = self.add_reader()
        reader.pause_response()
        self.generation.finish()
        self.generation.release()
        self.assertEqual((sink.error.code, self.generation.size), ("gone", 0))


class RequestTests(GenerationCase):
    """The request to Ollama."""

    def test_the_whole_body_is_sent(self) -> None:
        self.make(body=bytes(2 * PIECE + 1))
        self.assertEqual((len(self.ollama.data), self.ollama.is_finished), (2 * PIECE + 1, True))

    def test_a_paused_request_waits(self) -> None:
        body = bytes(2 * PIECE)
        self.generation = Generation(9, self.reserve, self.changed)
        ollama: Any = FakeRequestSink()
        write = ollama.write

        def write_and_pause(data: bytes) -> None:
            write(data)
            self.generation.pause_request_body()

        ollama.write = write_and_pause
        self.generation.start(lambda head, sink: ollama, RequestHead(b"POST", b"/", ()), body)
        self.assertEqual((len(ollama.data), ollama.is_finished), (PIECE, False))
        self.generation.resume_request_body()
        self.assertEqual((len(ollama.data), ollama.is_finished), (2 * PIECE, True))
