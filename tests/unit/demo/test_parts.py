"""The parts of the demo, and the fake Ollama on a real socket."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from ctllm.demo.echo_model import RepeatedWord, split_words
from ctllm.demo.embeddings import embedding_of
from ctllm.demo.model_store import format_rfc3339, name_with_tag, parse_keep_alive
from ctllm.demo.schema_example import example_of
from ctllm.errors import BadRequest
from tests.fake_ollama import FakeOllama, Script
from tests.ports import listen, port_of


class PartsTests(SynchronousTestCase):
    def test_the_words_of_a_text_join_to_the_text(self) -> None:
        for text in ("", " a  b\n", "one", "ends \n"):
            self.assertEqual("".join(split_words(text)), text)

    def test_a_repeated_word_is_a_sequence_that_stores_it_once(self) -> None:
        many = RepeatedWord("x", 10**9)
        self.assertEqual((len(many), many[10**9 - 1], list(many[:2])), (10**9, "x", ["x", "x"]))
        self.assertRaises(IndexError, lambda: many[10**9])

    def test_an_example_matches_its_schema(self) -> None:
        """References are resolved, except recursive ones."""
        schema = {
            "$defs": {"Loop": {"type": "object", "properties": {"l": {"$ref": "#/$defs/Loop"}}}},
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "kind": {"enum": ["a", "b"]},
                "age": {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]},
                "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 2},
                "loop": {"$ref": "#/$defs/Loop"},
            },
        }
        example: Any = example_of(schema, "text")
        self.assertIn("l", example.pop("loop"))
        self.assertEqual(example, {"name": "text", "kind": "a", "age": 1, "tags": [False, False]})

    def test_names_get_the_tag_latest_and_times_are_in_utc(self) -> None:
        self.assertEqual(name_with_tag("hub:80/a"), "hub:80/a:latest")
        self.assertEqual(name_with_tag("a:b"), "a:b")
        self.assertEqual(format_rfc3339(1.5), "1970-01-01T00:00:01.500000Z")

    def test_parses_keep_alive_as_ollama_does(self) -> None:
        for value, seconds in ((None, 300), (7, 7), ("1h2m", 3720), ("0", 0), ("500ms", 0.5)):
            self.assertEqual(parse_keep_alive(value), seconds)
        self.assertGreater(parse_keep_alive("-1m"), 10**9)
        self.assertRaises(BadRequest, parse_keep_alive, "soon")

    def test_the_embedding_of_a_text_is_a_constant_unit_vector(self) -> None:
        self.assertEqual(embedding_of("a", 8), embedding_of("a", 8))
        self.assertNotEqual(embedding_of("a"), embedding_of("b"))
        self.assertAlmostEqual(sum(n * n for n in embedding_of("a")), 1.0)


class _Reader(Protocol):
    def __init__(self) -> None:
        self.data = b""
        self.closed: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed.callback(None)


class SocketTests(TestCase):
    async def test_paced_lines_arrive_complete_and_in_order(self) -> None:
        """Also when the socket buffer is full."""
        fake_ollama = FakeOllama(reactor)
        lines = tuple(f"{n} ".ljust(200_000, "x") for n in range(20))
        fake_ollama.script("/api/chat", Script(lines=lines, line_interval=0.0005))
        port = listen(reactor, fake_ollama.site)
        self.addCleanup(maybeDeferred, port.stopListening)
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port_of(port))
        reader = await connectProtocol(endpoint, _Reader())
        body = b'{"model":"demo:echo","messages":[{"role":"user","content":"x"}]}'
        head = b"POST /api/chat HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        reader.transport.write(head % len(body) + body)
        await reader.closed
        await fake_ollama.requests[-1].closed
        await deferLater(reactor, 0)  # the server closes its side of the connection in a later turn
        self.assertTrue(reader.data.endswith(b"\r\n0\r\n\r\n"))
        positions = [reader.data.index(line.encode()) for line in lines]
        self.assertEqual(positions, sorted(positions))
        self.assertEqual(fake_ollama.requests[-1].lines_sent, 21)
