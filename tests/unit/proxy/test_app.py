"""A streaming proxy as its socket shows it: what it answers, and to whom."""

from __future__ import annotations

import json
from base64 import b64encode

import txaio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.auth.jws import encode_public_key
from ctllm.auth.session_assertions import LIFETIME_SECONDS, MANAGE, SERVE, USE
from ctllm.cloud.identity import AssertionSigner
from ctllm.common.memory_budget import BufferBudget, MemoryBudget
from ctllm.http.message.head import ResponseHead
from ctllm.http.request_log import RequestLog
from ctllm.http.server.connection import HttpServerFactory
from ctllm.proxy.app import ProxyApp
from ctllm.proxy.assignment import Assignment
from ctllm.proxy.desktop_registry import DesktopRegistry
from ctllm.proxy.direct_requests import DirectRequests
from ctllm.proxy.request_router import RequestRouter
from ctllm.proxy.tunnel_authorizer import TunnelAuthorizer
from ctllm.tunnel.frames import (
    CONNECTION_ID,
    Desktop,
    FrameKind,
    Hello,
    encode_json_frame,
    split_frames,
)
from ctllm.tunnel.websocket.factories import ProxyWebSocketFactory
from tests.unit.fakes import FakeDesktop, MemoryTransport

HERE = "ctllm-proxy-" + "a" * 32
ELSEWHERE = "ctllm-proxy-" + "b" * 32


class Case(SynchronousTestCase):
    """One connection to a proxy."""

    is_waiting = False

    def setUp(self) -> None:
        self.clock = Clock()
        # autobahn keeps its time by this, whatever reactor it is given.
        self.patch(vars(txaio)["config"], "loop", self.clock)
        self.key = Ed25519PrivateKey.generate()
        self.registry = DesktopRegistry(self.clock, 1 << 18, 30, 4, 60)
        sockets = ProxyWebSocketFactory(self.clock, self.registry.hello_received, 20, 10)
        cloud_key = encode_public_key(self.key)
        assignment = self.assigned = Assignment(
            cloud_key, HERE, self.clock.seconds, self.is_waiting
        )
        relay = RequestRouter(
            self.registry,
            self.clock,
            BufferBudget(1 << 20),
            RequestLog(self.clock, is_enabled=True),
        )
        self.budget = MemoryBudget(1 << 24)
        authorizer = TunnelAuthorizer(assignment, self.clock, self.clock.seconds)
        self.direct_requests = DirectRequests(self.clock.seconds)
        app = ProxyApp(
            self.registry, relay, assignment, sockets, self.budget, authorizer, self.direct_requests
        )
        self.factory = HttpServerFactory(app, self.clock)
        self.wire = self.connect()

    def connect(self) -> MemoryTransport:
        protocol, wire = self.factory.buildProtocol(None), MemoryTransport()
        wire.protocol = protocol
        protocol.makeConnection(wire)
        return wire

    def sign(
        self,
        *scopes: str,
        proxy: str = HERE,
        key: Ed25519PrivateKey | None = None,
        models: tuple[str, ...] = (),
    ) -> str:
        signer = AssertionSigner(key or self.key, self.clock.seconds)
        return signer.sign(proxy, frozenset(scopes), models)

    def ask(self, line: str, assertion: str | None = None, more: str = "") -> tuple[int, object]:
        """Status, and the answer's JSON or bytes."""
        head = f"{line} HTTP/1.1\r\nHost: x\r\n{more}"
        head += "" if assertion is None else f"Ctllm-Assertion: {assertion}\r\n"
        self.wire.protocol.dataReceived(head.encode() + b"\r\n")
        return self.answer()

    def answer(self) -> tuple[int, object]:
        head, _, body = self.wire.take_written().partition(b"\r\n\r\n")
        self.head = head
        status = int(head.split(b" ")[1]) if head else 0
        return status, json.loads(body) if body.startswith(b"{") else body

    def code(self, line: str, assertion: str | None) -> tuple[int, str]:
        status, body = self.ask(line, assertion)
        assert isinstance(body, dict)
        error = body["error"]
        return status, error["code"] if isinstance(error, dict) else ""


