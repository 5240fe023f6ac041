"""`ctllm.cloud.session_renewer`: sessions that an OpenID provider authenticates and confirms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.defer import Deferred

from ctllm.auth.request_signatures import PublicKey
from ctllm.cloud.audit import AUDIT_FILE, AuditEntry
from ctllm.cloud.identity import MANAGE, SERVE, USE, AccessGrant, KnownUsers, User
from ctllm.cloud.session_renewer import RENEW_PROOF_BEFORE, RenewedConsent
from ctllm.common.json_decoder import decode_json
from ctllm.errors import BadGateway, GroupNotAllowed, Unauthorized, UserDisabled
from ctllm.http.message.head import RequestHead
from tests.unit.cloud.gateway_case import ANN, INSTANCE_SECRET, GatewayCase

ISSUER = "https://login.example/"
EVE = User(ISSUER, "auth0|eve", "Eve")
HEAD = RequestHead(b"GET", b"/ctllm/callback", ((b"Host", b"cloud.example"),))
#: Seconds that a provider token is valid.
LIFETIME = 3600.0


class ProviderCase(GatewayCase):
    """A gateway with a provider, which issues tokens to its users."""

    def issue(self, user: User = EVE, token: str = "provider-1", **changes: Any) -> str:
        """Let the provider issue `token` and return it."""
        now = self.clock.seconds()
        scopes = frozenset({USE, MANAGE, SERVE})
        grant = AccessGrant(user, scopes, now + LIFETIME, now, tier="gold")
        self.provider.answers[token] = replace(grant, **changes)
        return token

    def refuse(self, user: User = EVE, token: str = "provider-refused") -> str:
        """Let the provider issue `token` without a group that may sign in, and return it."""
        error = GroupNotAllowed("None of your groups may sign in here.", user=user)
        self.provider.answers[token] = error
        return token

    def log_in(self, **changes: Any) -> str:
        """Create a desktop's session and return its refresh token; `bearer_of` has the token."""
        body = {"client": "desktop", "provider_token": self.issue(**changes)}
        self.assertEqual(self.send("POST /ctllm/session", body), 201)
        self.access = {"Authorization": f"Bearer {self.json['token']}"}
        return str(self.json["refresh"])

    def renew(self, refresh: str, token: str | None = None) -> int:
        body = {"refresh": refresh, **({"provider_token": token} if token else {})}
        return self.send("POST /ctllm/session/token", body)

    def tier_of_token(self) -> str:
        grant = self.successResultOf(Deferred.fromCoroutine(self.issuer.verify(self.json["token"])))
        return grant.tier


