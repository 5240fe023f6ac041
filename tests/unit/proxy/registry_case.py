"""A registry of desktops on a clock, with the real tunnel on both ends and no sockets."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.http.message.head import RequestHead, ResponseHead
from ctllm.proxy.desktop_registry import DesktopRegistry
from ctllm.proxy.direct_requests import DirectRequests
from tests.unit.fakes import FakeDesktop, FakeResponseSink

GRACE = 30.0
CHAT = RequestHead(b"POST", b"/api/chat")
OK = ResponseHead(200, b"OK", ((b"Content-Length", b"8"),))


def request_head(**headers: str) -> RequestHead:
    named = {"to": b"Ctllm-Desktop", "resume": b"CTLLM-resume"}
    return RequestHead(
        b"POST", b"/api/chat", tuple((named[k], v.encode("utf-8")) for k, v in headers.items())
    )


class RegistryCase(SynchronousTestCase):
    """A registry on a clock."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.requests = DirectRequests(self.clock.seconds)
        self.registry = DesktopRegistry(
            self.clock, 1 << 18, GRACE, 4, 60, add_tunnel=self.requests.add_tunnel
        )
        self.desks: list[FakeDesktop] = []

    def desk(
        self, name: str = "home", ollama: str = "up", *models: str, **options: Any
    ) -> FakeDesktop:
        number = len(self.desks) + 1
        self.desks.append(FakeDesktop(self.registry, number, name, ollama, *models, **options))
        self.clock.advance(1)
        return self.desks[-1]

    def open(self, head: RequestHead = CHAT, model: str | None = None) -> FakeResponseSink:
        heard = FakeResponseSink()
        self.registry.start_request(head, heard, model)
        self.settle()
        return heard

    def settle(self) -> None:
        for desk in self.desks:
            desk.settle()

    def wait(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.clock.advance(1)
            self.registry.remove_expired()
            for desk in self.desks:
                desk.tunnel.remove_expired(self.clock.seconds())
