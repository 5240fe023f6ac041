"""The loopback endpoint: this machine's programs pass, the web does not."""

from __future__ import annotations

import socket

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.loopback.endpoint import LoopbackEndpoint
from ctllm.http.message.head import RequestHead, ResponseHead
from ctllm.http.server.connection import HttpServerFactory
from ctllm.http.server.request import ServerRequest
from tests.unit.fakes import FakeUpstream, MemoryTransport

HERE = (
    "localhost",
    "localhost:11435",
    "LOCALHOST:11435",
    "app.localhost:3000",
    "127.0.0.1",
    "127.0.0.1:11435",
    "127.8.9.1",
    "[::1]",
    "[::1]:11435",
)
#: Of this machine's network: as hosts they are let in, as origins of pages they are not.
NEARBY = (
    "192.168.1.5:11435",
    "172.17.0.1:11435",
    "10.1.2.3",
    "[fd00::1]:11435",
    "[::]",
    "[::ffff:192.168.1.5]",
    "host.docker.internal:11435",
    "HOST.DOCKER.INTERNAL",
    "attic.local:11435",
    socket.gethostname(),
)
ELSEWHERE = (
    "evil.example",
    "evil.example:11435",
    "localhost.evil.example",
    "localhostevil",
    "evillocalhost",
    "127.0.0.1.evil.example",
    "127.0.0.1.nip.io:11435",
    "[::ffff:192.0.2.1]",
    "192.0.2.1",
    "172.32.0.1",
    "8.8.8.8",
    "evil.example.local.example",
    "internal",
    "local",
    "[2001:db8::1]:11435",
    "[::1",
    "localhost@evil.example",
    "evil.example#@localhost",
    "evil.example/localhost",
    "evil.example?localhost",
    "",
    ":11435",
)


class LoopbackEndpointTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.upstream = FakeUpstream()
        self.factory = self._factory(LoopbackEndpoint(self.answer))

    def _factory(self, app: LoopbackEndpoint) -> HttpServerFactory:
        return HttpServerFactory(app, Clock(), response_headers=app.response_headers)

    async def answer(self, head: RequestHead, incoming: ServerRequest) -> None:
        incoming.relay_to(self.upstream.start_request(head, incoming))

    def ask(
        self, headers: str, version: str = "1.1", method: str = "GET", target: str = "/api/tags"
    ) -> bytes:
        return self.connect(headers, version, method, target).take_written()

    def connect(
        self, headers: str, version: str = "1.1", method: str = "GET", target: str = "/api/tags"
    ) -> MemoryTransport:
        """Send a request on a new connection; its transport."""
        protocol, wire = self.factory.buildProtocol(None), MemoryTransport()
        protocol.makeConnection(wire)
        wire.protocol = protocol
        protocol.dataReceived(f"{method} {target} HTTP/{version}\r\n{headers}\r\n".encode())
        return wire

    def passes(self, headers: str, version: str = "1.1") -> bool:
        """Whether Ollama is asked; where it is not, the client is refused."""
        before = len(self.upstream.heads)
        said = self.ask(headers, version)
        asked = len(self.upstream.heads) > before
        if not asked:
            self.assertTrue(said.startswith((b"HTTP/1.1 403", b"HTTP/1.1 400")), said)
        return asked

    def test_accepts_the_hosts_of_this_machine_and_none(self) -> None:
        for host in (*HERE, *NEARBY, "0.0.0.0", "0.0.0.0:11435"):
            self.assertTrue(self.passes(f"Host: {host}\r\n"), host)
        self.assertTrue(self.passes("", "1.0"))

    def test_accepts_any_host_where_it_listens_for_other_machines(self) -> None:
        app = LoopbackEndpoint(self.answer, is_on_loopback=lambda: False)
        self.factory = self._factory(app)
        self.assertTrue(self.passes("Host: models.example:11435\r\n"))
        page = "Host: models.example:11435\r\nOrigin: http://models.example:11435\r\n"
        self.assertFalse(self.passes(page))

    def test_checks_the_host_of_an_absolute_target(self) -> None:
        for target, passes in (
            ("http://localhost:11435/api/tags", True),
            ("http://host.docker.internal/api/tags", True),
            ("http://evil.example/api/tags", False),
            ("http://localhost@evil.example/api/tags", False),
            ("http://evil.example?/ctllm/desktops", False),
        ):
            said = self.ask("Host: localhost\r\n", target=target)
            self.assertEqual(not said.startswith((b"HTTP/1.1 403", b"HTTP/1.1 400")), passes, said)
        self.ask("Host: x\r\n", target="http://localhost?/ctllm/desktops")
        self.assertEqual(self.upstream.heads[-1].path, b"/")

    def test_refuses_cross_site_requests_without_origin(self) -> None:
        site = "Host: localhost\r\nSec-Fetch-Site: "
        self.assertFalse(self.passes(f"{site}cross-site\r\nSec-Fetch-Mode: no-cors\r\n"))
        self.assertFalse(self.passes(f"{site}Cross-Site\r\nSec-Fetch-Mode: navigate\r\n"))
        for same in ("same-origin", "same-site", "none"):
            self.assertTrue(self.passes(f"{site}{same}\r\n"), same)
        for origin in ("http://localhost:3000", "vscode-webview://x", "app://obsidian.md"):
            self.assertTrue(self.passes(f"{site}cross-site\r\nOrigin: {origin}\r\n"), origin)

    def test_refuses_names_that_resolve_to_this_machine(self) -> None:
        for host in ELSEWHERE:
            self.assertFalse(self.passes(f"Host: {host}\r\n"), host)

    def test_refuses_two_hosts(self) -> None:
        self.assertFalse(self.passes("Host: localhost\r\nHost: evil.example\r\n"))

    def test_accepts_local_pages(self) -> None:
        for host in (*HERE, "0.0.0.0", "0.0.0.0:8080"):
            for scheme in ("http", "https"):
                headers = f"Host: localhost\r\nOrigin: {scheme}://{host}\r\n"
                self.assertTrue(self.passes(headers), host)

    def test_refuses_foreign_pages(self) -> None:
        for host in (*ELSEWHERE, *NEARBY, "0.0.0.0.evil.example"):
            headers = f"Host: localhost\r\nOrigin: http://{host}\r\n"
            self.assertFalse(self.passes(headers), host)
        for origin in ("null", "localhost", "", "http://evil.example http://localhost"):
            self.assertFalse(self.passes(f"Host: localhost\r\nOrigin: {origin}\r\n"), origin)

    def test_accepts_the_origins_of_installed_apps(self) -> None:
        for origin in (
            "app://obsidian.md",
            "tauri://localhost",
            "vscode-webview://1a2b",
            "file://",
        ):
            self.assertTrue(self.passes(f"Host: localhost\r\nOrigin: {origin}\r\n"), origin)
        for origin in ("appp://x", "chrome-extension://x", "http://app://x", "xapp://x"):
            self.assertFalse(self.passes(f"Host: localhost\r\nOrigin: {origin}\r\n"), origin)

    def test_sends_cors_headers_itself(self) -> None:
        origin = "Host: localhost\r\nOrigin: http://localhost:3000\r\n"
        protocol = self.connect(origin)
        self.upstream.sinks[-1].write_head(ResponseHead(200))
        self.assertIn(
            b"\r\nAccess-Control-Allow-Origin: http://localhost:3000\r\n",
            protocol.take_written(),
        )
        asked = len(self.upstream.heads)
        said = self.ask(origin + "Access-Control-Request-Method: POST\r\n", method="OPTIONS")
        self.assertTrue(said.startswith(b"HTTP/1.1 204"), said)
        self.assertIn(b"Access-Control-Allow-Origin: http://localhost:3000\r\n", said)
        self.assertEqual(len(self.upstream.heads), asked)

    def test_refuses_two_origins_with_one_foreign(self) -> None:
        both = "Host: localhost\r\nOrigin: http://localhost\r\nOrigin: http://evil.example\r\n"
        self.assertFalse(self.passes(both))

    def test_refuses_with_an_error_in_ollamas_format(self) -> None:
        said = self.ask("Host: evil.example\r\n")
        self.assertIn(b'{"error":"This endpoint is for this machine', said)