class DesktopSessionTests(ProviderCase):
    """The session of a desktop that signs in at a provider."""

    def test_a_provider_token_begins_a_session_with_access_tokens_of_this_cloud(self) -> None:
        self.log_in()
        self.assertEqual(self.json["user"], {"name": "Eve", "id": f"{ISSUER}|auth0|eve"})
        self.assertEqual(self.tier_of_token(), "gold")
        self.send("GET /ctllm/session", **self.access)
        self.assertEqual(self.json["scopes"], ["manage", "serve", "use"])
        self.assertEqual(self.json["user"]["id"], EVE.id)

    def test_a_providers_user_named_like_a_built_in_user_shares_nothing_with_it(self) -> None:
        self.log_in(user=User(ISSUER, "ann", "ann"))
        self.assertEqual(self.send("GET /api/tags", **self.access), 0)
        self.assertEqual(self.send("GET /api/tags", **self.bearer()), 0)
        self.assertEqual(len(set(self.proxies.ensured)), 2)

    def test_refuses_tokens_that_the_provider_did_not_issue_and_users_it_does_not_allow(
        self,
    ) -> None:
        body = {"client": "desktop", "provider_token": "provider-forged"}
        self.assertEqual(self.send("POST /ctllm/session", body), 401)
        body["provider_token"] = self.refuse()
        self.assertEqual(
            (self.send("POST /ctllm/session", body), self.code), (403, "group_not_allowed")
        )
        self.assertEqual(self.sessions_dir.list_files(), [])

    def test_a_token_of_another_program_begins_no_desktops_session(self) -> None:
        body = {
            "client": "desktop",
            "provider_token": self.issue(scopes=frozenset({USE, MANAGE})),
        }
        self.assertEqual((self.send("POST /ctllm/session", body), self.code), (403, "forbidden"))
        self.assertEqual(self.sessions_dir.list_files(), [])

    def test_refuses_bodies_with_both_or_neither_and_browsers(self) -> None:
        token = self.issue()
        for body in (
            {"client": "desktop"},
            {"client": "browser", "provider_token": token},
            {"client": "desktop", "provider_token": token, "invite": "x" * 43},
            {"client": "desktop", "provider_token": f"{token}\n"},
            {"client": "desktop", "provider_token": None},
            {"client": "desktop", "provider_token": ""},
        ):
            self.assertEqual(self.send("POST /ctllm/session", body), 400, body)

    def test_renews_without_a_provider_token_while_the_last_one_is_valid(self) -> None:
        refresh = self.log_in()
        self.clock.advance(LIFETIME - 1)
        self.assertEqual(self.renew(refresh), 200)
        self.clock.advance(1)
        self.assertEqual((self.renew(refresh), self.code), (401, "provider_token_required"))
        self.assertEqual(self.renew(refresh, self.issue()), 200)
        self.assertEqual(self.renew(refresh), 200)

    def test_the_tier_and_the_name_follow_the_provider(self) -> None:
        refresh = self.log_in()
        self.clock.advance(60)
        married = User(ISSUER, EVE.subject, "Eve Jones")
        self.assertEqual(self.renew(refresh, self.issue(married, tier="")), 200)
        self.assertEqual((self.json["user"]["name"], self.tier_of_token()), ("Eve Jones", ""))
        self.assertEqual(self.renew(refresh), 200)
        self.assertEqual((self.json["user"]["name"], self.tier_of_token()), ("Eve Jones", ""))

    def test_an_older_provider_token_does_not_restore_a_tier(self) -> None:
        refresh = self.log_in()
        older = self.issue(token="provider-older")
        self.clock.advance(60)
        self.assertEqual(self.renew(refresh, self.issue(tier="")), 200)
        self.assertEqual((self.renew(refresh, older), self.tier_of_token()), (200, ""))

    def test_another_users_provider_token_changes_nothing(self) -> None:
        refresh = self.log_in()
        mallory = User(ISSUER, "mallory", "Eve")
        kept = self.sessions.read(refresh)
        for token in (self.issue(mallory, "provider-m"), self.refuse(mallory, "provider-r")):
            self.assertEqual((self.renew(refresh, token), self.code), (401, "unauthenticated"))
        self.assertEqual(self.renew(refresh, "provider-forged"), 401)
        self.assertEqual(self.sessions.read(refresh), kept)
        self.assertEqual(self.renew(refresh), 200)

    def test_a_refused_group_ends_the_users_access_everywhere_at_once(self) -> None:
        first, first_access = self.log_in(), self.access
        second = self.log_in()
        self.send("POST /api/chat", b"{}", **first_access)
        streaming = self.transport
        self.clock.advance(60)
        self.assertEqual((self.renew(second, self.refuse()), self.code), (403, "group_not_allowed"))
        self.assertIn(b"HTTP/1.1 401 ", streaming.take_written())
        self.assertEqual(len(self.active_requests), 0)
        self.assertEqual(len(self.proxies.revoked), 1)
        for access in (first_access, self.access):
            self.assertEqual(self.send("GET /ctllm/session", **access), 401)
        for refresh in (first, second):
            self.assertEqual(self.renew(refresh, self.issue()), 401)
        self.clock.advance(1)
        self.log_in()  # who is in a group again may sign in again

    def test_an_invites_session_accepts_no_provider_token(self) -> None:
        body = {"invite": self.invites.create("ann"), "client": "desktop"}
        self.assertEqual(self.send("POST /ctllm/session", body), 201)
        refresh = self.json["refresh"]
        self.assertEqual(self.renew(refresh, self.issue(ANN)), 401)
        self.assertEqual(self.renew(refresh), 200)

    def test_a_session_closed_while_the_provider_is_asked_stays_closed(self) -> None:
        refresh = self.log_in()
        self.provider.delay = Deferred()
        self.assertEqual(self.renew(refresh, self.issue()), 0)
        renewing = self.transport
        self.assertEqual(self.send("DELETE /ctllm/session", Ctllm_Refresh=refresh), 204)
        self.provider.delay.callback(None)
        self.assertIn(b"HTTP/1.1 401 ", renewing.take_written())
        self.assertEqual(self.sessions_dir.list_files(), [])

    def test_a_login_code_passes_the_tier_and_the_providers_proof_on(self) -> None:
        refresh = self.log_in()
        self.assertEqual(self.send("POST /ctllm/session/invite", **self.access), 201)
        body = {"invite": self.json["invite"], "client": "browser"}
        self.assertEqual(self.send("POST /ctllm/session", body), 201)
        self.assertEqual(self.tier_of_token(), "gold")
        cookie = (self.header("set-cookie") or "").partition(";")[0]
        self.clock.advance(LIFETIME)
        asked = "POST /ctllm/session/token"
        self.assertEqual(self.send(asked, {}, Cookie=cookie), 401)
        self.assertEqual(self.renew(refresh, self.issue(tier="")), 200)
        self.assertEqual((self.send(asked, {}, Cookie=cookie), self.tier_of_token()), (200, ""))


