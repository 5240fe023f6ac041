"""What passes from the tunnel to Ollama, whatever the cloud says."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ctllm.config import Desktop
from ctllm.desktop.tunnel_policy import MAX_BODY, MAX_BUFFERED, TunnelPolicy, registry_of
from ctllm.errors import (
    BadRequest,
    ClientDisconnected,
    ContentTooLarge,
    CtllmError,
    Forbidden,
    ServiceUnavailable,
)
from ctllm.http.interfaces import RequestSink
from ctllm.http.message.head import RequestHead, get_header
from tests.unit.fakes import FakeResponseSink, FakeUpstream

READS = ("GET /api/tags", "POST /api/chat", "POST /v1/messages", "HEAD /", "GET /v1/models/m")
CHANGES = ("DELETE /api/delete", "POST /api/copy", "POST /api/blobs/sha256:00")
CLOSED = (
    "POST /api/me", "POST /api/signout", "DELETE /api/user/keys/x", "GET /debug/pprof/heap",
    "POST /api/future", "GET /x/../debug/pprof/",
)  # fmt: skip


class TunnelPolicyCase(SynchronousTestCase):
    """A policy in front of a fake Ollama."""

    def setUp(self) -> None:
        self.upstream = FakeUpstream()
        self.use()

    def use(self, **keys: Any) -> None:
        settings = Desktop(**keys)
        self.policy = TunnelPolicy(
            self.upstream.start_request, settings.allowed_requests, settings.allowed_registries
        )

    def open(self, line: str, scope: str | None = "use manage") -> RequestSink:
        method, target = line.split(" ", 1)
        headers = () if scope is None else ((b"Ctllm-Scope", scope.encode()),)
        self.heard = FakeResponseSink()
        head = RequestHead(method.encode(), target.encode(), headers)
        return self.policy.start_request(head, self.heard)

    def passes(self, line: str, scope: str | None = "use manage") -> bool:
        """Whether Ollama is asked at once; refused, it is with a reason."""
        before = len(self.upstream.heads)
        try:
            self.open(line, scope)
        except Forbidden as error:
            self.assertTrue(error.message.endswith("."), error.message)
        return len(self.upstream.heads) > before


class ScopeTests(TunnelPolicyCase):
    def test_default_allows_use_and_manage_with_their_scopes(self) -> None:
        for line in READS:
            self.assertTrue(self.passes(line, "use"), line)
            self.assertTrue(self.passes(line, None), line)
        for line in CHANGES:
            self.assertFalse(self.passes(line, "use"), line)
            self.assertFalse(self.passes(line, None), "an older proxy says no scope")
            self.assertFalse(self.passes(line, "manager"), line)
            self.assertTrue(self.passes(line), line)
        for line in CLOSED:
            self.assertFalse(self.passes(line), line)

    def test_another_method_of_a_known_path_is_not_allowed_as_with_ollama(self) -> None:
        for line, allow, begin in (
            ("DELETE /api/chat", b"POST", b'{"error":"DELETE'),
            ("GET /api/blobs/x", b"HEAD, POST", b'{"error":"GET'),
            ("PUT /v1/models/m", b"GET", b'{"error":{'),
        ):
            self.open(line).finish()
            head = self.heard.head
            assert head is not None
            self.assertEqual((head.status, get_header(head.headers, b"allow")), (405, allow))
            self.assertTrue(self.heard.body.startswith(begin), self.heard.body)
            self.open(line).write(b"a body")
            self.assertTrue(self.heard.is_finished)
        self.assertEqual(self.upstream.heads, [])
        self.assertRaises(Forbidden, self.open, "GET /api/blobs")

    def test_without_manage_no_scope_allows_changes(self) -> None:
        self.use(allowed_requests=("use",))
        for line in (*CHANGES, *CLOSED, "POST /api/pull", "DELETE //api/%64elete"):
            self.assertFalse(self.passes(line), line)
        self.assertTrue(self.passes("POST /api/chat"))
        self.use(allowed_requests=())
        self.assertFalse(self.passes("POST /api/chat"))

    def test_allows_further_requests_by_name_or_all(self) -> None:
        self.use(allowed_requests=("use", "POST /api/me"))
        self.assertTrue(self.passes("POST /api/me"))
        self.assertFalse(self.passes("POST /api/me", "use"))
        self.assertFalse(self.passes("GET /api/me"))
        self.assertFalse(self.passes("DELETE /api/delete"))
        self.use(allowed_requests=("*",))
        for line in (*READS, *CHANGES, *CLOSED, "GET /api/chat"):
            self.assertTrue(self.passes(line), line)
        for line in (*CHANGES, *CLOSED):
            self.assertFalse(self.passes(line, "use"), line)

    def test_sends_the_canonical_path_that_was_checked(self) -> None:
        self.open("DELETE //api/%64elete/?x=1")
        self.assertEqual(self.upstream.heads[-1].target, b"/api/delete?x=1")
        for line in ("DELETE //api/%64elete/", "DELETE /api%2fdelete", "DELETE /v1/../api/delete"):
            self.assertFalse(self.passes(line, "use"), line)


class RegistryTests(TunnelPolicyCase):
    def send(self, line: str, *pieces: bytes) -> CtllmError | None:
        """Send a request with a body; what it fails with, if it does."""
        before = len(self.upstream.heads)
        call = self.open(line)
        for piece in pieces:
            call.write(piece)
        if self.heard.outcome is None:
            call.finish()
        failed = self.heard.outcome
        self.assertEqual(len(self.upstream.heads) > before, failed is None)
        assert failed is None or isinstance(failed, CtllmError)
        return failed

    def test_allowed_registries_pass_with_an_unchanged_body(self) -> None:
        for body in (
            {"model": "llama3.2"},
            {"model": "me/mine:1b", "insecure": False},
            {"name": "registry.ollama.ai/library/llama3.2"},
            {"model": "https://registry.ollama.ai/library/llama3.2:1b"},
            {"model": "hf.co/user/model-GGUF:Q4_K_M"},
            {"model": "mine", "from": "llama3.2", "system": "Be brief.", "license": ["a"]},
        ):
            for line in ("POST /api/pull", "POST /api/push", "POST /api/create"):
                raw = json.dumps(body).encode()
                self.assertIsNone(self.send(line, raw[:5], raw[5:]), body)
                self.assertEqual(self.upstream.requests[-1].calls, [raw, "end"])

    def test_refuses_other_registries_however_they_are_written(self) -> None:
        for body in (
            b'{"model": "192.168.1.1:8080/library/x"}',
            b'{"name": "http://192.168.1.1/library/x"}',
            b'{"model": "https://evil.example/a/b"}',
            b'{"model": "evil.example/a/b:tag"}',
            b'{"MODEL": "evil.example/a/b"}',
            '{"\u017fource": 1, "Name": "evil.example/a/b"}'.encode(),
            b'{"model": "llama3.2", "model": "evil.example/a/b"}',
            b'{"model": "evil.example/a/b", "model": "llama3.2"}',
            b'{"\\u006dodel": "evil.example/a/b"}',
            b'{"model": "x", "from": "evil.example/a/b"}',
            b'{"model": "x", "from": "/etc/passwd"}',
            b'{"model": "llama3.2", "insecure": true}',
            '{"model": "llama3.2", "in\u017fecure": true}'.encode(),
            b'{"model": "llama3.2", "modelfile": "FROM evil.example/a/b"}',
            b'{"model": "registry.ollama.ai.evil.example/a/b"}',
            b'{"model": "registry.ollama.ai:8080/a/b"}',
            b'{"model": "registry.ollama.ai@evil.example/a/b"}',
        ):
            self.assertIsInstance(self.send("POST /api/pull", body), Forbidden, body)
            self.assertIsInstance(self.send("POST //api/create/", body), Forbidden, body)

    def test_refuses_bodies_that_cannot_be_checked(self) -> None:
        deep = b"[" * 100_000
        for body in (b"", b"[]", b"{", b"nonsense", b"{} {}", b"\xff", b'{"a":%b' % deep):
            self.assertIsInstance(self.send("POST /api/pull", body), BadRequest, body[:20])
        piece = b" " * 65536
        self.assertIsInstance(self.send("POST /api/pull", *[piece] * 17), ContentTooLarge)
        self.assertIsInstance(self.send("POST /api/pull", b" " * (MAX_BODY + 1)), ContentTooLarge)

    def test_buffered_bodies_share_a_limit_and_release_it(self) -> None:
        piece = b" " * MAX_BODY
        waiting = []
        for _ in range(MAX_BUFFERED // MAX_BODY):
            waiting.append(self.open("POST /api/pull"))
            waiting[-1].write(piece)
            self.assertIsNone(self.heard.outcome)
        self.assertIsInstance(self.send("POST /api/pull", b"{}"), ServiceUnavailable)
        for call in waiting:
            call.cancel(ClientDisconnected("left"))
        self.assertIsNone(self.send("POST /api/pull", b'{"model": "m"}'))
        for _ in range(3 * MAX_BUFFERED // MAX_BODY):
            self.send("POST /api/pull", piece)
        self.assertIsNone(self.send("POST /api/pull", b'{"model": "m"}'))

    def test_passes_on_pause_and_cancel(self) -> None:
        call = self.open("POST /api/pull")
        call.pause_response()
        call.write(b'{"model": "m"}')
        call.finish()
        call.resume_response()
        error = ClientDisconnected("left")
        call.cancel(error)
        told = self.upstream.requests[-1].calls
        self.assertEqual(told, ["pause", b'{"model": "m"}', "end", "resume", error])

    def test_configuration_adds_registries(self) -> None:
        self.use(allowed_registries=("registry.home.arpa:5000",))
        named = b'{"model": "registry.home.arpa:5000/a/b"}'
        self.assertIsNone(self.send("POST /api/pull", named))
        self.assertIsInstance(self.send("POST /api/pull", b'{"model": "hf.co/a/b"}'), Forbidden)
        self.use(allowed_requests=("*",))
        self.assertTrue(self.passes("POST /api/pull"))

    def test_registry_is_what_precedes_the_last_two_parts(self) -> None:
        for name, registry in (
            ("llama3.2", None),
            ("a/b:c", None),
            ("host/a/b", "host"),
            ("host:1/a/b:c", "host:1"),
            ("HOST/a/b", "host"),
            ("https://host:443/a/b", "host"),
            ("http://host/a/b", "http://host"),
            ("a/b/", "a"),
            ("/a/b", ""),
            ("", None),
        ):
            self.assertEqual(registry_of(name), registry, name)
