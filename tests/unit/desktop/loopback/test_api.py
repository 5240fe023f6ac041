"""The page's paths on the loopback endpoint: for pages of its own origin, on this machine."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.loopback.api import LoopbackApi
from ctllm.desktop.loopback.endpoint import LoopbackEndpoint
from ctllm.desktop.loopback.sessions import LoopbackSessions
from ctllm.http.message.head import RequestHead, get_header
from ctllm.http.server.connection import HttpServerFactory
from ctllm.http.server.request import ServerRequest
from ctllm.web_ui.page_files import PageFiles
from tests.unit.fakes import FakeUpstream, MemoryTransport

LOCAL = IPv4Address("TCP", "127.0.0.1", 40000)
HERE = "localhost:11435"
ORIGIN = f"http://{HERE}"
NAVIGATION = {
    "Accept": "text/html",
    "Sec-Fetch-Site": "cross-site",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Dest": "document",
}


class FakeDirectory:
    """The page, as files in memory."""

    def __init__(self, name: str, content: Any) -> None:
        self.name = name
        self._content = content

    def is_dir(self) -> bool:
        return isinstance(self._content, dict)

    def iterdir(self) -> list[FakeDirectory]:
        return [FakeDirectory(name, content) for name, content in self._content.items()]

    def read_bytes(self) -> bytes:
        return bytes(self._content)


class LoopbackApiTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.sessions = LoopbackSessions(self.clock.seconds)
        self.ollama, self.resources = FakeUpstream(), FakeUpstream()
        self.local_resource = FakeUpstream()
        self.user_id = "local"
        self.api = LoopbackApi(
            self.sessions,
            lambda: {"id": "d" * 32},
            lambda: self.user_id,
            self.clock,
            self.resources,
            (),
            {b"/ctllm/desktop/preference": self.local_resource},
        )
        self.listen()

    def listen(self, *, is_on_loopback: bool = True) -> None:
        files: Any = FakeDirectory("page", {"index.html": b"<p>", "assets": {"a.js": b"1"}})
        endpoint = LoopbackEndpoint(
            self.pass_to_ollama, lambda: is_on_loopback, self.api.handle, PageFiles(files)
        )
        self.factory = HttpServerFactory(
            endpoint, self.clock, response_headers=endpoint.response_headers
        )

    async def pass_to_ollama(self, head: RequestHead, request: ServerRequest) -> None:
        request.relay_to(self.ollama.start_request(head, request))

    def send(
        self, line: str, body: Any = None, *, host: str = HERE, peer: Any = LOCAL, **headers: str
    ) -> int:
        """Send a request; return its status, or 0 if it was passed on. Set `head` and `json`."""
        protocol, wire = self.factory.buildProtocol(None), MemoryTransport(peerAddress=peer)
        protocol.makeConnection(wire)
        wire.protocol = protocol
        content = b"" if body is None else json.dumps(body).encode()
        lines = [f"{line} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(content)}"]
        lines += ["Content-Type: application/json"] if body is not None else []
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        protocol.dataReceived("\r\n".join([*lines, "", ""]).encode() + content)
        self.head, _, text = wire.take_written().partition(b"\r\n\r\n")
        self.body = text
        self.json: Any = json.loads(text) if text[:1] in (b"{", b"[") else None
        return int(self.head.split()[1]) if self.head else 0

    def log_in(self) -> dict[str, str]:
        body = {"client": "browser", "invite": self.sessions.create_code()}
        self.assertEqual(self.send("POST /ctllm/session", body), 201)
        return {"Authorization": f"Bearer {self.json['token']}"}

    # -- the page

    def test_browsers_get_the_page_and_other_clients_ollama(self) -> None:
        self.assertEqual(self.send("GET /", Accept="text/html,*/*"), 200)
        self.assertEqual(self.body, b"<p>")
        self.assertIn(b"require-trusted-types-for", self.head)
        self.assertEqual(self.send("GET /", Accept="*/*"), 0)
        self.assertEqual(self.send("GET /"), 0)
        self.assertEqual(self.send("GET /assets/a.js", Sec_Fetch_Site="same-origin"), 200)
        self.assertEqual(self.send("GET /assets/b.js"), 404)

    def test_a_link_anywhere_opens_the_page_but_no_page_embeds_it(self) -> None:
        self.assertEqual(self.send("GET /", **NAVIGATION), 200)
        for changed in (
            {"Sec-Fetch-Dest": "iframe"},
            {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"},
        ):
            self.assertEqual(self.send("GET /", **{**NAVIGATION, **changed}), 403, changed)
            self.assertEqual(
                self.send("GET /assets/a.js", **{**NAVIGATION, **changed}), 403, changed
            )

    def test_says_who_serves_the_page(self) -> None:
        self.assertEqual(self.send("GET /ctllm/page"), 200)
        self.assertEqual(self.json["role"], "desktop")
        self.assertEqual(self.send("GET /health"), 200)
        self.assertEqual(self.json["status"], "ok")

    # -- the session

    def test_a_code_logs_in_once(self) -> None:
        body = {"client": "browser", "invite": self.sessions.create_code()}
        self.assertEqual(self.send("POST /ctllm/session", body, Origin=ORIGIN), 201)
        self.assertEqual(sorted(self.json), ["expires_in", "token", "user"])
        self.assertEqual(self.json["user"]["id"], "local")
        self.assertIn(b"Cache-Control: no-store", self.head)
        self.assertNotIn(b"Set-Cookie", self.head)
        self.assertEqual(self.send("POST /ctllm/session", body, Origin=ORIGIN), 401)

    def test_refuses_anything_but_a_browser_with_a_code(self) -> None:
        code = self.sessions.create_code()
        bodies: tuple[Any, ...] = (
            {"client": "desktop", "invite": code},
            {"client": "browser"},
            {"client": "browser", "invite": f"{code}\n"},
            {"client": "browser", "invite": code, "provider_token": "x"},
            {"client": "browser", "invite": 1},
            [],
        )
        for body in bodies:
            self.assertEqual(self.send("POST /ctllm/session", body), 400, body)
        form = "application/x-www-form-urlencoded"
        self.assertEqual(self.send("POST /ctllm/session", None, Content_Type=form), 415)

    def test_a_session_ends_when_another_user_logs_in(self) -> None:
        """Before anything of that user can be read with it; codes of the former one, too."""
        own = self.log_in()
        code = self.sessions.create_code()

        def switch() -> str:
            self.sessions.close_all()
            return "local-2"

        self.api._get_user_id = switch
        self.assertEqual(self.send("GET /ctllm/desktop/conversations", **own), 401)
        self.assertEqual(self.resources.requests, [])
        body = {"client": "browser", "invite": code}
        self.assertEqual(self.send("POST /ctllm/session", body), 401)
        self.api._get_user_id = lambda: "local-2"
        own = self.log_in()
        self.assertEqual(self.json["user"]["id"], "local-2")
        self.assertEqual(self.send("GET /ctllm/session", **own), 200)
        self.assertEqual(self.json["user"]["id"], "local-2")

    def test_a_session_lists_this_desktop_and_ends(self) -> None:
        token = self.log_in()
        self.assertEqual(self.send("GET /ctllm/session", **token), 200)
        self.assertEqual(self.json["scopes"], ["conversations", "manage", "use"])
        self.assertEqual(self.send("GET /ctllm/desktops", **token), 200)
        self.assertEqual(self.json, {"desktops": [{"id": "d" * 32}]})
        self.assertEqual(self.send("DELETE /ctllm/session", **token), 204)
        self.assertEqual(self.send("GET /ctllm/session", **token), 401)

    def test_everything_else_needs_a_session(self) -> None:
        for line in (
            "GET /ctllm/session", "GET /ctllm/desktops", "GET /ctllm/desktop/setup",
            "PUT /ctllm/desktop/preference", "GET /ctllm/keys", "GET /ctllm/nothing",
            "GET /ctllm/desktop/conversations", "OPTIONS /ctllm/session", "PUT /ctllm/session",
            "GET //ctllm/desktops", "GET /ctllm/%64esktops", "GET /api/../ctllm/desktops",
            "GET /ctllm/page/../desktops",
        ):  # fmt: skip
            for headers in ({}, {"Authorization": f"Bearer {'x' * 43}"}, {"x_api_key": "x" * 43}):
                self.assertEqual(self.send(line, **headers), 401, (line, headers))
        self.assertEqual((self.ollama.heads, self.resources.heads), ([], []))

    def test_unknown_paths_and_methods_are_refused_in_a_session(self) -> None:
        token = self.log_in()
        self.assertEqual(self.send("GET /ctllm/nothing", **token), 404)
        self.assertEqual(self.send("PUT /ctllm/session", **token), 405)
        self.assertIn(b"Allow: GET, POST, DELETE", self.head)

    # -- resources

    def test_resources_get_the_scopes_of_the_session_and_not_its_token(self) -> None:
        token = self.log_in()
        forged = {"Ctllm-Scope": "serve", "Ctllm-Allowed-Models": "x", "Ctllm-Assertion": "x"}
        self.assertEqual(self.send("GET /ctllm/desktop/generations?x=1", **token, **forged), 0)
        (head,) = self.resources.heads
        self.assertEqual(head.target, b"/ctllm/desktop/generations?x=1")
        self.assertEqual(get_header(head.headers, b"ctllm-scope"), b"conversations manage use")
        names = [name.lower() for name, _ in head.headers]
        self.assertEqual(names.count(b"ctllm-scope"), 1)
        for name in (b"authorization", b"ctllm-allowed-models", b"ctllm-assertion"):
            self.assertNotIn(name, names)
        self.assertEqual(self.ollama.heads, [])

    def test_the_preference_is_that_of_this_machine(self) -> None:
        self.send("PUT /ctllm/desktop/preference", {}, **self.log_in())
        self.assertEqual((len(self.local_resource.heads), self.resources.heads), (1, []))

    # -- other origins, machines and users

    def test_refuses_pages_of_other_origins(self) -> None:
        """Also those of other ports of this machine, which are of the same site."""
        token = self.log_in()
        for headers in (
            {"Origin": "http://localhost:3000"},
            {"Origin": "http://127.0.0.1:11435"},
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": "app://ctllm"},
            {"Sec-Fetch-Site": "same-site"},
            {"Sec-Fetch-Site": "cross-site"},
        ):
            for line in ("GET /ctllm/page", "GET /ctllm/desktops", "OPTIONS /ctllm/session"):
                self.assertEqual(self.send(line, **token, **headers), 403, (line, headers))
                self.assertNotIn(b"Access-Control", self.head)
            code = self.sessions.create_code()
            body = {"client": "browser", "invite": code}
            self.assertEqual(self.send("POST /ctllm/session", body, **headers), 403)
            self.sessions.redeem(code)  # it was not used

    def test_answers_no_preflight_of_the_own_paths(self) -> None:
        asked = {
            "Origin": "http://localhost:3000",
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "authorization",
        }
        for path in ("/ctllm/desktops", "//ctllm/desktops", "/health"):
            self.assertEqual(self.send(f"OPTIONS {path}", **asked), 403)
            self.assertNotIn(b"Access-Control", self.head)
        self.assertEqual(self.send("OPTIONS /api/tags", **asked), 204)
        self.assertIn(b"Access-Control-Allow-Origin: http://localhost:3000", self.head)

    def test_refuses_hosts_that_are_not_of_the_loopback_interface(self) -> None:
        """A name that resolves to it (DNS rebinding), and names of this machine's network."""
        token = self.log_in()
        for host in (
            "evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "192.168.1.5:11435",
            "host.docker.internal", "0.0.0.0:11435", "attic.local",
        ):  # fmt: skip
            for listens_for_all in (False, True):
                self.listen(is_on_loopback=not listens_for_all)
                self.assertEqual(self.send("GET /ctllm/desktops", host=host, **token), 403, host)
                self.assertEqual(self.send("GET /ctllm/page", host=host), 403, host)
                status = self.send("GET /", host=host, Accept="text/html")
                self.assertIn(status, (0, 403), host)
        for host in ("127.0.0.1:11435", "[::1]:11435", "chat.localhost"):
            self.assertEqual(self.send("GET /ctllm/desktops", host=host, **token), 200, host)

    def test_refuses_other_machines_where_it_listens_for_them(self) -> None:
        token = self.log_in()
        self.listen(is_on_loopback=False)
        for peer in (
            IPv4Address("TCP", "192.168.1.9", 40000),
            IPv6Address("TCP", "fe80::1", 40000),
            IPv6Address("TCP", "::ffff:192.168.1.9", 40000),
        ):
            self.assertEqual(self.send("GET /ctllm/desktops", peer=peer, **token), 403)
            self.assertEqual(self.send("GET /ctllm/page", peer=peer), 403)
            self.assertEqual(self.send("GET /", peer=peer, Accept="text/html"), 0)
        for local in (
            IPv6Address("TCP", "::1", 40000),
            IPv6Address("TCP", "::ffff:127.0.0.1", 40000),
            UNIXAddress(b"/run/ctllm.sock"),
        ):
            self.assertEqual(self.send("GET /ctllm/desktops", peer=local, **token), 200)
