"""Requests for models that Ollama forwards to ollama.com are refused."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ctllm.common.memory_budget import BufferBudget
from ctllm.desktop.hosted_model_filter import RemoteModelFilter
from ctllm.errors import ClientDisconnected, Forbidden
from ctllm.http.interfaces import RequestSink
from ctllm.http.message.content_coding import load_zstd
from ctllm.http.message.head import RequestHead
from ctllm.ollama.endpoints import is_remote_name
from tests.unit.fakes import FakeResponseSink, FakeUpstream

ZSTD = (b"Content-Encoding", b"zstd")


class RemoteModelFilterTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.upstream = FakeUpstream()
        self.room = BufferBudget(1 << 24)
        self.models = RemoteModelFilter(self.upstream.start_request, self.room)
        self.models.set_remote(("alias:latest",))

    def open(self, line: str, *headers: tuple[bytes, bytes]) -> RequestSink:
        method, target = line.encode().split(b" ")
        self.heard = FakeResponseSink()
        return self.models.start_request(RequestHead(method, target, headers), self.heard)

    def refused(self, body: bytes, *headers: tuple[bytes, bytes], step: int = 1 << 20) -> bool:
        """Whether a chat with `body` is refused, and then Ollama has not got the end of it."""
        return self.is_refused("POST /v1/chat/completions", body, *headers, step=step)

    def is_refused(
        self, line: str, body: bytes, *headers: tuple[bytes, bytes], step: int = 1 << 20
    ) -> bool:
        call = self.open(line, *headers)
        for at in range(0, len(body), step):
            call.write(body[at : at + step])
        if self.heard.outcome is None:
            call.finish()
        told = self.upstream.requests[-1].calls
        if self.heard.outcome is None:
            self.assertEqual(b"".join(told[:-1]), body)
            self.assertEqual(told[-1], "end")
            return False
        self.assertIsInstance(self.heard.outcome, Forbidden)
        self.assertIs(told[-1], self.heard.outcome)
        self.assertLess(len(b"".join(told[:-1])), len(body))
        return True

    def test_refuses_names_of_remote_models_and_their_copies(self) -> None:
        for name in ("gpt-oss:120b-cloud", "glm-4.6:cloud", "GLM-4.6:CLOUD", "me/x:cloud", "alias"):
            self.assertTrue(self.refused(b'{"model":"%b"}' % name.encode()), name)
            self.assertTrue(self.models.is_remote(name))
        for name in ("llama3.2", "cloud", "my-cloud", "cloud/x", "x:cloudy", "alias:1b"):
            self.assertFalse(self.refused(b'{"model":"%b"}' % name.encode()), name)
        self.assertFalse(is_remote_name("alias"))

    def test_refuses_names_as_ollama_reads_them(self) -> None:
        """Ollama ignores space around the name and its tag, and `:local` after a name."""
        space = b" " * 2000
        for name in (
            b"x:cloud ",
            b"\\nx:cloud\\u00a0",
            b"x: cloud",
            b"alias:local",
            space + b"x:cloud",
        ):
            self.assertTrue(self.refused(b'{"model":"%b"}' % name), name)
        self.assertFalse(self.refused(b'{"model":"llama3.2:local"}'))

    def test_refuses_a_model_that_depends_on_who_reads_the_body(self) -> None:
        """Ollama looks for `model` with regard to case, and then without."""
        for body in (
            b'{"model": "x:cloud", "Model": "llama3.2"}',
            b'{"model": "m", "MODEL": "llama3.2"}',
            b'{"model": "\\ud800", "model": "llama3.2"}',
        ):
            self.assertTrue(self.refused(body), body)
            self.assertTrue(self.refused(body, step=1), body)
        self.assertFalse(self.refused(b'{"model": "m", "Model": "m", "model": ""}'))

    def test_refuses_searches_that_ollama_does_at_ollama_com(self) -> None:
        for line in ("POST /v1/messages", "POST /v1/responses"):
            for tool in (
                b"web_search",
                b"web_search_20250305",
                b"web\\u005fsearch",
                b" web_search",
            ):
                body = b'{"model":"m","tools":[{"type":"custom"},{"type":"%b"}]}' % tool
                self.assertTrue(self.is_refused(line, body), body)
                self.assertTrue(self.is_refused(line, body, step=1), body)
                compressed = load_zstd().compress(body)
                self.assertTrue(self.is_refused(line, compressed, ZSTD), body)
            self.assertFalse(
                self.is_refused(
                    line,
                    b'{"messages":[{"content":[{"type":"web_search_tool_result"}]}],"tools":[{"name":'
                    b'"web_search","type":"custom","x":{"type":"web_search"}}],"model":"m"}',
                )
            )

    def test_refuses_to_create_a_model_that_ollama_would_forward(self) -> None:
        for members in (b'"from":"x:cloud"', b'"from":"m","remote_host":"https://ollama.com"'):
            body = b'{"model":"new",%b}' % members
            self.assertTrue(self.is_refused("POST /api/create", body), body)
        for members in (b'"from":"m"', b'"files":{"from":"x:cloud"}'):
            self.assertFalse(self.is_refused("POST /api/create", b'{"model":"new",%b}' % members))

    def test_finds_the_model_however_the_json_is_written(self) -> None:
        for body in (
            b'{"MODEL": "x:cloud"}',
            b'{"\\u006dodel": "x:\\u0063loud"}',
            b'{"model": "llama3.2", "model": "x:cloud"}',
            b'{"model": "x:cloud", "model": null}',
            b'{"model": "llama3.2", "images": ["%b"], "model": "x:cloud"}' % (b"A" * 200_000),
        ):
            self.assertTrue(self.refused(body), body[:60])
            self.assertTrue(self.refused(body, step=7), body[:60])
        self.assertFalse(self.refused(b'{"messages":[{"model":"x:cloud"}],"model":"m"}'))

    def test_reads_compressed_bodies_and_refuses_unreadable_ones(self) -> None:
        compress = load_zstd().compress
        self.assertTrue(self.refused(compress(b'{"model":"x:cloud"}'), ZSTD))
        self.assertFalse(self.refused(compress(b'{"model":"llama3.2"}'), ZSTD))
        bad = compress(b'{"model":"llama3.2"}')[:8] + b"\xff" * 40
        self.assertTrue(self.refused(bad, ZSTD))
        self.assertEqual(self.room.reserved, 0)

    def test_refuses_by_path_and_query(self) -> None:
        for line in (
            "POST /api/experimental/web_search",
            "POST /api/experimental/web_fetch",
            "GET /v1/models/x:cloud",
            "GET /v1/models/alias",
        ):
            error = self.assertRaises(Forbidden, self.open, line)
            self.assertIn("desktop.remote_models", error.message)
        self.open("GET /v1/models/llama3.2")
        self.open("GET /api/tags")
        self.assertEqual(len(self.upstream.heads), 2)

    def test_passes_on_pause_and_cancel_until_refused(self) -> None:
        call = self.open("POST /api/chat")
        call.pause_response()
        call.resume_response()
        error = ClientDisconnected("left")
        call.cancel(error)
        self.assertEqual(self.upstream.requests[-1].calls, ["pause", "resume", error])
        call = self.open("POST /api/chat")
        call.write(b'{"model":"x:cloud"')
        refusal = self.heard.outcome
        for late in (call.pause_response, call.resume_response, call.finish):
            late()
        call.write(b"}")
        call.cancel(error)
        self.assertEqual(self.upstream.requests[-1].calls, [refusal])
