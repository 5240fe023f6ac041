"""`ctllm.cloud.access_enforcer`: what ends in a running cloud when a user is revoked."""

from __future__ import annotations

import json
import re
from typing import Any
from unittest import mock

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.defer import Deferred

from ctllm.auth.api_keys import generate_key, record_key
from ctllm.auth.request_signatures import PublicKey
from ctllm.cloud.access_enforcer import TUNNEL_GRACE
from ctllm.cloud.gateway import REVOKED_TUNNEL_GRACE
from ctllm.cloud.identity import (
    AccessGrant,
    DisabledUsers,
    PrivateDirectory,
    Revocations,
    User,
    proxy_id,
)
from ctllm.errors import CtllmError, ProxyUnavailable, ServiceUnavailable, Unauthorized
from ctllm.http.message.head import ResponseHead
from tests.unit.cloud.gateway_case import (
    ALL_SCOPES,
    ANN,
    BOB,
    INSTANCE_SECRET,
    WEBSOCKET_HANDSHAKE,
    GatewayCase,
)
from tests.unit.fakes import MemoryTransport

HERE = proxy_id(INSTANCE_SECRET, ANN.id)


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
        self.assertEqual(len(self.active_requests), 2)  # its connections, and its grant
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
        with mock.patch.object(self.proxies, "revoke", side_effect=ZeroDivisionError):
            self.assertRaises(ZeroDivisionError, self.enforcer.apply_new)
        self.assertEqual(self.status("GET /ctllm/session"), 401)
        self.assertEqual(len(self.proxies.revoked), 0)
        self.enforcer.apply_new()
        self.assertEqual(len(self.active_requests), 0)
        self.assertEqual(len(self.proxies.revoked), 1)

    def test_access_ends_at_once_even_if_that_cannot_be_stored(self) -> None:
        self.status("POST /api/chat", b"{}")
        full = ServiceUnavailable("Cannot write: the disk is full.")
        with mock.patch.object(PrivateDirectory, "replace", side_effect=full):
            self.assertRaises(ServiceUnavailable, self.enforcer.end_access, ANN)
        self.assertIn(b"HTTP/1.1 401 ", self.transport.take_written())
        self.assertEqual(self.status("GET /ctllm/session"), 401)


class EnforcerCase(GatewayCase):
    """Users with sessions, whose requests and tunnels stay open."""

    def setUp(self) -> None:
        super().setUp()
        self.sealed_grants: list[str] = []  # of the tunnels

    def answer_control(self, value: object) -> bytes:
        """Respond to what the proxy was asked last; return the body of the request."""
        self.assertTrue(self.proxies.proxy.heads[-1].path.startswith(b"/ctllm/control/"))
        asked, sink = self.proxies.proxy.requests[-1].data, self.proxies.proxy.sinks[-1]
        sink.write_head(ResponseHead(200))
        sink.write(json.dumps(value).encode())
        sink.finish()
        return asked

    def log_in(self, name: str = "ann", client: str = "desktop") -> tuple[str, dict[str, str]]:
        """Create a session; return its refresh token and the header of its access token."""
        body = {"invite": self.invites.create(name), "client": client}
        self.assertEqual(self.send("POST /ctllm/session", body), 201)
        access = {"Authorization": f"Bearer {self.json['token']}"}
        return str(self.json.get("refresh", "")), access

    def log_in_browser(self, access: dict[str, str]) -> dict[str, str]:
        """Log a browser in with a login code of the desktop."""
        self.assertEqual(self.send("POST /ctllm/session/invite", **access), 201)
        body = {"invite": self.json["invite"], "client": "browser"}
        self.assertEqual(self.send("POST /ctllm/session", body), 201)
        return {"Authorization": f"Bearer {self.json['token']}"}

    def open_stream(self, **headers: str) -> MemoryTransport:
        """Start a request whose response does not end."""
        self.assertEqual(self.send("POST /api/chat", b"{}", **headers), 0)
        return self.transport

    def open_tunnel(self, access: dict[str, str]) -> MemoryTransport:
        """Open a tunnel and return the connection of the desktop."""
        self.send("GET /ws/tunnel", **WEBSOCKET_HANDSHAKE, Ctllm_Grant="of-a-client", **access)
        transport = self.transport
        upstream = self.proxies.proxy.endpoint.accept()
        (sealed,) = re.findall(rb"\r\nCtllm-Grant: (.*)\r\n", upstream.take_written())
        self.sealed_grants.append(sealed.decode())
        upstream.protocol.dataReceived(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        )
        self.assertIn(b"HTTP/1.1 101 ", transport.take_written())
        return transport

    def poll(self) -> None:
        """Enforce, and let the grace period of tunnels pass."""
        self.enforcer.poll()
        self.enforcer.end_unrenewed_tunnels()
        self.clock.advance(REVOKED_TUNNEL_GRACE)

    def assert_ended(self, stream: MemoryTransport) -> None:
        self.assertIn(b"HTTP/1.1 401 ", stream.take_written())