class AuthenticationTests(Case):
    """Requests with and without a session assertion."""

    def test_reports_health_without_an_assertion(self) -> None:
        self.clock.advance(2.04)
        expected: dict[str, object] = {
            "exchanges": 0,
            "open_requests": 0,
            "desktops": 0,
            "idle_seconds": 2.0,
        }
        expected |= {"held_bytes": 0, "budget_bytes": self.budget.size}
        expected |= {"direct": {"in_progress": 0, "outcomes": {}}}
        expected |= {"response_bytes": 0, "response_chunks": 0}
        self.assertEqual(self.ask("GET /health"), (200, expected))

    def test_refuses_other_paths_without_an_assertion(self) -> None:
        for path in ("/", "/api/chat", "/ctllm/desktops", "/ctllm/exchanges/x", "/ws/tunnel"):
            self.assertEqual(self.ask(f"GET {path}")[0], 401, path)

    def test_refuses_the_old_name_of_a_renamed_header(self) -> None:
        status, body = self.ask("GET /api/tags", self.sign(USE), "Ctllm-Exchange: 1\r\n")
        self.assertEqual(status, 400)
        self.assertIn("is now called Ctllm-Request-Id", str(body))

    def test_refuses_forged_and_expired_assertions(self) -> None:
        other = Ed25519PrivateKey.generate()
        good = self.sign(USE)
        for assertion in (
            self.sign(USE, key=other),
            self.sign(USE, proxy=ELSEWHERE),
            good[:-2] + ("AA" if good[-2:] != "AA" else "BB"),
            good.rpartition(".")[0] + ".",
            "",
            "rubbish",
            "\x80",
        ):
            self.assertEqual(self.code("GET /ctllm/desktops", assertion)[0], 401, assertion)
        self.assertEqual(self.ask("GET /ctllm/desktops", good), (200, {"desktops": []}))
        self.clock.advance(LIFETIME_SECONDS + 60)
        self.wire = self.connect()
        self.assertEqual(self.code("GET /ctllm/desktops", good), (401, "unauthenticated"))

    def test_refuses_a_tunnel_without_the_scope_serve(self) -> None:
        self.assertEqual(self.code("GET /ws/tunnel", self.sign(USE)), (403, "forbidden"))


