"""Revocation: of a user, and so of all that ever signed that user in."""

from __future__ import annotations

from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred

from ctllm.auth.api_keys import generate_key, hash_key
from ctllm.cloud.active_requests import ActiveRequests
from ctllm.cloud.gateway import REVOKED_TUNNEL_GRACE
from ctllm.cloud.identity import (
    AccessGrant,
    Authentication,
    PrivateDirectory,
    Revocations,
    Sessions,
    User,
)
from ctllm.errors import BadConfiguration, ProxyUnavailable, Unauthorized
from ctllm.http.message.head import ResponseHead
from tests.unit import proxies_case, test_identity_state
from tests.unit.test_front import ALL, ANN, INSTANCE, Case

BOB = User(ANN.issuer, "bob", "bob")
UPGRADE = {
    "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}  # fmt: skip


class RevocationsTests(test_identity_state.Case):
    """The files that `ctllm revoke` writes and the cloud reads."""

    def setUp(self) -> None:
        super().setUp()
        self.revocations = Revocations(self.folder, INSTANCE, self.now)
        self.command = Revocations(PrivateDirectory(self.path), INSTANCE, self.now)

    def test_of_one_user(self) -> None:
        """What authenticated the user until then is over, what does so later is good."""
        self.command.revoke(ANN)
        self.assertFalse(self.revocations.is_revoked(ANN, self.time))
        (name,) = self.revocations.read_changes()
        self.assertEqual(self.revocations.read_changes(), [])
        self.assertEqual(self.revocations.not_before(name), self.time)
        self.revocations.check(ANN, self.time + 0.001)
        self.revocations.check(BOB, self.time)
        for before in (0.0, self.time - 0.001, self.time):
            self.assertRaises(Unauthorized, self.revocations.check, ANN, before)

    def test_names_nobody(self) -> None:
        """Neither the name nor the content of a file says who it is."""
        self.command.revoke(ANN)
        (file,) = self.files()
        self.assertRegex(file.name, r"\A[0-9a-f]{32}\.json\Z")
        self.assertNotIn(ANN.subject.encode(), file.read_bytes())

    def test_again(self) -> None:
        """The last one counts; a clock that was set back takes none back."""
        self.command.revoke(ANN)
        self.revocations.read_changes()
        self.time += 10
        self.command.revoke(ANN)
        self.assertEqual(len(self.revocations.read_changes()), 1)
        self.assertTrue(self.revocations.is_revoked(ANN, self.time))
        self.time -= 20
        self.command.revoke(ANN)
        self.assertEqual(self.revocations.read_changes(), [])
        self.assertTrue(self.revocations.is_revoked(ANN, self.time + 20))

    def test_damaged(self) -> None:
        """A file that cannot be understood refuses its user what was before it was read."""
        self.command.revoke(ANN)
        self.files()[0].write_bytes(b"{")
        self.assertEqual(len(self.revocations.read_changes()), 1)
        self.assertTrue(self.revocations.is_revoked(ANN, self.time))

    def test_unreadable(self) -> None:
        """It is read again until it can be, and the others count meanwhile."""
        self.command.revoke(ANN)
        self.command.revoke(BOB)
        blocked = sorted(file.name for file in self.files())[0]
        read = self.folder.read

        def refusing(name: str) -> bytes | None:
            if name == blocked:
                raise BadConfiguration("Cannot read it.")
            return read(name)

        with mock.patch.object(self.folder, "read", refusing):
            self.assertEqual(len(self.revocations.read_changes()), 1)
            self.assertEqual(self.revocations.read_changes(), [])
        self.assertEqual(len(self.revocations.read_changes()), 1)


class SessionsTests(test_identity_state.Case):
    """Sessions that end while they are renewed, and those that depend on another."""

    def setUp(self) -> None:
        super().setUp()
        self.sessions = Sessions(self.folder, self.now, days=2)

    def test_a_renewal_makes_no_file_that_is_gone(self) -> None:
        """The session ends between the reading and the writing of its renewal: it stays ended."""
        refresh = self.sessions.create(test_identity_state.SIGNED_IN, "browser")
        self.time += 86400
        late = test_identity_state.Late(self.path)
        late.rival = lambda: self.sessions.close(refresh)
        self.assertRaises(Unauthorized, Sessions(late, self.now, days=2).renew, refresh)
        self.assertEqual(self.files(), [])

    def test_a_child_ends_with_its_parent(self) -> None:
        """When that signs out, and when it expires."""
        for end in ("close", "expire"):
            parent = self.sessions.create(test_identity_state.SIGNED_IN, "desktop")
            (file,) = self.files()
            child = self.sessions.create(Authentication(ANN, self.time, file.stem), "browser")
            self.time += 86400
            self.sessions.renew(child)
            if end == "close":
                self.sessions.close(parent)
            else:
                self.time += 86400
            self.assertRaises(Unauthorized, self.sessions.renew, child)
            self.assertEqual(self.sessions.remove_expired(), 1 if end == "close" else 2)


class Revoked(Case):
    """At the front door of a running cloud."""

    def setUp(self) -> None:
        super().setUp()
        self.refresh = self.sign_in_as("ann")
        self.grant_token = self.told["token"]

    def sign_in_as(self, name: str, client: str = "desktop") -> str:
        body = {"invite": self.invites.create(name), "client": client}
        self.assertEqual(self.ask("POST /ctllm/session", body), 201)
        return str(self.told["refresh"])

    def revoke(self, user: User = ANN) -> None:
        self.clock.advance(0.25)
        Revocations(
            PrivateDirectory(self.revocations_dir.path), INSTANCE, self.clock.seconds
        ).revoke(user)
        self.clock.advance(0.25)

    def status(self, line: str, body: Any = None, **headers: str) -> int:
        """With the desktop's token."""
        return self.ask(line, body, Authorization=f"Bearer {self.grant_token}", **headers)

    def test_tokens(self) -> None:
        """Those of the user are refused from then on, in the same second too; others are not."""
        self.assertEqual(self.status("GET /ctllm/session"), 200)
        bob = self.issuer.issue(BOB, ALL)
        self.revoke()
        self.revoker.apply_new()
        self.assertEqual(self.status("GET /ctllm/session"), 401)
        self.assertIn("administrator has logged you out", self.told["error"]["message"])
        self.assertEqual(self.ask("GET /ctllm/session", Authorization=f"Bearer {bob}"), 200)

    def test_signing_in_anew(self) -> None:
        """An invitation that was made after the revocation is good, in the same second."""
        self.revoke()
        self.revoker.apply_new()
        self.sign_in_as("ann")
        token = self.told["token"]
        self.assertEqual(self.ask("GET /ctllm/session", Authorization=f"Bearer {token}"), 200)

    def test_who_signs_in_anew_is_never_beside_what_was_revoked(self) -> None:
        """Also when the cloud has not looked since: the old proxy ends before the new sign-in."""
        self.revoke()
        self.sign_in_as("ann")
        self.assertEqual(len(self.proxies.revoked), 1)
        self.assertEqual(self.status("GET /ctllm/session"), 401)

    def test_what_derives_later_is_refused_too(self) -> None:
        """A session that was opened from an old invitation before the cloud noticed is over."""
        body = {"invite": self.invites.create("ann"), "client": "desktop"}
        self.revoke()
        with (
            mock.patch.object(self.revoker, "apply_new"),
            mock.patch.object(self.sign_in, "_apply_revocations"),
        ):
            self.assertEqual(self.ask("POST /ctllm/session", body), 201)
        token, refresh = self.told["token"], self.told["refresh"]
        self.revoker.apply_new()
        self.assertEqual(self.ask("GET /ctllm/session", Authorization=f"Bearer {token}"), 401)
        self.assertEqual(self.ask("POST /ctllm/session/token", {"refresh": refresh}), 401)

    def test_open_invitations_and_renewals(self) -> None:
        """Both are refused, though their files are there (a backup, or a renewal under way)."""
        body = {"invite": self.invites.create("ann"), "client": "browser"}
        self.revoke()
        invite = {"invite": body["invite"]}
        self.assertEqual(self.ask("POST /ctllm/session/introspect", invite), 401)
        kept = self.sessions_dir.list_files()
        self.assertEqual(self.ask("POST /ctllm/session", body), 401)
        self.assertEqual(self.sessions_dir.list_files(), kept)
        self.assertEqual(self.ask("POST /ctllm/session/token", {"refresh": self.refresh}), 401)

    def test_passes(self) -> None:
        """One made before is worth nothing, and no more are made."""
        self.assertEqual(self.status("POST /ctllm/session/invite"), 201)
        body = {"invite": self.told["invite"], "client": "browser"}
        self.revoke()
        self.revoker.apply_new()
        self.assertEqual(self.ask("POST /ctllm/session", body), 401)
        self.assertEqual(self.status("POST /ctllm/session/invite"), 401)

    def test_api_keys(self) -> None:
        """Leases are dropped, and an old token takes none."""
        key, path = generate_key(ANN.id), "PUT /ctllm/desktops/" + "a" * 32 + "/keys"
        lease = {"hashes": [hash_key(key)], "seconds": 60}
        self.assertEqual(self.status(path, lease), 204)
        self.assertEqual(self.ask("GET /api/tags", X_Api_Key=key), 0)
        self.revoke()
        self.revoker.apply_new()
        self.assertEqual(self.ask("GET /api/tags", X_Api_Key=key), 401)
        self.assertEqual(self.status(path, lease), 401)
        self.assertEqual(len(self.keys), 0)

    def test_a_lease_that_was_asked_for_before(self) -> None:
        """Its body came after the revocation: the keys are worth nothing."""
        key = generate_key(ANN.id)
        self.wire = self.connect()
        body = b'{"hashes": ["%s"], "seconds": 60}' % hash_key(key).encode()
        head = (
            f"PUT /ctllm/desktops/{'a' * 32}/keys HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: Bearer {self.grant_token}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self.wire.protocol.dataReceived(head.encode() + body[:-1])
        self.revoke()
        self.revoker.apply_new()
        self.wire.protocol.dataReceived(body[-1:])
        self.assertEqual(self.ask("GET /api/tags", X_Api_Key=key), 401)

    def test_streams(self) -> None:
        """An answer under way breaks off with the reason; the other user's goes on."""
        self.status("POST /api/chat", b"{}")
        ann = self.wire
        bob = self.issuer.issue(BOB, ALL)
        self.ask("POST /api/chat", b"{}", Authorization=f"Bearer {bob}")
        ndjson = ((b"Content-Type", b"application/x-ndjson"),)
        for caller in self.proxies.proxy.sinks:
            caller.write_head(ResponseHead(200, b"", ndjson))
            caller.write(b'{"done":false}\n')
        ann.take_written(), self.wire.take_written()
        self.revoke()
        self.revoker.apply_new()
        said = ann.take_written()
        self.assertIn(b'"error"', said)
        self.assertIn(b"administrator has logged you out", said)
        self.assertFalse(said.endswith(b"0\r\n\r\n"))
        self.assertIsInstance(self.proxies.proxy.requests[0].calls[-1], Unauthorized)
        self.assertEqual((self.wire.take_written(), self.wire.closed), (b"", ""))
        self.assertEqual(len(self.in_flight), 1)
        self.assertEqual(len(self.proxies.revoked), 1)

    def test_requests_without_an_answer(self) -> None:
        """401 at once; and one that still waits for its proxy is not sent on."""
        self.status("POST /api/chat", b"{}")
        answering = self.wire
        self.proxies.waiting = Deferred()
        self.status("POST /api/chat", b"{}")
        waiting = self.wire
        self.revoke()
        self.revoker.apply_new()
        self.assertIn(b"HTTP/1.1 401 ", answering.take_written())
        self.proxies.waiting.errback(ProxyUnavailable("It was ended."))
        self.assertIn(b"HTTP/1.1 401 ", waiting.take_written())
        self.proxies.waiting = Deferred()
        self.assertEqual(len(self.asked), 1)

    def test_a_tunnel(self) -> None:
        """Both connections are cut, should the proxy not close it in order before."""
        self.status("GET /ws/tunnel", **UPGRADE)
        inner = self.proxies.proxy.place.accept()
        inner.protocol.dataReceived(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                                    b"Connection: Upgrade\r\n\r\n")  # fmt: skip
        self.assertIn(b"HTTP/1.1 101 ", self.wire.take_written())
        self.assertEqual(len(self.in_flight), 1)
        self.revoke()
        self.revoker.apply_new()
        self.assertEqual((self.wire.closed, inner.closed), ("", ""))
        self.clock.advance(REVOKED_TUNNEL_GRACE)
        self.assertEqual((self.wire.closed, inner.closed), ("abort", "abort"))
        inner.deliver_abort()
        self.wire.deliver_abort()
        self.assertEqual(len(self.in_flight), 0)

    def test_a_tunnel_that_is_not_made_yet(self) -> None:
        """It gets 401."""
        self.status("GET /ws/tunnel", **UPGRADE)
        self.revoke()
        self.revoker.apply_new()
        self.assertEqual(self.answered(), 401)
        self.assertEqual(self.proxies.proxy.place.cancelled, 1)

    def test_what_failed_is_done_again(self) -> None:
        """A fault in between leaves nothing of a revocation undone."""
        self.status("POST /api/chat", b"{}")
        self.revoke()
        with mock.patch.object(self.in_flight, "abort_inactive", side_effect=ZeroDivisionError):
            self.assertRaises(ZeroDivisionError, self.revoker.apply_new)
        self.assertEqual(self.status("GET /ctllm/session"), 401)
        self.assertEqual(len(self.in_flight), 1)
        self.revoker.apply_new()
        self.assertEqual(len(self.in_flight), 0)
        self.assertEqual(len(self.proxies.revoked), 1)


class SigningOut(Case):
    """What a sign-out ends."""

    def desktop(self) -> tuple[str, str]:
        body = {"invite": self.invites.create("ann"), "client": "desktop"}
        self.assertEqual(self.ask("POST /ctllm/session", body), 201)
        return self.told["token"], self.told["refresh"]

    def pass_of(self, token: str) -> str:
        headers = {"Authorization": f"Bearer {token}"}
        self.assertEqual(self.ask("POST /ctllm/session/invite", **headers), 201)
        return str(self.told["invite"])

    def test_a_pass_signs_in_a_browser_only(self) -> None:
        """A desktop is refused with the reason, which spends nothing."""
        token, _ = self.desktop()
        made = self.pass_of(token)
        asked = {"invite": made, "client": "desktop"}
        self.assertEqual(self.ask("POST /ctllm/session", asked), 403)
        self.assertIn("ctllm invite", self.told["error"]["message"])
        self.assertEqual(self.ask("POST /ctllm/session", {**asked, "client": "browser"}), 201)

    def test_what_a_pass_made_dies_with_its_parent(self) -> None:
        """The browser's token at once, its cookie, and a pass that is open still."""
        token, refresh = self.desktop()
        asked = {"invite": self.pass_of(token), "client": "browser"}
        self.assertEqual(self.ask("POST /ctllm/session", asked), 201)
        child = {"Authorization": f"Bearer {self.told['token']}"}
        cookie = (self.header("set-cookie") or "").partition(";")[0]
        open_ = self.pass_of(token)
        self.assertEqual(self.ask("GET /ctllm/session", **child), 200)
        self.assertEqual(self.ask("DELETE /ctllm/session", Ctllm_Refresh=refresh), 204)
        self.assertEqual(self.ask("GET /ctllm/session", **child), 401)
        self.assertEqual(self.ask("POST /ctllm/session/token", {}, Cookie=cookie), 401)
        asked["invite"] = open_
        self.assertEqual(self.ask("POST /ctllm/session", asked), 401)

    def test_a_signed_out_desktop_makes_nothing_more(self) -> None:
        """Its token of ten minutes neither makes a pass nor vouches for keys."""
        token, refresh = self.desktop()
        self.assertEqual(self.ask("DELETE /ctllm/session", Ctllm_Refresh=refresh), 204)
        headers = {"Authorization": f"Bearer {token}"}
        self.assertEqual(self.ask("POST /ctllm/session/invite", **headers), 401)
        lease = {"hashes": [], "seconds": 60}
        path = f"PUT /ctllm/desktops/{'a' * 32}/keys"
        self.assertEqual(self.ask(path, lease, **headers), 401)

    def test_a_browser_has_one_session(self) -> None:
        """The one that its cookie named before ends when another takes its place."""
        asked = {"invite": self.invites.create("ann"), "client": "browser"}
        self.ask("POST /ctllm/session", asked)
        before = (self.header("set-cookie") or "").partition(";")[0]
        asked = {"invite": self.invites.create("bob"), "client": "browser"}
        self.assertEqual(self.ask("POST /ctllm/session", asked, Cookie=before), 201)
        self.assertEqual(self.ask("POST /ctllm/session/token", {}, Cookie=before), 401)


class Links(Case):
    """Whom a link signs in, told without spending it."""

    def test_introspection(self) -> None:
        """Of an invitation and of a pass; each works once afterwards."""
        invite = self.invites.create("ann")
        passed = self.passes.create(Authentication(BOB, self.clock.seconds()))
        for secret, name in ((invite, "ann"), (passed, "bob")):
            for _ in range(2):
                asked = {"invite": secret}
                self.assertEqual(self.ask("POST /ctllm/session/introspect", asked), 200)
                self.assertEqual(self.told["user"], {"name": name, "id": f"ctllm|{name}"})
            body = {"invite": secret, "client": "browser"}
            self.assertEqual(self.ask("POST /ctllm/session", body), 201)
            self.assertEqual(self.ask("POST /ctllm/session/introspect", asked), 401)

    def test_not_for_other_sites(self) -> None:
        """Nor for what is no link."""
        asked = {"invite": self.invites.create("ann")}
        headers = {"Origin": "https://evil.example"}
        self.assertEqual(self.ask("POST /ctllm/session/introspect", asked, **headers), 403)
        self.assertEqual(self.ask("POST /ctllm/session/introspect", {"invite": "x"}), 400)
        self.assertEqual(self.ask("POST /ctllm/session/introspect", {"invite": "x" * 43}), 401)


class Cookies(Case):
    """Which cookie counts."""

    def test_by_https(self) -> None:
        """Only the one that no other host and no path can set."""
        self.compose(is_https=True)
        asked = {"invite": self.invites.create("ann"), "client": "browser"}
        self.ask("POST /ctllm/session", asked)
        cookie = (self.header("set-cookie") or "").partition(";")[0]
        self.assertTrue(cookie.startswith("__Host-ctllm-session=ctllm-r-"))
        self.assertEqual(self.ask("POST /ctllm/session/token", {}, Cookie=cookie), 200)
        plain = cookie.removeprefix("__Host-")
        self.assertEqual(self.ask("POST /ctllm/session/token", {}, Cookie=plain), 401)
        both = f"{plain}; {cookie}"
        self.assertEqual(self.ask("POST /ctllm/session/token", {}, Cookie=both), 200)

    def test_by_http(self) -> None:
        """Browsers take no such name there: the plain one, for the paths that need it."""
        asked = {"invite": self.invites.create("ann"), "client": "browser"}
        self.ask("POST /ctllm/session", asked)
        told = self.header("set-cookie") or ""
        self.assertTrue(told.startswith("ctllm-session=ctllm-r-"))
        self.assertIn("; Path=/ctllm/session; ", told)


class InFlightTests(Case):
    """The list of what is under way."""

    def test_nothing_stays(self) -> None:
        """However it ends."""
        in_flight = ActiveRequests()
        grant = AccessGrant(ANN, ALL, 0.0, 0.0)
        over = [in_flight.add("p", grant, lambda error: None) for _ in range(2)]
        over[0]()
        over[0]()
        self.assertEqual(len(in_flight), 1)
        over[1]()
        self.assertEqual(len(in_flight), 0)

    def test_answers(self) -> None:
        """Whole, broken, or left: none is under way any more."""
        self.ask("GET /api/tags", **self.bearer())
        self.assertEqual(len(self.in_flight), 1)
        caller = self.proxies.proxy.sinks[0]
        caller.write_head(ResponseHead(200, b"", ((b"Content-Length", b"0"),)))
        caller.finish()
        self.ask("GET /api/tags", **self.bearer())
        self.proxies.proxy.sinks[1].fail(ProxyUnavailable("gone"))
        self.ask("GET /api/tags", **self.bearer())
        self.wire.disconnect()
        self.assertEqual(len(self.in_flight), 0)


class ProxiesOfRevokedUsers(proxies_case.ProxyManagerCase):
    """Proxies that outlive the cloud: A's user was revoked while no cloud ran."""

    proxies_survive_restart = True

    def setUp(self) -> None:
        self.revoked = {proxies_case.A: proxies_case.START}
        super().setUp()

    def revocation_time(self, proxy_id: str) -> float:
        return self.revoked.get(proxy_id, float("-inf"))

    def before_start(self) -> None:
        for proxy_id in (proxies_case.A, proxies_case.B):
            self.spawner.proxies[proxy_id] = proxies_case.FakeProxy(True)
            self.spawner.started.append(self.spawner.proxies[proxy_id])

    def test_it_is_not_adopted(self) -> None:
        """It ends at the start; the other user's stays."""
        self.flush()
        self.assertEqual(self.spawner.removals[proxies_case.A], 1)
        self.assertEqual(self.status(proxies_case.A), "absent")
        self.assertEqual(self.status(proxies_case.B), "running")
        self.assertIn(("proxy.stopped", "revoked"), self.audited("event", "reason"))

    def test_one_that_could_not_be_removed_is_not_taken_up(self) -> None:
        """Its user signs in anew: the runtime still has the old one, and another is started."""
        self.flush()
        self.spawner.proxies[proxies_case.A] = proxies_case.FakeProxy(True)
        self.spawner.started.append(self.spawner.proxies[proxies_case.A])
        self.start(proxies_case.A)
        self.assertEqual(self.spawner.removals[proxies_case.A], 2)
        self.assertEqual(self.spawner.starts[proxies_case.A], 1)

    def test_one_that_runs(self) -> None:
        """It ends when its user is revoked; who waits for it hears so."""
        self.flush()
        self.manager.revoke(proxies_case.B)
        self.flush()
        self.assertEqual(self.status(proxies_case.B), "absent")
        self.assertEqual(self.spawner.removals[proxies_case.B], 1)
        self.manager.revoke(proxies_case.B)
        self.manager.revoke(proxies_case.C)