class EndedSessionTests(EnforcerCase):
    """What ends with a session, and what does not."""

    def test_signing_out_ends_all_that_derives_from_the_session(self) -> None:
        refresh, access = self.log_in()
        key = self.lease_key(access["Authorization"].removeprefix("Bearer "))
        tunnel = self.open_tunnel(access)
        browser = self.log_in_browser(access)
        streams = [self.open_stream(**headers) for headers in (access, browser, {"X_Api_Key": key})]
        self.assertEqual(self.send("POST /ctllm/session/invite", **access), 201)
        code = {"invite": self.json["invite"], "client": "browser"}
        self.poll()
        self.assertEqual((len(self.active_requests), tunnel.closed), (5, ""))
        self.assertEqual(self.send("DELETE /ctllm/session", Ctllm_Refresh=refresh), 204)
        self.poll()
        for stream in streams:
            self.assert_ended(stream)
        self.assertEqual(tunnel.closed, "abort")
        self.assertEqual(self.proxies.revoked, [])
        counts = len(self.active_requests), len(self.api_key_leases), len(self.login_codes)
        self.assertEqual(counts, (0, 0, 0))
        self.assertEqual(self.send("POST /ctllm/session", code), 401)
        for headers in (access, browser, {"X_Api_Key": key}):
            self.assertEqual(self.send("GET /api/tags", **headers), 401)

    def test_the_proxy_ends_a_tunnel_in_order_before_it_is_cut(self) -> None:
        """It has the reason, and what it ends is that tunnel alone."""
        self.proxies.direct = {HERE: self.proxies.proxy}
        refresh, access = self.log_in()
        _, other = self.log_in()
        tunnel, kept = self.open_tunnel(access), self.open_tunnel(other)
        sealed, sealed_of_other = self.sealed_grants
        self.assertNotEqual(sealed, sealed_of_other)
        found = self.grant_sealer.unseal(HERE, sealed)
        assert found is not None
        self.assertEqual((found[0].user, found[1]), (ANN, True))
        self.assertEqual(self.send("DELETE /ctllm/session", Ctllm_Refresh=refresh), 204)
        self.enforcer.poll()
        self.clock.advance(0)
        self.answer_control({"grants": []})  # which grants are in use
        ended = json.loads(self.answer_control({"aborted": 1}))["ended"]
        self.assertEqual([each["grant"] for each in ended], [sealed])
        self.assertIn("You are logged out", ended[0]["message"])
        self.assertEqual(tunnel.closed, "")
        self.clock.advance(REVOKED_TUNNEL_GRACE)
        self.assertEqual((tunnel.closed, kept.closed), ("abort", ""))

    def test_a_tunnel_is_cut_whose_proxy_does_not_end_it(self) -> None:
        """One that does not respond, and one of a version that has no such control."""
        for direct in ({HERE: self.proxies.proxy}, {}):
            self.proxies.direct = direct
            refresh, access = self.log_in()
            tunnel = self.open_tunnel(access)
            self.assertEqual(self.send("DELETE /ctllm/session", Ctllm_Refresh=refresh), 204)
            self.poll()
            self.assertEqual(tunnel.closed, "abort")

    def test_another_desktop_of_the_user_goes_on(self) -> None:
        refresh, _ = self.log_in()
        _, other = self.log_in()
        tunnel, stream = self.open_tunnel(other), self.open_stream(**other)
        browser = self.open_stream(**self.log_in_browser(other))
        self.assertEqual(self.send("DELETE /ctllm/session", Ctllm_Refresh=refresh), 204)
        self.poll()
        for transport in (tunnel, stream, browser):
            self.assertEqual((transport.take_written(), transport.closed), (b"", ""))
        self.assertEqual(self.send("GET /ctllm/session", **other), 200)

    def test_signing_out_a_browser_leaves_its_desktop(self) -> None:
        _, access = self.log_in()
        stream = self.open_stream(**access)
        token = self.log_in_browser(access)
        cookie = (self.header("set-cookie") or "").partition(";")[0]
        browser = self.open_stream(**token)
        self.assertEqual(self.send("DELETE /ctllm/session", Cookie=cookie), 204)
        self.poll()
        self.assert_ended(browser)
        self.assertEqual(stream.take_written(), b"")

    def test_a_session_that_another_process_removes_ends_too(self) -> None:
        _, access = self.log_in()
        stream = self.open_stream(**access)
        self.poll()
        for file in self.sessions_dir.path.iterdir():
            file.unlink()
        self.poll()
        self.assert_ended(stream)

    def test_a_session_that_nobody_renews_ends_when_it_expires(self) -> None:
        _, access = self.log_in()
        stream = self.open_stream(**access)
        self.clock.advance(30 * 86400 - 1)
        self.enforcer.poll()
        self.assertEqual(stream.take_written(), b"")
        self.clock.advance(1)
        self.enforcer.poll()
        self.assert_ended(stream)

    def test_the_expiry_of_its_access_token_does_not_end_a_response(self) -> None:
        """Nor does that of a provider's token, which no session renews."""
        _, access = self.log_in()
        now = self.clock.seconds()
        self.provider.answers["provider-1"] = AccessGrant(ANN, frozenset({"use"}), now + 60, now)
        streams = [
            self.open_stream(**headers)
            for headers in (access, {"Authorization": "Bearer provider-1"})
        ]
        self.clock.advance(29 * 86400)
        self.poll()
        self.assertEqual(len(self.active_requests), 2)
        for stream in streams:
            self.assertEqual(stream.take_written(), b"")