class MachineOfProviderTests(ProviderCase):
    """A machine lasts while its user's provider confirms the user, in whatever session."""

    def register(self, user: User) -> None:
        now = self.clock.seconds()
        owner = AccessGrant(user, frozenset({USE, MANAGE}), now + 60, now)
        key = PublicKey(Ed25519PrivateKey.generate().public_key().public_bytes_raw())
        machine = self.machines.register(key, owner, "laptop", frozenset({USE}))
        self.provider.answers["provider-machine"] = machine.grant(key.id, now)

    def is_accepted(self) -> bool:
        status = self.send("GET /api/tags", Authorization="Bearer provider-machine")
        self.assertIn(status, (0, 401))
        return status == 0

    def test_it_ends_when_nobody_asks_the_provider_any_more(self) -> None:
        """As when its user has left the group, and renews no session."""
        self.log_in()
        self.register(EVE)
        self.clock.advance(30 * 86400 - 1)
        self.assertTrue(self.is_accepted())
        self.clock.advance(1)
        self.assertFalse(self.is_accepted())
        self.log_in(token="provider-2")
        self.assertTrue(self.is_accepted())

    def test_renewals_of_a_session_keep_it(self) -> None:
        refresh = self.log_in()
        self.register(EVE)
        for _ in range(3):
            self.clock.advance(20 * 86400)
            self.assertEqual(self.renew(refresh, self.issue()), 200)
            self.assertTrue(self.is_accepted())
            self.known_users = KnownUsers(self.users_dir, INSTANCE_SECRET, self.clock.seconds)
            self.compose()  # as a restarted cloud, which reads what was stored
            self.assertTrue(self.is_accepted())

    def test_renewals_of_another_user_do_not(self) -> None:
        mallory = User(ISSUER, "mallory", "Eve")
        refresh = self.log_in(user=mallory)
        self.register(EVE)
        self.clock.advance(20 * 86400)
        self.assertEqual(self.renew(refresh, self.issue(mallory)), 200)
        self.clock.advance(10 * 86400)
        self.assertFalse(self.is_accepted())

    def test_a_built_in_users_machine_needs_no_provider(self) -> None:
        self.register(ANN)
        self.clock.advance(400 * 86400)
        self.assertTrue(self.is_accepted())


