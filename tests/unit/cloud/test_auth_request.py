"""`ctllm.cloud.auth_request`: what nginx is told, and what the cloud then responds itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from ctllm.auth.api_keys import generate_key, record_key
from ctllm.auth.jws import encode_public_key
from ctllm.auth.session_assertions import AssertionVerifier
from ctllm.cloud.identity import SERVE, USE, proxy_id
from ctllm.cloud.limits.attempts import AttemptLimiter
from ctllm.cloud.limits.users import Tiers
from ctllm.cloud.request_authenticator import LEASE_POLL_INTERVAL
from ctllm.errors import ProxyUnavailable
from ctllm.http.message.head import RequestHead, get_header
from ctllm.http.request_envelope import open_envelope
from ctllm.http.timeouts import HANDSHAKE_TIMEOUT
from tests.unit.cloud.gateway_case import (
    ANN,
    FRIEND_ORIGIN,
    INSTANCE_SECRET,
    MAX_REQUESTS,
    WEBSOCKET_HANDSHAKE,
    GatewayCase,
)
from tests.unit.fakes import MemoryTransport

HERE = proxy_id(INSTANCE_SECRET, ANN.id)


class AuthRequestCase(GatewayCase):
    """A gateway that nginx asks."""

    def authorize(self, line: str = "POST /api/chat", **headers: str) -> int:
        """Send a subrequest; return its status."""
        normal, self.factory = self.factory, self.auth_request_factory
        try:
            return self.send(line, **headers)
        finally:
            self.factory = normal

    def ask(self, line: str = "POST /api/chat", **headers: str) -> int:
        """Do what nginx does: return 204, or the status of the cloud's own response."""
        status = self.authorize(line, **headers)
        if status != 403:
            return status
        ticket = self.header("ctllm-refusal")
        return self.send(line, **headers, **({"Ctllm_Refusal": ticket} if ticket else {}))

    @property
    def envelope(self) -> RequestHead:
        """The head that the streaming proxy receives."""
        value = self.header("ctllm-request")
        assert value is not None
        method = b"GET" if self.header("ctllm-upgrade") else b"POST"
        return open_envelope(value.encode(), RequestHead(method, b"/"))

    def claims(self) -> Any:
        assertion = get_header(self.envelope.headers, b"ctllm-assertion")
        verifier = AssertionVerifier(encode_public_key(self.key), HERE, self.clock.seconds)
        return verifier.verify(assertion or b"")

    def audit_events(self) -> list[str]:
        self.audit.write_counts()
        text = (self.audit_dir / "cloud/audit.jsonl").read_text()
        return [line.split('"event":"')[1].split('"')[0] for line in text.splitlines()]