class RelayTests(Case):
    """Requests that are relayed to a desktop."""

    def test_responds_404_to_paths_of_the_cloud(self) -> None:
        use = self.sign(USE)
        for path in ("/ctllm/session", "/ctllm/", "/ws/other"):
            self.assertEqual(self.code(f"GET {path}", use), (404, "not_found"))
        for path in ("/ctllm/exchanges/", "/ctllm/exchanges/abc", "/ctllm/exchanges/" + "a" * 32):
            self.assertEqual(self.code(f"GET {path}", use), (404, "not_found"))
        self.assertEqual(self.code("DELETE /ctllm/desktops", use), (405, "method_not_allowed"))
        self.assertIn(b"Allow: GET", self.head)

    def test_reports_an_offline_desktop_in_the_dialect_of_the_path(self) -> None:
        status, body = self.ask("GET /api/tags", self.sign(USE))
        assert isinstance(body, dict)
        self.assertEqual((status, type(body["error"])), (503, str))
        self.assertIn(b"Retry-After: 5", self.head)

    def test_sends_the_scopes_of_the_assertion_not_those_of_the_client(self) -> None:
        desk = FakeDesktop(self.registry, 1, "home", "up")
        forged = "ctllm-scope: use manage\r\nContent-Length: 0\r\n"
        for scopes in ((USE,), (USE, MANAGE)):
            self.wire = self.connect()
            self.ask("POST /api/chat", self.sign(*scopes), forged)
        desk.settle()
        told = [
            [value for name, value in head.headers if name.lower() == b"ctllm-scope"]
            for head in desk.heads
        ]
        self.assertEqual(told, [[b"use"], [b"use manage"]])

    def test_sends_the_models_of_the_assertion_not_those_of_the_client(self) -> None:
        desk = FakeDesktop(self.registry, 1, "home", "up")
        forged = "ctllm-allowed-models: *\r\nContent-Length: 0\r\n"
        for models in ((), ("llama*", "qwen3")):
            self.wire = self.connect()
            self.ask("POST /api/chat", self.sign(USE, models=models), forged)
        desk.settle()
        told = [
            [value for name, value in head.headers if name.lower() == b"ctllm-allowed-models"]
            for head in desk.heads
        ]
        self.assertEqual(told, [[], [b"llama*,qwen3"]])

    def test_counts_requests_until_their_response_or_disconnection(self) -> None:
        desk = FakeDesktop(self.registry, 1, "home", "up")
        waiting = self.wire

        def open_requests() -> object:
            self.wire = self.connect()
            _, health = self.ask("GET /health")
            assert isinstance(health, dict)
            return health["open_requests"]

        self.ask("GET /api/tags", "no assertion")
        self.assertEqual(open_requests(), 0)
        self.wire = waiting = self.connect()
        self.ask("POST /api/chat", self.sign(USE), "Content-Length: 0\r\n")
        self.assertEqual(open_requests(), 1)
        desk.settle()
        desk.sinks[0].write_head(ResponseHead(200, b"OK", ((b"Content-Length", b"2"),)))
        desk.sinks[0].write(b"hi")
        self.assertEqual(open_requests(), 1)
        desk.sinks[0].finish()
        desk.settle()
        self.assertEqual(open_requests(), 0)
        self.wire = waiting = self.connect()
        self.ask("POST /api/chat", self.sign(USE), "Content-Length: 0\r\n")
        self.assertEqual(open_requests(), 1)
        waiting.disconnect()
        self.assertEqual(open_requests(), 0)

    def test_lists_the_models_of_desktops_that_the_client_may_use(self) -> None:
        FakeDesktop(self.registry, 1, "home", "up", "llama3:8b", "mistral")
        for models, expected in (((), ["llama3:8b", "mistral"]), (("llama*",), ["llama3:8b"])):
            status, body = self.ask("GET /ctllm/desktops", self.sign(USE, models=models))
            assert status == 200 and isinstance(body, dict)
            self.assertEqual(body["desktops"][0]["models"], expected)

    def test_relays_without_the_assertion_and_states_the_request_id(self) -> None:
        desk = FakeDesktop(self.registry, 1, "home", "up")
        assertion = self.sign(USE)
        self.ask("POST /api/chat", assertion, "Content-Length: 0\r\nCTLLM-RESUME: 9\r\n")
        desk.settle()
        (head,) = desk.heads
        self.assertEqual((head.method, head.target), (b"POST", b"/api/chat"))
        self.assertNotIn(assertion.encode(), b"".join(sum(head.headers, ())))
        desk.sinks[0].write_head(ResponseHead(200, b"OK", ((b"Content-Length", b"2"),)))
        desk.sinks[0].write(b"hi")
        desk.sinks[0].finish()
        desk.settle()
        self.assertEqual(self.answer(), (200, b"hi"))
        id = self.head.partition(b"Ctllm-Request-Id: ")[2][:32].decode()
        for _ in range(2):
            self.ask(f"GET /ctllm/exchanges/{id}?from=1", assertion)
            desk.settle()
            status, body = self.answer()
            self.assertEqual((status, body), (200, b"1\r\ni\r\n0\r\n\r\n"))
        self.assertIn(b"Ctllm-Request-Id: " + id.encode(), self.head)
        self.assertEqual(self.code(f"POST /ctllm/exchanges/{id}", assertion)[0], 405)

    def test_cancels_the_request_of_a_client_that_disconnects(self) -> None:
        desk = FakeDesktop(self.registry, 1, "home", "up")
        self.ask("GET /api/tags", self.sign(USE))
        desk.settle()
        self.wire.disconnect()
        desk.settle()
        self.assertNotEqual(desk.request_sinks[0].calls[-1], "end")
        self.assertEqual(self.registry.stream_count, 0)


