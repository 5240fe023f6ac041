"""The fake Ollama's smaller parts: words, shapes, names and durations; and one real socket."""

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
    def test_words_joined_are_the_text(self) -> None:
        """Nothing is lost between words."""
        for text in ("", " a  b\n", "one", "ends \n"):
            self.assertEqual("".join(split_words(text)), text)

    def test_repeat_is_a_sequence(self) -> None:
        """The same word many times, without being held many times."""
        many = RepeatedWord("x", 10**9)
        self.assertEqual((len(many), many[10**9 - 1], list(many[:2])), (10**9, "x", ["x", "x"]))
        self.assertRaises(IndexError, lambda: many[10**9])

    def test_example_fits_its_schema(self) -> None:
        """Definitions, alternatives and nested objects are followed, loops are not."""
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
        made: Any = example_of(schema, "text")
        self.assertIn("l", made.pop("loop"))
        self.assertEqual(made, {"name": "text", "kind": "a", "age": 1, "tags": [False, False]})

    def test_names_and_times(self) -> None:
        """A name without a tag is the latest; times are UTC in microseconds."""
        self.assertEqual(name_with_tag("hub:80/a"), "hub:80/a:latest")
        self.assertEqual(name_with_tag("a:b"), "a:b")
        self.assertEqual(format_rfc3339(1.5), "1970-01-01T00:00:01.500000Z")

    def test_keep_alive(self) -> None:
        """Durations are read as Ollama reads them."""
        for value, seconds in ((None, 300), (7, 7), ("1h2m", 3720), ("0", 0), ("500ms", 0.5)):
            self.assertEqual(parse_keep_alive(value), seconds)
        self.assertGreater(parse_keep_alive("-1m"), 10**9)
        self.assertRaises(BadRequest, parse_keep_alive, "soon")

    def test_vectors(self) -> None:
        """The same text has the same vector, of length one."""
        self.assertEqual(embedding_of("a", 8), embedding_of("a", 8))
        self.assertNotEqual(embedding_of("a"), embedding_of("b"))
        self.assertAlmostEqual(sum(n * n for n in embedding_of("a")), 1.0)


class _Reader(Protocol):
    def __init__(self) -> None:
        self.data = b""
        self.gone: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.gone.callback(None)


class SocketTests(TestCase):
    async def test_paced_lines_arrive_whole(self) -> None:
        """Lines that are sent at once arrive complete and in order, also if a socket is full."""
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
        await reader.gone
        await fake_ollama.requests[-1].closed
        await deferLater(reactor, 0)  # the server's side of the connection closes in its own turn
        self.assertTrue(reader.data.endswith(b"\r\n0\r\n\r\n"))
        at = [reader.data.index(line.encode()) for line in lines]
        self.assertEqual(at, sorted(at))
        self.assertEqual(fake_ollama.requests[-1].lines_sent, 21)