class RouteTests(AuthRequestCase):
    """Requests that belong to a streaming proxy."""

    def test_names_the_proxy_and_the_head_that_it_receives(self) -> None:
        headers = {**self.bearer(), "X_Api_Key": "k", "Cookie": "c", "Accept": "*/*"}
        self.assertEqual(self.authorize("POST //api/%63hat?a=1", **headers), 204)
        self.assertEqual(self.header("ctllm-upstream"), self.proxies.address)
        head = self.envelope
        self.assertEqual((head.method, head.target), (b"POST", b"/api/chat?a=1"))
        names = [name.lower() for name, _ in head.headers]
        own = [b"ctllm-assertion", b"ctllm-request-id", b"ctllm-grant"]
        self.assertEqual(names, [b"host", b"accept", *own])
        self.assertEqual(self.proxies.ensured, [HERE])

    def test_the_assertion_limits_scopes_and_requests(self) -> None:
        self.authorize(**self.bearer(frozenset((USE,))))
        claims = self.claims()
        self.assertEqual((claims.scopes, claims.max_requests), ({USE}, MAX_REQUESTS))

    def test_headers_of_a_client_that_only_the_cloud_may_set_are_dropped(self) -> None:
        own = {"Ctllm_Request": "x", "Ctllm_Grant": "x", "Ctllm_Assertion": "x",
               "Ctllm_Upstream": "unix:/x", "Ctllm_Refusal": "x"}  # fmt: skip
        self.authorize(**self.bearer(), **own)
        values = [value for _, value in self.envelope.headers]
        self.assertNotIn(b"x", values)
        self.assertEqual(self.header("ctllm-upstream"), self.proxies.address)
        self.send("POST /api/chat", **self.bearer(), **own)
        self.assertNotIn(b"x", [value for _, value in self.relayed_heads[-1].headers])

    def test_the_connection_header_of_the_client_names_headers_that_end_here(self) -> None:
        """That of nginx is about its own connection."""
        named = {"X_Mine": "1", "X_Other": "2", "Connection": "x-other",
                 "Ctllm_Client_Connection": "close, x-mine"}  # fmt: skip
        self.authorize(**self.bearer(), **named)
        names = {name.lower() for name, _ in self.envelope.headers}
        self.assertIn(b"x-other", names)
        self.assertNotIn(b"x-mine", names)
        self.assertFalse(self.transport.disconnected)

    def test_one_connection_asks_for_many_clients(self) -> None:
        """What one of them is, no other one becomes."""
        protocol = self.auth_request_factory.buildProtocol(None)
        transport = MemoryTransport()
        protocol.makeConnection(transport)
        tokens = (self.bearer()["Authorization"], "Bearer a.b.c", self.bearer()["Authorization"])
        for token, status in zip(tokens, (b"204", b"403", b"204"), strict=True):
            head = f"GET /api/tags HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n\r\n"
            protocol.dataReceived(head.encode())
            self.assertIn(b"HTTP/1.1 %b " % status, transport.take_written())
        protocol.dataReceived(b"GET /api/tags HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertNotIn(b"Ctllm-Upstream", transport.take_written())

    def test_tells_what_pages_may_read(self) -> None:
        self.authorize(**self.bearer(), Origin=FRIEND_ORIGIN)
        self.assertEqual(self.header("access-control-allow-origin"), FRIEND_ORIGIN)
        self.authorize(**self.bearer(), Origin="https://evil.example")
        self.assertIsNone(self.header("access-control-allow-origin"))

    def test_waits_until_the_proxy_runs(self) -> None:
        self.proxies.start_delay = Deferred()
        self.assertEqual(self.authorize(**self.bearer(), Ctllm_Timeout="5000"), 0)
        self.clock.advance(2)
        self.proxies.start_delay.callback(None)
        self.assertEqual(self.read_status(), 204)
        self.assertEqual(get_header(self.envelope.headers, b"ctllm-timeout"), b"3000")

    def test_opens_tunnels(self) -> None:
        token = {"Authorization": f"Bearer {self.token(frozenset((SERVE, USE)))}"}
        self.assertEqual(self.authorize("GET /ws/tunnel", **token, **WEBSOCKET_HANDSHAKE), 204)
        self.assertEqual(self.header("ctllm-upgrade"), "websocket")
        self.assertEqual(self.envelope.target, b"/ws/tunnel")
        self.assertEqual(self.claims().scopes, {USE, SERVE})
        self.assertEqual(self.proxies.new_request_flags, [False])
        self.assertEqual(self.proxies.timeouts, [HANDSHAKE_TIMEOUT])

    def test_a_desktop_waits_for_as_long_as_it_says(self) -> None:
        token = {"Authorization": f"Bearer {self.token(frozenset((SERVE, USE)))}"}
        headers = {**token, **WEBSOCKET_HANDSHAKE, "Ctllm_Timeout": "75000"}
        self.assertEqual(self.authorize("GET /ws/tunnel", **headers), 204)
        self.assertEqual(self.proxies.timeouts, [75])

    def test_the_grant_can_be_read_by_the_cloud_alone_and_for_this_proxy(self) -> None:
        self.authorize(**self.bearer())
        sealed = (get_header(self.envelope.headers, b"ctllm-grant") or b"").decode()
        self.assertNotIn("ann", sealed)
        found = self.grant_sealer.unseal(HERE, sealed)
        assert found is not None
        self.assertEqual((found[0].user, found[1]), (ANN, False))
        self.assertIsNone(self.grant_sealer.unseal("ctllm-proxy-else", sealed))
        self.assertIsNone(self.grant_sealer.unseal(HERE, sealed[:-1]))


class LogTests(AuthRequestCase):
    """nginx gives each request its id, which all parts log."""

    GIVEN = "0123456789abcdef" * 2

    def test_the_line_and_the_streaming_proxy_have_the_id(self) -> None:
        with capturedLogs() as events:
            self.authorize(**self.bearer(), Ctllm_Request_Id=self.GIVEN)
        line = self.lines(events)[0]
        self.assertEqual((line["request_id"], line["outcome"]), (self.GIVEN, "authorized"))
        self.assertEqual(get_header(self.envelope.headers, b"ctllm-request-id"), line["id"])

    def test_without_a_valid_id_the_cloud_chooses_one(self) -> None:
        for given in ({}, {"Ctllm_Request_Id": "short"}):
            self.authorize(**self.bearer(), **given)
            id = get_header(self.envelope.headers, b"ctllm-request-id") or b""
            self.assertRegex(id, b"^[0-9a-f]{32}$")
            self.assertNotEqual(id, self.GIVEN.encode())

    def test_a_resumed_response_has_the_id_of_its_request(self) -> None:
        resumed = "f" * 32
        with capturedLogs() as events:
            self.authorize(f"GET /ctllm/exchanges/{resumed}", **self.bearer(),
                           Ctllm_Request_Id=self.GIVEN)  # fmt: skip
        self.assertEqual([each["request_id"] for each in self.lines(events)], [resumed])

    def test_a_refusal_has_its_own_status_and_no_secret(self) -> None:
        with capturedLogs() as events:
            self.authorize("POST /api/chat?q=hunter2", X_Api_Key="hunter2",
                           Ctllm_Request_Id=self.GIVEN)  # fmt: skip
        (line,) = self.lines(events)
        self.assertEqual((line["status"], line["outcome"]), (401, "refused"))
        self.assertEqual(line["request_id"], self.GIVEN)
        self.assertNotIn("hunter2", str(events))

    def test_a_client_that_leaves_while_its_proxy_starts_has_a_line(self) -> None:
        self.proxies.start_delay = Deferred()
        self.authorize(**self.bearer(), Ctllm_Request_Id=self.GIVEN)
        with capturedLogs() as events:
            self.transport.disconnect()
        self.assertEqual([e["outcome"] for e in self.lines(events)], ["client_disconnected"])

    def test_what_the_cloud_responds_to_has_no_line_here(self) -> None:
        with capturedLogs() as events:
            self.authorize("GET /health")
        self.assertEqual(self.lines(events), [])

    def lines(self, events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        found = [each for each in events if "request_id" in each]
        return [{**each, "id": each["request_id"].encode()} for each in found]


class RecoveryTests(AuthRequestCase):
    """After a restart of the cloud, a key waits until its desktop has leased it again."""

    def setUp(self) -> None:
        super().setUp()
        self.is_recovering = True
        self.api_key = generate_key(ANN.id)

    def test_waits_for_the_lease(self) -> None:
        self.assertEqual(self.authorize(X_Api_Key=self.api_key), 0)
        waiting = self.transport
        self.assertEqual(self.lease_records([record_key(self.api_key)]), 200)
        self.clock.advance(LEASE_POLL_INTERVAL)
        self.assertIn(b" 204 ", waiting.take_written())

    def test_refuses_an_unknown_key_when_the_time_is_over(self) -> None:
        self.assertEqual(self.authorize(X_Api_Key=self.api_key), 0)
        self.is_recovering = False
        self.clock.advance(LEASE_POLL_INTERVAL)
        self.assertEqual(self.read_status(), 403)

    def test_other_credentials_do_not_wait(self) -> None:
        self.assertEqual(self.authorize(Authorization="Bearer a.b.c"), 403)


class CloudTests(AuthRequestCase):
    """Requests that the cloud responds to itself."""

    def test_sends_what_is_its_own_to_the_cloud_without_a_check(self) -> None:
        page = {"Accept": "text/html"}
        preflight = {"Origin": FRIEND_ORIGIN, "Access_Control_Request_Method": "POST"}
        for line, headers in (
            ("GET /", page), ("OPTIONS /api/chat", preflight), ("GET /health", {}),
            ("GET /ctllm/desktops", {}), ("GET /ws/else", {}), ("HEAD /", {}),
            ("POST /v1/responses", WEBSOCKET_HANDSHAKE), ("GET /ws/tunnel", {}),
            ("GET /api/tags", {"User_Agent": "ollama/0.5"}),
        ):  # fmt: skip
            self.assertEqual(
                self.authorize(line, **self.bearer() if headers == page else {}, **headers),
                403,
                line,
            )
            self.assertIsNone(self.header("ctllm-refusal"), line)
            self.assertIsNone(self.header("ctllm-upstream"), line)
        self.assertEqual(self.proxies.ensured, [])

    def test_relays_large_heads_through_the_cloud(self) -> None:
        self.assertEqual(self.authorize(**self.bearer(), X_Large="a" * 10_000), 403)
        self.assertIsNone(self.header("ctllm-refusal"))
        self.assertEqual(self.proxies.ensured, [])
        self.assertEqual(self.authorize(**self.bearer(), X_Large="a" * 5_000), 204)

    def test_relays_through_the_cloud_to_a_proxy_of_an_earlier_version(self) -> None:
        self.proxies.address = ""
        self.assertEqual(self.authorize(**self.bearer()), 403)
        self.assertIsNone(self.header("ctllm-refusal"))


class RefusalTests(AuthRequestCase):
    """Refusals come from the cloud, in the dialect, and are counted once."""

    def test_an_unknown_key_is_refused_and_counted_once(self) -> None:
        self.attempts = AttemptLimiter(0, 3, self.clock.seconds)
        self.compose()
        for _ in range(3):
            self.assertEqual(self.ask("POST /v1/messages", X_Api_Key="ctllm-x"), 401)
            self.assertEqual(self.json["type"], "error")
        self.assertEqual(self.ask("POST /v1/messages", X_Api_Key="ctllm-x"), 429)
        _, metrics = self.metrics.render_text()
        self.assertIn(b"\nctllm_authentication_failures_total 4.0\n", metrics)

    def test_a_refusal_without_a_scope_is_recorded_once_with_its_user(self) -> None:
        use = self.bearer(frozenset((USE,)))
        self.assertEqual(self.ask("DELETE /api/delete", **use), 403)
        self.assertEqual(self.audit_events(), ["request.refused"])

    def test_the_rate_of_requests_is_counted_once(self) -> None:
        self.tiers = Tiers({}, requests_per_minute=3)
        self.compose()
        for _ in range(3):
            self.assertEqual(self.ask(**self.bearer()), 204)
        for _ in range(2):
            self.assertEqual(self.ask("POST /v1/chat/completions", **self.bearer()), 429)
            self.assertEqual(self.json["error"]["type"], "rate_limit_error")
            self.assertEqual(self.header("retry-after"), "20")

    def test_a_proxy_that_does_not_start_is_asked_for_once(self) -> None:
        self.proxies.error = ProxyUnavailable("It does not start.", retry_after=7)
        self.assertEqual(self.ask(**self.bearer(), Origin=FRIEND_ORIGIN), 503)
        self.assertEqual(self.header("retry-after"), "7")
        self.assertEqual(self.header("access-control-allow-origin"), FRIEND_ORIGIN)
        self.assertEqual(self.proxies.ensured, [HERE])

    def test_a_ticket_is_good_once_and_cannot_be_guessed(self) -> None:
        self.authorize(X_Api_Key="ctllm-x")
        ticket = self.header("ctllm-refusal") or ""
        self.assertEqual(self.send("POST /api/chat", **self.bearer(), Ctllm_Refusal=ticket), 401)
        for unknown in (ticket, "", "x"):
            self.send("POST /api/chat", **self.bearer(), Ctllm_Refusal=unknown)
            self.assertEqual(self.read_status(), 0)
        self.assertEqual(len(self.relayed_heads), 3)

    def test_a_revoked_user_is_refused(self) -> None:
        self.proxies.start_delay = Deferred()
        self.authorize(**self.bearer())
        self.enforcer.end_access(ANN)
        self.proxies.start_delay.callback(None)
        self.assertEqual(self.read_status(), 403)
        self.assertIsNotNone(self.header("ctllm-refusal"))

    def test_never_says_401(self) -> None:
        for headers in ({}, {"X_Api_Key": "ctllm-x"}, {"Authorization": "Bearer a.b.c"}):
            for line in ("POST /api/chat", "GET /ws/tunnel", "GET /ctllm/exchanges/x"):
                self.assertEqual(self.authorize(line, **headers), 403)
        self.assertEqual(self.authorize("GET /api/tags", Ctllm_Exchange="1", **self.bearer()), 403)
        self.assertFalse((self.audit_dir / "cloud/audit.jsonl").exists())