class EndedCredentialTests(EnforcerCase):
    """What ends with a registered machine, which commands may remove."""

    def test_a_machine_that_another_process_removes_ends_its_responses_alone(self) -> None:
        _, access = self.log_in()
        now = self.clock.seconds()
        owner = AccessGrant(ANN, ALL_SCOPES, now + 60, now)
        streams = []
        for name in ("laptop", "phone"):
            key = PublicKey(Ed25519PrivateKey.generate().public_key().public_bytes_raw())
            machine = self.machines.register(key, owner, name, frozenset({"use"}))
            self.provider.answers[f"provider-{name}"] = machine.grant(key.id, now)
            headers = {"Authorization": f"Bearer provider-{name}"}
            streams.append(self.open_stream(**headers))
        other = self.open_stream(**access)
        self.poll()
        self.assertEqual(len(self.active_requests), 3)
        (self.machines_dir.path / f"{key.id}.json").unlink()
        self.poll()
        self.assert_ended(streams[1])
        self.assertEqual((streams[0].take_written(), other.take_written()), (b"", b""))

    def test_a_request_that_cannot_be_aborted_keeps_no_other_one_alive(self) -> None:
        _, access = self.log_in()
        streams = [self.open_stream(**access) for _ in range(3)]

        def fail(error: CtllmError) -> None:
            raise ZeroDivisionError

        grant = self.successResultOf(
            Deferred.fromCoroutine(self.issuer.verify(access["Authorization"][7:]))
        )
        self.active_requests.add(self.proxies.ensured[-1], grant, fail)
        self.enforcer.end_access(ANN)
        for stream in streams:
            self.assert_ended(stream)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(len(self.active_requests), 0)