class SessionAuditTests(ProviderCase):
    """What the audit log has of sessions."""

    def entries(self) -> list[AuditEntry]:
        lines = (self.audit_dir / AUDIT_FILE).read_bytes().splitlines()
        return [decode_json(line, AuditEntry) for line in lines]

    def test_creation_and_end_are_recorded_with_the_method(self) -> None:
        refresh = self.log_in()
        self.assertEqual(self.send("POST /ctllm/session/invite", **self.access), 201)
        body = {"invite": self.json["invite"], "client": "browser"}
        self.assertEqual(self.send("POST /ctllm/session", body), 201)
        body["invite"] = self.invites.create("ann")
        self.assertEqual(self.send("POST /ctllm/session", body), 201)
        for _ in range(2):
            self.assertEqual(self.send("DELETE /ctllm/session", Ctllm_Refresh=refresh), 204)
        created = ["provider", "login_code", "invite"]
        self.assertEqual(
            [(each.event, each.method) for each in self.entries()],
            [*(("session.created", method) for method in created), ("session.closed", "")],
        )

    def test_a_refused_user_is_named_to_whoever_records_the_refusal(self) -> None:
        self.disabled_users.disable(EVE.id)
        self.disabled_users.read_changes()
        error = self.assertRaises(UserDisabled, self.disabled_users.check, EVE)
        self.assertEqual(error.user, EVE)