class TunnelTests(Case):
    """WebSockets of desktops."""

    UPGRADE = (
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: {b64encode(bytes(16)).decode()}\r\n"
    )

    def upgrade(self, protocol: str = "ctllm.tunnel.v1") -> None:
        more = self.UPGRADE + f"Sec-WebSocket-Protocol: {protocol}\r\n"
        self.ask("GET /ws/tunnel", self.sign(USE, SERVE), more)

    def send(self, message: bytes) -> None:
        """As a client's masked frame, with a mask of zeros."""
        assert 125 < len(message) < 65536
        frame = b"\x82\xfe" + len(message).to_bytes(2, "big") + bytes(4) + message
        self.wire.protocol.dataReceived(frame)

    def hello(self) -> bytes:
        hello = Hello(1, 1 << 18, Desktop("a" * 32, "home"), ("resume",))
        return encode_json_frame(FrameKind.HELLO, CONNECTION_ID, hello)

    def test_registers_a_desktop_after_its_hello(self) -> None:
        self.upgrade()
        self.assertTrue(self.head.startswith(b"HTTP/1.1 101"), self.head)
        self.send(self.hello())
        self.clock.advance(0)
        said = self.wire.take_written()
        ((kind, _, _),) = split_frames(said[2 if said[1] < 126 else 4 :])
        self.assertEqual(kind, FrameKind.HELLO)
        self.assertEqual([desk["name"] for desk in self.registry.describe_desktops()], ["home"])
        self.wire.disconnect()
        self.assertEqual(self.registry.describe_desktops(), [])
        self.wire = self.connect()

    def test_refuses_another_subprotocol(self) -> None:
        self.upgrade("chat")
        self.assertTrue(self.head.startswith(b"HTTP/1.1 400"), self.head)

    def test_keeps_the_connection_after_a_refused_upgrade(self) -> None:
        for line, more in (
            ("GET /ws/tunnel", self.UPGRADE + "Sec-WebSocket-Protocol: chat\r\n"),
            ("GET /ws/tunnel", "Sec-WebSocket-Protocol: ctllm.tunnel.v1\r\n"),
            ("GET /ws/tunnel", ""),
        ):
            self.assertEqual(self.ask(line, self.sign(USE, SERVE), more)[0], 400)
            self.assertEqual(self.ask("GET /ctllm/desktops", self.sign(USE))[0], 200)
            self.assertEqual(self.ask("GET /ctllm/desktops")[0], 401)

    def test_closes_a_tunnel_whose_first_message_is_not_hello(self) -> None:
        self.upgrade()
        self.send(bytes(200))
        said = self.wire.take_written()
        self.assertEqual((said[:1], said[2:4]), (b"\x88", (1002).to_bytes(2, "big")))
        self.assertEqual(self.registry.describe_desktops(), [])

    def test_ignores_a_late_message_of_a_replaced_connection(self) -> None:
        self.upgrade()
        self.send(self.hello())
        older, self.wire = self.wire, self.connect()
        self.upgrade()
        self.send(self.hello())
        self.clock.advance(0)
        newer, self.wire = self.wire, older
        self.send(self.hello())
        self.clock.advance(0)
        self.assertEqual(newer.closed, "")
        ends = [frame for frame in (newer.take_written(),) if b"replaced" in frame]
        self.assertEqual((ends, len(self.registry.describe_desktops())), ([], 1))
        self.assertIn(b"replaced", older.take_written())


class HostileDesktopTests(Case):
    """A desktop that violates HTTP."""

    def test_fails_a_response_with_invalid_headers_only(self) -> None:
        desk = FakeDesktop(self.registry, 1, "home", "up")
        for bad, status in (
            ((b"Content-Length", b"many"), 502),
            ((b"Transfer-Encoding", b"gzip"), 200),  # these do not even pass
            ((b"Retry-After", b" a\x0c"), 200),
            ((b"X-Accel-Redirect", b"/etc/passwd"), 200),
            ((b"Ctllm-Desktop", b"forged"), 200),
        ):
            self.wire = self.connect()
            self.ask("GET /api/tags", self.sign(USE))
            desk.settle()
            desk.sinks[-1].write_head(ResponseHead(200, b"OK", (bad,)))
            desk.sinks[-1].write(b"x")
            desk.settle()
            self.assertEqual(self.answer()[0], status, bad)
            self.assertNotIn(b"%b: %b" % bad, self.head)
        self.assertTrue(self.registry.describe_desktops())

    def test_ends_a_response_beyond_its_content_length(self) -> None:
        desk = FakeDesktop(self.registry, 1, "home", "up")
        self.ask("GET /api/tags", self.sign(USE))
        desk.settle()
        desk.sinks[0].write_head(ResponseHead(200, b"OK", ((b"Content-Length", b"2"),)))
        desk.sinks[0].write(b"too long")
        desk.settle()
        self.assertNotIn(b"long", self.wire.take_written())
        self.assertNotEqual(self.wire.closed, "")
        self.assertEqual(self.registry.stream_count, 0)
        self.assertTrue(self.registry.describe_desktops())
