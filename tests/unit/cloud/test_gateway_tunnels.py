"""`ctllm.cloud.gateway`: the WebSocket of a desktop is spliced with one to the proxy."""

from __future__ import annotations

from base64 import urlsafe_b64encode

from twisted.internet.error import ConnectionRefusedError

from ctllm.auth.jws import encode_public_key
from ctllm.auth.session_assertions import AssertionVerifier
from ctllm.cloud.identity import (
    MANAGE,
    SERVE,
    USE,
)
from ctllm.cloud.limits.concurrency import MAX_TUNNELS_PER_USER
from ctllm.http.timeouts import HANDSHAKE_TIMEOUT
from tests.unit.cloud.gateway_case import (
    FRIEND_ORIGIN,
    MAX_REQUESTS,
    GatewayCase,
)
from tests.unit.fakes import MemoryTransport


class TunnelTests(GatewayCase):
    """The WebSocket of a desktop."""

    UPGRADE = {
        "Upgrade": "WebSocket",
        "Connection": "keep-alive, Upgrade",
        "Sec_WebSocket_Version": "13",
        "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    AGREED = (
        b"HTTP/1.1 101 Yes\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Accept: x\r\nSet-Cookie: a=b\r\n\r\n"
    )

    def upgrade(self) -> MemoryTransport:
        """The proxy's end of it, once it is asked for."""
        self.send(
            "GET /ws/tunnel", Cookie="x", Ctllm_Assertion="y", **self.UPGRADE, **self.bearer()
        )
        return self.proxies.proxy.endpoint.accept()

    def test_a_desktop_waits_for_as_long_as_it_says(self) -> None:
        headers = {**self.UPGRADE, **self.bearer()}
        self.send("GET /ws/tunnel", **headers)
        self.send("GET /ws/tunnel", Ctllm_Timeout="75000", **headers)
        self.assertEqual(self.proxies.timeouts, [HANDSHAKE_TIMEOUT, 75])

    def test_splices_both_connections_after_101(self) -> None:
        inner = self.upgrade()
        self.assertEqual(self.proxies.new_request_flags, [False])
        head = inner.take_written()
        self.assertTrue(
            head.startswith(b"GET /ws/tunnel HTTP/1.1\r\n") and head.endswith(b"\r\n\r\n")
        )
        for gone in (b"bearer", b"cookie", b": y\r\n"):
            self.assertNotIn(gone, head.lower())
        token = head.partition(b"Ctllm-Assertion: ")[2].partition(b"\r\n")[0]
        verifier = AssertionVerifier(
            encode_public_key(self.key), self.proxies.ensured[0], self.clock.seconds
        )
        self.assertEqual(verifier.verify(token).scopes, frozenset({USE, SERVE}))
        inner.protocol.dataReceived(self.AGREED + b"first")
        said = self.transport.take_written()
        self.assertTrue(said.startswith(b"HTTP/1.1 101 Switching Protocols\r\n"), said)
        self.assertTrue(said.endswith(b"Sec-WebSocket-Accept: x\r\n\r\nfirst"), said)
        self.assertNotIn(b"Set-Cookie", said)
        self.transport.protocol.dataReceived(b"up")
        inner.protocol.dataReceived(b"down")
        self.assertEqual((inner.take_written(), self.transport.take_written()), (b"up", b"down"))

    def test_a_browser_sends_its_token_as_a_subprotocol(self) -> None:
        """The proxy is offered the other subprotocol only, so the token is never selected."""
        token = urlsafe_b64encode(self.token().encode()).rstrip(b"=").decode()
        offer = {"Sec_WebSocket_Protocol": f"ctllm.tunnel.v1, ctllm.bearer.{token}"}
        for origin in ("http://cloud.example", FRIEND_ORIGIN):
            self.send("GET /ws/tunnel", **self.UPGRADE, **offer, Origin=origin)
            head = self.proxies.proxy.endpoint.accept().take_written()
            self.assertIn(b"Sec-WebSocket-Protocol: ctllm.tunnel.v1\r\n", head)
            self.assertNotIn(token.encode(), head)

    def test_pages_of_other_sites_open_no_websocket(self) -> None:
        """Nor with a token: on any path, and before anything is looked up."""
        for path in (
            "/ws/tunnel",
            "/ws/other",
            "/",
            "/api/tags",
            "/v1/responses",
            "/ctllm/session",
        ):
            for origin in ("https://evil.example", "http://cloud.example.evil.example", "null"):
                headers = {**self.UPGRADE, **self.bearer(), "Origin": origin}
                self.assertEqual(self.send(f"GET {path}", **headers), 403, (path, origin))
        both = {**self.UPGRADE, **self.bearer(), "Origin": FRIEND_ORIGIN, "origin": "null"}
        self.assertEqual(self.send("GET /ws/tunnel", **both), 403)
        self.assertEqual(self.proxies.ensured, [])

    def test_a_session_cookie_opens_no_websocket(self) -> None:
        body = {"invite": self.invites.create("ann"), "client": "browser"}
        self.send("POST /ctllm/session", body)
        cookie = (self.header("set-cookie") or "").partition(";")[0]
        headers = {**self.UPGRADE, "Cookie": cookie, "Origin": "http://cloud.example"}
        self.assertEqual(self.send("GET /ws/tunnel", **headers), 401)

    def test_holds_early_data_until_the_proxy_has_upgraded(self) -> None:
        inner = self.upgrade()
        inner.take_written()
        self.transport.protocol.dataReceived(b"early")
        self.assertEqual(inner.take_written(), b"")
        inner.protocol.dataReceived(self.AGREED)
        self.assertEqual(inner.take_written(), b"early")

    def test_a_proxy_that_does_not_respond_times_out_with_502(self) -> None:
        inner, clock = self.upgrade(), self.proxies.proxy.clock
        clock.advance(HANDSHAKE_TIMEOUT - 1)
        self.assertEqual(self.transport.take_written(), b"")
        clock.advance(1)
        self.assertEqual((self.read_status(), inner.closed), (502, "abort"))

    def test_a_tunnel_counts_as_a_connection_and_a_request_until_it_closes(self) -> None:
        before = len(self.connection_limiter)
        inner = self.upgrade()
        inner.protocol.dataReceived(self.AGREED)
        outer = self.transport
        self.assertEqual(len(self.connection_limiter), before + 1)
        for _ in range(MAX_REQUESTS - 1):
            self.assertEqual(self.send("GET /api/tags", **self.bearer()), 0)
        self.assertEqual(self.send("GET /api/tags", **self.bearer()), 429)
        outer.disconnect()
        self.assertEqual(self.send("GET /api/tags", **self.bearer()), 0)

    def test_limits_the_tunnels_of_one_user(self) -> None:
        """Refused and closed ones do not count."""
        self.compose(max_requests=1000)
        upgrade = {**self.UPGRADE, **self.bearer()}
        pairs = []
        for _ in range(MAX_TUNNELS_PER_USER):
            inner = self.upgrade()
            inner.protocol.dataReceived(self.AGREED)
            pairs.append((self.transport, inner))
        self.assertEqual(self.send("GET /ws/tunnel", **upgrade), 429)
        self.assertEqual(self.header("retry-after"), "10")
        self.assertIn("64 of your tunnels", self.json["error"]["message"])
        pairs[0][1].disconnect()
        inner = self.upgrade()
        inner.protocol.dataReceived(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
        self.assertEqual(self.read_status(), 503)
        inner = self.upgrade()
        inner.protocol.dataReceived(self.AGREED)
        self.assertEqual(self.read_status(), 101)
        self.assertEqual(self.send("GET /ws/tunnel", **upgrade), 429)

    def test_relays_a_refusal_and_closes_the_connection(self) -> None:
        """A later request on the connection may be another user's."""
        for refusal in (
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nfull",
            b"HTTP/1.1 400 Bad Request\r\n\r\nfull",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfull\r\n0\r\n\r\n",
        ):
            inner = self.upgrade()
            inner.take_written()
            inner.protocol.dataReceived(refusal)
            if b"Content-Length" not in refusal and b"chunked" not in refusal:
                inner.disconnect()
            answer = self.transport.take_written()
            self.assertEqual(answer.split(b" ")[1], refusal.split(b" ")[1])
            self.assertIn(b"Connection: close\r\n", answer)
            self.assertIn(b"full", answer)
            self.assertEqual(self.transport.closed, "close")
            self.transport.protocol.dataReceived(b"GET /api/tags HTTP/1.1\r\nHost: x\r\n\r\n")
            self.assertEqual((inner.take_written(), self.transport.take_written()), (b"", b""))

    def test_an_incomplete_101_is_a_bad_gateway(self) -> None:
        inner = self.upgrade()
        inner.protocol.dataReceived(b"HTTP/1.1 101 Yes\r\n")
        inner.disconnect()
        self.assertEqual(self.read_status(), 502)

    def test_refuses_an_invalid_handshake_without_connecting_to_the_proxy(self) -> None:
        for name, value in (
            ("Connection", "close"),
            ("Sec_WebSocket_Version", "8"),
            ("Sec_WebSocket_Key", "short"),
            ("Content_Length", "5"),
        ):
            headers = {**self.UPGRADE, **self.bearer(), name: value}
            self.assertEqual(self.send("GET /ws/tunnel", **headers), 400, name)
        self.assertEqual(self.send("POST /ws/tunnel", **self.UPGRADE, **self.bearer()), 400)
        self.assertEqual(self.proxies.proxy.endpoint.pending, [])

    def test_a_request_without_an_upgrade_gets_404(self) -> None:
        self.assertEqual(self.send("GET /ws/tunnel", **self.bearer()), 404)
        self.assertEqual(self.send("GET /ws/tunnel", **self.UPGRADE), 401)

    def test_requires_the_scope_serve(self) -> None:
        scopes = frozenset({USE, MANAGE})
        self.assertEqual(self.send("GET /ws/tunnel", **self.UPGRADE, **self.bearer(scopes)), 403)

    def test_an_unreachable_proxy_gets_503_with_retry_after(self) -> None:
        self.send("GET /ws/tunnel", **self.UPGRADE, **self.bearer())
        self.proxies.proxy.endpoint.refuse(ConnectionRefusedError())
        self.assertEqual((self.read_status(), self.header("retry-after")), (503, "5"))

    def test_a_disconnected_desktop_cancels_the_connection_to_the_proxy(self) -> None:
        self.send("GET /ws/tunnel", **self.UPGRADE, **self.bearer())
        self.transport.disconnect()
        self.assertEqual(self.proxies.proxy.endpoint.cancelled, 1)