class BrowserSessionTests(ProviderCase):
    """The session of a browser, for which the cloud asks the provider."""

    def log_in_browser(self, ask_in: float = LIFETIME - RENEW_PROOF_BEFORE) -> str:
        """Return the cookie of a new session, which asks the provider after `ask_in` seconds."""
        self.compose()
        grant = AccessGrant(
            EVE, frozenset({USE}), self.clock.seconds() + LIFETIME, self.clock.seconds()
        )
        ((name, value),) = self.session_api.create_browser_session(
            HEAD, grant, "sealed-0", self.clock.seconds() + ask_in
        )
        self.assertEqual(name, b"Set-Cookie")
        return value.decode().partition(";")[0]

    def consent(self, number: int, **changes: Any) -> RenewedConsent:
        now = self.clock.seconds()
        grant = AccessGrant(EVE, frozenset({USE}), now + LIFETIME, now)
        return RenewedConsent(replace(grant, **changes), f"sealed-{number}")

    def renew_cookie(self, cookie: str) -> int:
        return self.send("POST /ctllm/session/token", {}, Cookie=cookie)

    def session_of(self, cookie: str) -> Any:
        return self.sessions.read(cookie.partition("=")[2])

    def test_asks_the_provider_shortly_before_its_word_expires(self) -> None:
        cookie = self.log_in_browser()
        self.clock.advance(LIFETIME - RENEW_PROOF_BEFORE - 1)
        self.assertEqual(self.renew_cookie(cookie), 200)
        self.assertEqual(self.provider_renewal.asked, [])
        self.clock.advance(1)
        for number in (1, 2):
            self.provider_renewal.answers = [self.consent(number, tier="gold")]
            self.assertEqual((self.renew_cookie(cookie), self.tier_of_token()), (200, "gold"))
            self.assertEqual(self.session_of(cookie).proof.sealed_refresh, f"sealed-{number}")
            self.clock.advance(LIFETIME - RENEW_PROOF_BEFORE)
        used = [
            session.proof and session.proof.sealed_refresh
            for session in self.provider_renewal.asked
        ]
        self.assertEqual(used, ["sealed-0", "sealed-1"])

    def test_concurrent_renewals_use_a_refresh_token_once(self) -> None:
        """Also if the client that asked first disconnects: the next refresh token is stored."""
        cookie = self.log_in_browser()
        self.clock.advance(LIFETIME)
        answer: Deferred[RenewedConsent] = Deferred()
        self.provider_renewal.answers = [answer]
        waiting = []
        for _ in range(3):
            self.assertEqual(self.renew_cookie(cookie), 0)
            waiting.append(self.transport)
        waiting[0].protocol.connectionLost()
        answer.callback(self.consent(1))
        for transport in waiting[1:]:
            self.assertIn(b"HTTP/1.1 200 ", transport.take_written())
        self.assertEqual(len(self.provider_renewal.asked), 1)
        self.assertEqual(self.session_of(cookie).proof.sealed_refresh, "sealed-1")

    def test_a_provider_that_is_down_costs_nothing_while_its_word_holds(self) -> None:
        cookie = self.log_in_browser()
        self.clock.advance(LIFETIME - 1)
        self.provider_renewal.answers = [BadGateway("It is down.") for _ in range(2)]
        self.assertEqual(self.renew_cookie(cookie), 200)
        self.clock.advance(1)
        self.assertEqual(self.renew_cookie(cookie), 502)
        self.provider_renewal.answers = [self.consent(1)]
        self.assertEqual(self.renew_cookie(cookie), 200)

    def test_a_provider_that_is_down_is_asked_once_a_minute(self) -> None:
        cookie = self.log_in_browser(ask_in=600)
        self.provider_renewal.answers = [BadGateway("It is down."), BadGateway("Still.")]
        asked = []
        for seconds in (599, 1, 59, 1):
            self.clock.advance(seconds)
            self.assertEqual(self.renew_cookie(cookie), 200)
            asked.append(len(self.provider_renewal.asked))
        self.assertEqual(asked, [0, 1, 1, 2])
        kept = self.session_of(cookie).proof
        self.assertEqual(kept.sealed_refresh, "sealed-0")

    def test_a_refresh_token_that_the_provider_refuses_ends_the_session(self) -> None:
        cookie = self.log_in_browser()
        self.clock.advance(LIFETIME)
        self.provider_renewal.answers = [Unauthorized("Sign in again at the provider.")]
        self.assertEqual(self.renew_cookie(cookie), 401)
        self.assertEqual(self.sessions_dir.list_files(), [])
        self.assertEqual(self.renew_cookie(cookie), 401)
        self.assertEqual(len(self.provider_renewal.asked), 1)

    def test_a_refused_group_ends_the_desktops_of_the_user_too(self) -> None:
        cookie = self.log_in_browser()
        self.log_in()
        self.clock.advance(LIFETIME)
        refused = GroupNotAllowed("None of your groups may sign in here.", user=EVE)
        self.provider_renewal.answers = [refused]
        self.assertEqual((self.renew_cookie(cookie), self.code), (403, "group_not_allowed"))
        self.assertEqual(self.send("GET /ctllm/session", **self.access), 401)
        self.assertEqual(len(self.proxies.revoked), 1)

    def test_another_users_consent_changes_nothing(self) -> None:
        cookie = self.log_in_browser()
        self.clock.advance(LIFETIME)
        kept = self.session_of(cookie)
        self.provider_renewal.answers = [self.consent(1, user=User(ISSUER, "mallory", "Eve"))]
        self.assertEqual(self.renew_cookie(cookie), 401)
        self.assertEqual(self.session_of(cookie), kept)

    def test_a_new_login_closes_the_browsers_earlier_session(self) -> None:
        cookie = self.log_in_browser()
        head = RequestHead(b"GET", b"/", (*HEAD.headers, (b"Cookie", cookie.encode())))
        grant = AccessGrant(EVE, frozenset({USE}), self.clock.seconds() + 1, self.clock.seconds())
        self.session_api.create_browser_session(head, grant, "")
        self.assertEqual(self.renew_cookie(cookie), 401)

    def test_signing_out_revokes_the_refresh_token_once(self) -> None:
        """The session ends all the same if the provider does not answer or refuses."""
        for error in (None, BadGateway("down"), Unauthorized("no")):
            self.provider_renewal.revoke_error = error
            self.provider_renewal.revoked.clear()
            cookie = self.log_in_browser()
            for _ in range(2):
                self.assertEqual(self.send("DELETE /ctllm/session", Cookie=cookie), 204)
            (revoked,) = self.provider_renewal.revoked
            self.assertEqual(revoked.user.id, EVE.id)
            self.assertEqual(self.renew_cookie(cookie), 401)

    def test_signing_out_without_a_provider_asks_none(self) -> None:
        body = {"invite": self.invites.create("ann"), "client": "browser"}
        self.send("POST /ctllm/session", body)
        cookie = (self.header("set-cookie") or "").partition(";")[0]
        self.assertEqual(self.send("DELETE /ctllm/session", Cookie=cookie), 204)
        self.assertEqual(self.provider_renewal.revoked, [])

    def test_neither_log_nor_repr_show_the_refresh_token(self) -> None:
        cookie = self.log_in_browser()
        session = self.session_of(cookie)
        self.assertNotIn("sealed-0", repr(session) + repr(self.consent(0)))
