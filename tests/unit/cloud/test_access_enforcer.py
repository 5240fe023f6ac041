"""`ctllm.cloud.access_enforcer`: what ends in a running cloud when a user is revoked."""

from __future__ import annotations

from typing import Any
from unittest import mock

import msgspec
from twisted.internet.defer import Deferred

from ctllm.auth.api_keys import generate_key, record_key
from ctllm.cloud.gateway import REVOKED_TUNNEL_GRACE
from ctllm.cloud.identity import (
    PrivateDirectory,
    Revocations,
    User,
)
from ctllm.errors import ProxyUnavailable, Unauthorized
from ctllm.http.message.head import ResponseHead
from tests.unit.cloud.gateway_case import (
    ALL_SCOPES,
    ANN,
    BOB,
    INSTANCE_SECRET,
    WEBSOCKET_HANDSHAKE,
    GatewayCase,
)


class RevokedUserTests(GatewayCase):
    """A revoked user at the gateway."""

    def setUp(self) -> None:
        super().setUp()
        self.refresh = self.log_in("ann")
        self.grant_token = self.json["token"]

    def log_in(self, name: str, client: str = "desktop") -> str:
        body = {"invite": self.invites.create(name), "client": client}
        self.assertEqual(self.send("POST /ctllm/session", body), 201)
        return str(self.json["refresh"])

    def revoke(self, user: User = ANN) -> None:
        self.clock.advance(0.25)
        Revocations(
            PrivateDirectory(self.revocations_dir.path), INSTANCE_SECRET, self.clock.seconds
        ).revoke(user)
        self.clock.advance(0.25)

    def status(self, line: str, body: Any = None, **headers: str) -> int:
        """With the desktop's token."""
        return self.send(line, body, Authorization=f"Bearer {self.grant_token}", **headers)

    def test_refuses_tokens_of_the_revoked_user_only(self) -> None:
        self.assertEqual(self.status("GET /ctllm/session"), 200)
        bob = self.issuer.issue(BOB, ALL_SCOPES)
        self.revoke()
        self.enforcer.apply_new()
        self.assertEqual(self.status("GET /ctllm/session"), 401)
        self.assertIn("administrator has logged you out", self.json["error"]["message"])
        self.assertEqual(self.send("GET /ctllm/session", Authorization=f"Bearer {bob}"), 200)

    def test_accepts_an_invite_created_after_the_revocation(self) -> None:
        self.revoke()
        self.enforcer.apply_new()
        self.log_in("ann")
        token = self.json["token"]
        self.assertEqual(self.send("GET /ctllm/session", Authorization=f"Bearer {token}"), 200)

    def test_a_login_applies_pending_revocations_first(self) -> None:
        """The new session never shares a proxy with revoked ones."""
        self.revoke()
        self.log_in("ann")
        self.assertEqual(len(self.proxies.revoked), 1)
        self.assertEqual(self.status("GET /ctllm/session"), 401)

    def test_refuses_a_session_created_from_an_old_invite(self) -> None:
        self.compose(applies_revocations=False)
        body = {"invite": self.invites.create("ann"), "client": "desktop"}
        self.revoke()
        self.assertEqual(self.send("POST /ctllm/session", body), 201)
        token, refresh = self.json["token"], self.json["refresh"]
        self.enforcer.apply_new()
        self.assertEqual(self.send("GET /ctllm/session", Authorization=f"Bearer {token}"), 401)
        self.assertEqual(self.send("POST /ctllm/session/token", {"refresh": refresh}), 401)

    def test_refuses_open_invites_and_renewals(self) -> None:
        body = {"invite": self.invites.create("ann"), "client": "browser"}
        self.revoke()
        invite = {"invite": body["invite"]}
        self.assertEqual(self.send("POST /ctllm/session/introspect", invite), 401)
        kept = self.sessions_dir.list_files()
        self.assertEqual(self.send("POST /ctllm/session", body), 401)
        self.assertEqual(self.sessions_dir.list_files(), kept)
        self.assertEqual(self.send("POST /ctllm/session/token", {"refresh": self.refresh}), 401)

    def test_refuses_login_codes(self) -> None:
        self.assertEqual(self.status("POST /ctllm/session/invite"), 201)
        body = {"invite": self.json["invite"], "client": "browser"}
        self.revoke()
        self.enforcer.apply_new()
        self.assertEqual(self.send("POST /ctllm/session", body), 401)
        self.assertEqual(self.status("POST /ctllm/session/invite"), 401)

    def test_removes_and_refuses_api_key_leases(self) -> None:
        key = self.lease_key(self.grant_token)
        self.assertEqual(self.send("GET /api/tags", X_Api_Key=key), 0)
        self.revoke()
        self.enforcer.apply_new()
        self.assertEqual(self.send("GET /api/tags", X_Api_Key=key), 401)
        self.assertEqual(self.lease_records([record_key(key)], self.grant_token), 401)
        self.assertEqual(len(self.api_key_leases), 0)

    def test_a_lease_that_arrives_after_the_revocation_has_no_effect(self) -> None:
        key = generate_key(ANN.id)
        self.transport = self.connect()
        body = msgspec.json.encode({"keys": [record_key(key)], "seconds": 60})
        head = (
            f"PUT /ctllm/desktops/{'a' * 32}/keys HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: Bearer {self.grant_token}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self.transport.protocol.dataReceived(head.encode() + body[:-1])
        self.revoke()
        self.enforcer.apply_new()
        self.transport.protocol.dataReceived(body[-1:])
        self.assertEqual(self.send("GET /api/tags", X_Api_Key=key), 401)

    def test_aborts_streaming_responses_of_the_user(self) -> None:
        self.status("POST /api/chat", b"{}")
        ann = self.transport
        bob = self.issuer.issue(BOB, ALL_SCOPES)
        self.send("POST /api/chat", b"{}", Authorization=f"Bearer {bob}")
        ndjson = ((b"Content-Type", b"application/x-ndjson"),)
        for caller in self.proxies.proxy.sinks:
            caller.write_head(ResponseHead(200, b"", ndjson))
            caller.write(b'{"done":false}\n')
        ann.take_written(), self.transport.take_written()
        self.revoke()
        self.enforcer.apply_new()
        said = ann.take_written()
        self.assertIn(b'"error"', said)
        self.assertIn(b"administrator has logged you out", said)
        self.assertFalse(said.endswith(b"0\r\n\r\n"))
        self.assertIsInstance(self.proxies.proxy.requests[0].calls[-1], Unauthorized)
        self.assertEqual((self.transport.take_written(), self.transport.closed), (b"", ""))
        self.assertEqual(len(self.active_requests), 1)
        self.assertEqual(len(self.proxies.revoked), 1)

    def test_requests_that_wait_get_401(self) -> None:
        self.status("POST /api/chat", b"{}")
        answering = self.transport
        self.proxies.start_delay = Deferred()
        self.status("POST /api/chat", b"{}")
        waiting = self.transport
        self.revoke()
        self.enforcer.apply_new()
        self.assertIn(b"HTTP/1.1 401 ", answering.take_written())
        self.proxies.start_delay.errback(ProxyUnavailable("It was ended."))
        self.assertIn(b"HTTP/1.1 401 ", waiting.take_written())
        self.proxies.start_delay = Deferred()
        self.assertEqual(len(self.relayed_heads), 1)

    def test_aborts_a_tunnel_after_the_grace_period(self) -> None:
        """The proxy may close it in order before."""
        self.status("GET /ws/tunnel", **WEBSOCKET_HANDSHAKE)
        inner = self.proxies.proxy.endpoint.accept()
        inner.protocol.dataReceived(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                                    b"Connection: Upgrade\r\n\r\n")  # fmt: skip
        self.assertIn(b"HTTP/1.1 101 ", self.transport.take_written())
        self.assertEqual(len(self.active_requests), 1)
        self.revoke()
        self.enforcer.apply_new()
        self.assertEqual((self.transport.closed, inner.closed), ("", ""))
        self.clock.advance(REVOKED_TUNNEL_GRACE)
        self.assertEqual((self.transport.closed, inner.closed), ("abort", "abort"))
        inner.deliver_abort()
        self.transport.deliver_abort()
        self.assertEqual(len(self.active_requests), 0)

    def test_a_tunnel_that_is_connecting_gets_401(self) -> None:
        self.status("GET /ws/tunnel", **WEBSOCKET_HANDSHAKE)
        self.revoke()
        self.enforcer.apply_new()
        self.assertEqual(self.read_status(), 401)
        self.assertEqual(self.proxies.proxy.endpoint.cancelled, 1)

    def test_retries_a_revocation_that_failed(self) -> None:
        self.status("POST /api/chat", b"{}")
        self.revoke()
        with mock.patch.object(
            self.active_requests, "abort_inactive", side_effect=ZeroDivisionError
        ):
            self.assertRaises(ZeroDivisionError, self.enforcer.apply_new)
        self.assertEqual(self.status("GET /ctllm/session"), 401)
        self.assertEqual(len(self.active_requests), 1)
        self.enforcer.apply_new()
        self.assertEqual(len(self.active_requests), 0)
        self.assertEqual(len(self.proxies.revoked), 1)
