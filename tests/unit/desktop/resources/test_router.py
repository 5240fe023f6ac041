"""`ctllm.desktop.resources.router`: which requests a desktop responds to itself."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.resources.router import ResourceRouter
from ctllm.errors import Forbidden, NotFound
from ctllm.http.message.head import RequestHead
from tests.unit.fakes import FakeResponseSink


class FakeUpstream:
    """Records what it is asked for."""

    def __init__(self) -> None:
        self.heads: list[RequestHead] = []

    def start_request(self, head: RequestHead, sink: Any) -> Any:
        self.heads.append(head)
        return self


class RouterTests(SynchronousTestCase):
    """A router with one resource."""

    def setUp(self) -> None:
        self.ollama, self.resource = FakeUpstream(), FakeUpstream()
        resources: Any = {b"notes": self.resource}
        ollama: Any = self.ollama
        self.router = ResourceRouter(resources, ollama)

    def start(self, target: bytes, scope: bytes | None = b"use manage conversations") -> Any:
        headers = () if scope is None else ((b"Ctllm-Scope", scope),)
        sink: Any = FakeResponseSink()
        return self.router.start_request(RequestHead(b"GET", target, headers), sink)

    def test_passes_the_paths_of_a_resource_to_it(self) -> None:
        for target in (b"/ctllm/desktop/notes", b"/ctllm/desktop/notes/a?b=c"):
            self.assertIs(self.start(target), self.resource)
        self.assertEqual(self.ollama.heads, [])

    def test_passes_other_paths_to_ollama(self) -> None:
        for target in (b"/api/tags", b"/", b"/ctllm/desktops"):
            self.assertIs(self.start(target, None), self.ollama)
        self.assertEqual(self.resource.heads, [])

    def test_refuses_clients_without_the_scope(self) -> None:
        for scope in (None, b"", b"use", b"use manage", b"conversations2", b"xconversations"):
            self.assertRaises(Forbidden, self.start, b"/ctllm/desktop/notes", scope)
        self.assertEqual(self.resource.heads, [])

    def test_an_unknown_resource_does_not_reach_ollama(self) -> None:
        for target in (b"/ctllm/desktop/", b"/ctllm/desktop/note", b"/ctllm/desktop/notes2/x"):
            self.assertRaises(NotFound, self.start, target)
        self.assertEqual(self.ollama.heads, [])