class TunnelRenewalTests(EnforcerCase):
    """A tunnel lasts as long as its session is renewed."""

    def test_a_tunnel_outlives_hundreds_of_access_tokens_while_its_session_is_renewed(self) -> None:
        refresh, access = self.log_in()
        tunnel = self.open_tunnel(access)
        for _ in range(300):
            self.clock.advance(self.issuer.lifetime)
            self.assertEqual(self.send("POST /ctllm/session/token", {"refresh": refresh}), 200)
            self.poll()
        self.assertEqual((tunnel.closed, len(self.active_requests)), ("", 2))

    def test_a_tunnel_whose_desktop_does_not_renew_ends_after_a_grace_period(self) -> None:
        _, access = self.log_in()
        tunnel = self.open_tunnel(access)
        self.clock.advance(self.issuer.lifetime + TUNNEL_GRACE - 2)
        self.poll()
        self.assertEqual(tunnel.closed, "")
        self.clock.advance(1)
        self.poll()
        self.assertEqual(tunnel.closed, "abort")

    def test_renewing_another_session_does_not_help(self) -> None:
        """Neither that of a browser that the desktop signed in."""
        _, access = self.log_in()
        other, _ = self.log_in()
        tunnel = self.open_tunnel(access)
        self.log_in_browser(access)
        cookie = (self.header("set-cookie") or "").partition(";")[0]
        self.clock.advance(self.issuer.lifetime + TUNNEL_GRACE)
        self.assertEqual(self.send("POST /ctllm/session/token", {"refresh": other}), 200)
        self.assertEqual(self.send("POST /ctllm/session/token", {}, Cookie=cookie), 200)
        self.poll()
        self.assertEqual(tunnel.closed, "abort")

    def test_a_tunnel_without_a_session_ends_after_its_token(self) -> None:
        """A desktop that presents a provider's token as it is cannot renew it."""
        now = self.clock.seconds()
        self.provider.answers["provider-1"] = AccessGrant(ANN, ALL_SCOPES, now + 60, now)
        tunnel = self.open_tunnel({"Authorization": "Bearer provider-1"})
        self.clock.advance(59 + TUNNEL_GRACE - REVOKED_TUNNEL_GRACE)
        self.poll()
        self.assertEqual(tunnel.closed, "")
        self.clock.advance(1)
        self.poll()
        self.assertEqual(tunnel.closed, "abort")


class DisabledUserTests(EnforcerCase):
    """A user whom an administrator disables, from another process."""

    def disable(self) -> None:
        self.of_command().disable(ANN.id)

    def of_command(self) -> DisabledUsers:
        directory = PrivateDirectory(self.disabled_dir.path)
        return DisabledUsers(directory, INSTANCE_SECRET, self.clock.seconds)

    def test_ends_all_that_is_open_and_leaves_other_users(self) -> None:
        _, access = self.log_in()
        _, bobs = self.log_in("bob")
        tunnel, stream, other = (
            self.open_tunnel(access), self.open_stream(**access), self.open_stream(**bobs)
        )  # fmt: skip
        self.disable()
        self.poll()
        self.assertIn(b"HTTP/1.1 403 ", stream.take_written())
        self.assertEqual(tunnel.closed, "abort")
        self.assertEqual((other.take_written(), len(self.proxies.revoked)), (b"", 1))
        self.assertEqual(len(self.active_requests), 1)

    def test_no_credential_helps_until_the_user_is_enabled(self) -> None:
        refresh, access = self.log_in()
        key = self.lease_key(access["Authorization"].removeprefix("Bearer "))
        browser = self.log_in_browser(access)
        cookie = (self.header("set-cookie") or "").partition(";")[0]
        self.assertEqual(self.send("POST /ctllm/session/invite", **access), 201)
        code = self.json["invite"]
        self.disable()
        self.clock.advance(1)
        now = self.clock.seconds()
        self.provider.answers["provider-1"] = AccessGrant(ANN, ALL_SCOPES, now + 60, now)
        invite = self.invites.create("ann")
        sign_ins: tuple[dict[str, str], ...] = (
            {"invite": invite, "client": "desktop"},
            {"provider_token": "provider-1", "client": "desktop"},
        )
        for body in sign_ins:
            self.assertEqual(self.send("POST /ctllm/session", body), 403, body)
            self.assertEqual(self.code, "user_disabled")
        code_body = {"invite": code, "client": "browser"}
        self.assertEqual(self.send("POST /ctllm/session", code_body), 401)
        self.enforcer.poll()
        provider = {"Authorization": "Bearer provider-1"}
        for headers in (access, browser, provider, self.bearer()):
            self.assertEqual(self.send("GET /ctllm/session", **headers), 403)
            self.assertEqual(self.code, "user_disabled")
        self.assertEqual(self.send("GET /api/tags", X_Api_Key=key), 401)
        for body, headers in (({"refresh": refresh}, {}), ({}, {"Cookie": cookie})):
            self.assertEqual(self.send("POST /ctllm/session/token", body, **headers), 403)
        self.assertTrue(self.of_command().enable(ANN.id))
        self.enforcer.poll()
        for body, headers in (({"refresh": refresh}, {}), ({}, {"Cookie": cookie})):
            self.assertEqual(self.send("POST /ctllm/session/token", body, **headers), 200)
        self.assertEqual(self.send("POST /ctllm/session", sign_ins[0]), 201)
