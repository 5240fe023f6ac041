"""`ctllm.cloud.session_api`: logging in, renewing a session, and logging out."""

from __future__ import annotations

from ctllm.cloud.audit import AUDIT_FILE
from ctllm.cloud.identity import (
    MANAGE,
    SERVE,
    USE,
    Authentication,
    User,
)
from ctllm.cloud.limits.users import CREDENTIALS_PER_MINUTE
from tests.unit.cloud.gateway_case import (
    BOB,
    FRIEND_ORIGIN,
    GatewayCase,
)


class SessionTests(GatewayCase):
    """Sessions of browsers and desktops."""

    def redeem(self, client: str = "browser", **headers: str) -> int:
        body = {"invite": self.invites.create("ann"), "client": client}
        return self.send("POST /ctllm/session", body, **headers)

    def cookie(self) -> str:
        return (self.header("set-cookie") or "").partition(";")[0]

    def test_a_browser_gets_a_cookie_that_scripts_and_other_sites_cannot_use(self) -> None:
        self.compose(is_https=True)
        self.assertEqual(self.redeem(Origin="https://cloud.example"), 201)
        self.assertEqual(sorted(self.json), ["expires_in", "token", "user"])
        self.assertEqual(self.json["user"], {"name": "ann", "id": "ctllm|ann"})
        attributes = (self.header("set-cookie") or "").split("; ")[1:]
        wanted = ["Path=/", "Secure", "HttpOnly", "SameSite=Strict", "Max-Age=2592000"]
        self.assertEqual(attributes, wanted)
        self.assertEqual(self.header("cache-control"), "no-store")

    def test_a_desktop_gets_a_refresh_token_and_the_scope_serve(self) -> None:
        self.assertEqual(self.redeem("desktop"), 201)
        self.assertIsNone(self.header("set-cookie"))
        refresh, token = self.json["refresh"], self.json["token"]
        self.send("GET /ctllm/session", Authorization=f"Bearer {token}")
        self.assertEqual(self.json["scopes"], ["manage", "serve", "use"])
        self.assertEqual(self.json["expires_in"], 600)
        self.assertEqual(self.send("POST /ctllm/session/token", {"refresh": refresh}), 200)
        self.assertEqual(self.send("DELETE /ctllm/session", Ctllm_Refresh=refresh), 204)
        self.assertEqual(self.send("POST /ctllm/session/token", {"refresh": refresh}), 401)

    def test_renews_a_token_restricted_to_one_scope(self) -> None:
        self.redeem("desktop")
        renewal = {"refresh": self.json["refresh"], "scope": "use"}
        self.assertEqual(self.send("POST /ctllm/session/token", renewal), 200)
        narrow = {"Authorization": f"Bearer {self.json['token']}"}
        self.assertEqual(self.send("GET /api/tags", **narrow), 0)
        for line in ("GET /ctllm/session", "GET /ctllm/desktops", "DELETE /api/delete"):
            self.assertEqual(self.send(line, **narrow), 403, line)
        self.assertEqual(self.send("POST /ctllm/session/invite", **narrow), 403)
        wrong = {**renewal, "scope": "serve"}
        self.assertEqual(self.send("POST /ctllm/session/token", wrong), 400)

    def test_a_desktop_creates_a_login_code_that_works_once(self) -> None:
        """Other sessions and API keys cannot create one."""
        self.assertEqual(self.send("POST /ctllm/session/invite", **self.bearer()), 201)
        self.assertEqual(self.json["expires_in"], 120)
        body = {"invite": self.json["invite"], "client": "browser"}
        self.assertEqual(self.send("POST /ctllm/session", body), 201)
        self.assertEqual(self.json["user"]["name"], "ann")
        self.assertEqual(self.send("POST /ctllm/session", body), 401)
        for scopes in ({MANAGE, USE}, {SERVE, USE}, {USE}):
            told = self.bearer(frozenset(scopes))
            self.assertEqual(self.send("POST /ctllm/session/invite", **told), 403)
        self.assertEqual(self.send("POST /ctllm/session/invite"), 401)

    def test_a_login_over_the_limit_leaves_its_secret_valid(self) -> None:
        for _ in range(CREDENTIALS_PER_MINUTE):
            self.assertEqual(self.redeem(), 201)
        body = {"invite": self.invites.create("ann"), "client": "browser"}
        self.assertEqual(self.send("POST /ctllm/session", body), 429)
        self.clock.advance(1)
        self.assertEqual(self.send("POST /ctllm/session", body), 201)

    def pair(self, authorization: dict[str, str]) -> str:
        """Return the secret of the link in the command that a browser gets."""
        self.assertEqual(self.send("POST /ctllm/session/pairing", **authorization), 201)
        self.assertEqual(self.json["expires_in"], 900)
        command, _, secret = self.json["command"].partition("#invite=")
        self.assertEqual(command, "ctllm login http://cloud.example/")
        return str(secret)

    def browser(self) -> dict[str, str]:
        self.assertEqual(self.redeem(), 201)
        return {"Authorization": f"Bearer {self.json['token']}"}

    def test_pairing_codes_and_api_keys_count_as_logins(self) -> None:
        """Each has a line in the audit log, which a user must not fill."""
        browser = self.browser()
        for _ in range(CREDENTIALS_PER_MINUTE - 1):
            self.pair(browser)
        self.assertEqual(self.send("POST /ctllm/session/pairing", **browser), 429)
        key = {"name": "app", "scopes": ["use"], "desktop": "d" * 32}
        self.assertEqual(self.send("POST /ctllm/keys", key, **browser), 429)
        self.assertEqual(self.send("GET /ctllm/keys", **browser), 200)

    def test_a_browser_pairs_a_desktop_of_its_user_once(self) -> None:
        browser = self.browser()
        cookie = self.cookie()
        body = {"invite": self.pair(browser), "client": "desktop"}
        self.assertEqual(self.send("POST /ctllm/session", {**body, "client": "browser"}), 403)
        self.assertEqual(self.send("POST /ctllm/session", body), 201)
        self.assertEqual(self.json["user"]["name"], "ann")
        refresh = self.json["refresh"]
        self.assertEqual(self.send("POST /ctllm/session", body), 401)
        self.assertEqual(self.send("DELETE /ctllm/session", Cookie=cookie), 204)
        renewal = {"refresh": refresh}
        self.assertEqual(self.send("POST /ctllm/session/token", renewal), 200)
        lines = (self.audit_dir / AUDIT_FILE).read_text()
        self.assertIn('"event":"pairing.created"', lines)
        self.assertIn('"method":"pairing"', lines)
        self.assertNotIn(body["invite"], lines)

    def test_a_desktop_logs_in_with_the_sign_in_time_of_the_browser_that_paired_it(self) -> None:
        """So a revocation ends both."""
        browser = self.browser()
        self.clock.advance(60)
        secret = self.pair(browser)
        self.send("POST /ctllm/session", {"invite": secret, "client": "desktop"})
        renewal = {"refresh": self.json["refresh"]}
        (first, second) = self.sessions.list_all()
        self.assertEqual((first.auth_time, second.parent), (second.auth_time, ""))
        self.revocations.revoke(User("ctllm", "ann", "ann"))
        self.enforcer.poll()
        self.assertEqual(self.send("POST /ctllm/session/token", renewal), 401)

    def test_a_pairing_ends_with_its_time_and_with_the_browsers_session(self) -> None:
        browser = self.browser()
        cookie = self.cookie()
        expired, late = self.pair(browser), self.pair(browser)
        self.clock.advance(14 * 60)
        body = {"invite": late, "client": "desktop"}
        self.assertEqual(self.send("POST /ctllm/session", body), 201)
        self.redeem()  # its access token has expired, so another browser asks
        browser, cookie = {"Authorization": f"Bearer {self.json['token']}"}, self.cookie()
        void = self.pair(browser)
        self.clock.advance(60)
        self.assertEqual(self.send("DELETE /ctllm/session", Cookie=cookie), 204)
        for secret in (expired, void):
            body = {"invite": secret, "client": "desktop"}
            self.assertEqual(self.send("POST /ctllm/session", body), 401)

    def test_a_browser_that_a_desktop_logged_in_pairs_nothing_after_its_logout(self) -> None:
        self.redeem("desktop")
        refresh, token = self.json["refresh"], self.json["token"]
        self.send("POST /ctllm/session/invite", Authorization=f"Bearer {token}")
        body = {"invite": self.json["invite"], "client": "browser"}
        self.assertEqual(self.send("POST /ctllm/session", body), 201)
        secret = self.pair({"Authorization": f"Bearer {self.json['token']}"})
        self.assertEqual(self.send("DELETE /ctllm/session", Ctllm_Refresh=refresh), 204)
        body = {"invite": secret, "client": "desktop"}
        self.assertEqual(self.send("POST /ctllm/session", body), 401)

    def test_only_a_browser_pairs_desktops(self) -> None:
        self.redeem("desktop")
        desktop = {"Authorization": f"Bearer {self.json['token']}"}
        for authorization in (desktop, self.bearer(), self.bearer(frozenset({MANAGE, USE}))):
            self.assertEqual(self.send("POST /ctllm/session/pairing", **authorization), 403)
        self.assertEqual(self.send("POST /ctllm/session/pairing"), 401)

    def test_an_invite_works_once_and_expires(self) -> None:
        body = {"invite": self.invites.create("ann"), "client": "desktop"}
        self.assertEqual(self.send("POST /ctllm/session", body), 201)
        self.assertEqual(self.send("POST /ctllm/session", body), 401)
        self.assertEqual(self.send("POST /ctllm/session", {**body, "invite": "x" * 43}), 401)
        body["invite"] = self.invites.create("ann")
        self.clock.advance(15 * 60)
        self.assertEqual(self.send("POST /ctllm/session", body), 401)

    def test_a_cookie_renews_tokens_until_logout_clears_it(self) -> None:
        self.redeem()
        cookie = self.cookie()
        for _ in range(2):
            self.assertEqual(
                self.send("POST /ctllm/session/token", {}, Cookie=f"a=b; {cookie}"), 200
            )
            self.assertEqual(self.cookie(), cookie)
            self.assertEqual(sorted(self.json), ["expires_in", "token", "user"])
        self.assertEqual(self.send("DELETE /ctllm/session", Cookie=cookie), 204)
        self.assertIn("ctllm-session=; ", self.header("set-cookie") or "")
        self.assertIn("Max-Age=0", self.header("set-cookie") or "")
        self.assertEqual(self.send("POST /ctllm/session/token", {}, Cookie=cookie), 401)
        self.assertEqual(self.send("POST /ctllm/session/token", {}), 401)
        self.assertEqual(self.send("DELETE /ctllm/session"), 204)

    def test_a_refresh_token_works_only_for_its_kind_of_client(self) -> None:
        """A browser's in a cookie, a desktop's in a body."""
        self.redeem("desktop")
        refresh = self.json["refresh"]
        self.assertEqual(
            self.send("POST /ctllm/session/token", {}, Cookie=f"ctllm-session={refresh}"), 401
        )
        self.assertIsNone(self.header("set-cookie"))
        self.redeem()
        kept = self.cookie().partition("=")[2]
        self.assertEqual(self.send("POST /ctllm/session/token", {"refresh": kept}), 401)

    def test_refuses_a_login_that_sec_fetch_site_marks_as_foreign(self) -> None:
        for site in ("cross-site", "same-site"):
            self.assertEqual(self.redeem(Sec_Fetch_Site=site), 403)
        self.assertEqual(self.redeem(Sec_Fetch_Site="same-origin"), 201)

    def test_refuses_two_session_cookies(self) -> None:
        """Another host of the domain may have set one of them."""
        self.redeem()
        cookie = self.cookie()
        for both in (f"{cookie}; {cookie}x", f"{cookie}x; {cookie}"):
            self.assertEqual(self.send("POST /ctllm/session/token", {}, Cookie=both), 401)
        self.assertEqual(self.send("POST /ctllm/session/token", {}, Cookie=cookie), 200)

    def test_a_cookie_is_not_accepted_as_a_token(self) -> None:
        self.redeem()
        for line in ("GET /ctllm/session", "GET /ctllm/proxy", "GET /api/tags"):
            self.assertEqual(self.send(line, Cookie=self.cookie() or "x"), 401)
            self.redeem()

    def test_pages_of_other_origins_cannot_log_in_renew_or_log_out(self) -> None:
        self.redeem()
        cookie = self.cookie()
        for origin in (
            FRIEND_ORIGIN,
            "null",
            "https://cloud.example.evil",
            "http://cloud.example:81",
        ):
            self.assertEqual(self.redeem(Origin=origin), 403, origin)
            headers = {"Cookie": cookie, "Origin": origin}
            self.assertEqual(self.send("POST /ctllm/session/token", {}, **headers), 403)
            self.assertEqual(self.send("DELETE /ctllm/session", **headers), 403)
        headers["Origin"] = "http://cloud.example"
        self.assertEqual(self.send("POST /ctllm/session/token", {}, **headers), 200)

    def test_a_refused_login_does_not_redeem_the_invite(self) -> None:
        body = {"invite": self.invites.create("ann"), "client": "browser"}
        self.assertEqual(self.send("POST /ctllm/session", body, Origin=FRIEND_ORIGIN), 403)
        self.assertEqual(self.send("POST /ctllm/session", body), 201)

    def test_refuses_malformed_and_large_bodies_without_repeating_them(self) -> None:
        path = "POST /ctllm/session"
        good = {"invite": "x" * 43, "client": "browser"}
        self.assertEqual(self.send(path, good, Content_Type="text/plain"), 415)
        self.assertEqual(self.send(path, b"x" * 20_000), 413)
        for bad in (
            b"", b"{", b"[]", b"\xff", b'{"invite": "\xff"}',
            {**good, "client": "toaster"}, {**good, "more": 1}, {**good, "invite": "hunter2"},
            {"client": "browser"},
        ):  # fmt: skip
            self.assertEqual(self.send(path, bad), 400, bad)
            self.assertNotIn(b"hunter2", self.body)
        self.assertEqual(self.send("POST /ctllm/session/token", {"refresh": "hunter2"}), 400)
        self.assertEqual(self.send("POST /ctllm/session/token", {"refresh": None}), 400)


class LogoutTests(GatewayCase):
    """What ends with a session."""

    def log_in_desktop(self) -> tuple[str, str]:
        body = {"invite": self.invites.create("ann"), "client": "desktop"}
        self.assertEqual(self.send("POST /ctllm/session", body), 201)
        return self.json["token"], self.json["refresh"]

    def create_login_code(self, token: str) -> str:
        headers = {"Authorization": f"Bearer {token}"}
        self.assertEqual(self.send("POST /ctllm/session/invite", **headers), 201)
        return str(self.json["invite"])

    def test_a_login_code_logs_in_browsers_only(self) -> None:
        token, _ = self.log_in_desktop()
        made = self.create_login_code(token)
        asked = {"invite": made, "client": "desktop"}
        self.assertEqual(self.send("POST /ctllm/session", asked), 403)
        self.assertIn("ctllm invite", self.json["error"]["message"])
        self.assertEqual(self.send("POST /ctllm/session", {**asked, "client": "browser"}), 201)

    def test_sessions_and_codes_end_with_the_desktops_session(self) -> None:
        token, refresh = self.log_in_desktop()
        asked = {"invite": self.create_login_code(token), "client": "browser"}
        self.assertEqual(self.send("POST /ctllm/session", asked), 201)
        child = {"Authorization": f"Bearer {self.json['token']}"}
        cookie = (self.header("set-cookie") or "").partition(";")[0]
        open_ = self.create_login_code(token)
        self.assertEqual(self.send("GET /ctllm/session", **child), 200)
        self.assertEqual(self.send("DELETE /ctllm/session", Ctllm_Refresh=refresh), 204)
        self.assertEqual(self.send("GET /ctllm/session", **child), 401)
        self.assertEqual(self.send("POST /ctllm/session/token", {}, Cookie=cookie), 401)
        asked["invite"] = open_
        self.assertEqual(self.send("POST /ctllm/session", asked), 401)

    def test_a_logged_out_desktop_creates_no_codes_and_leases(self) -> None:
        token, refresh = self.log_in_desktop()
        self.assertEqual(self.send("DELETE /ctllm/session", Ctllm_Refresh=refresh), 204)
        headers = {"Authorization": f"Bearer {token}"}
        self.assertEqual(self.send("POST /ctllm/session/invite", **headers), 401)
        lease = {"keys": [], "seconds": 60}
        path = f"PUT /ctllm/desktops/{'a' * 32}/keys"
        self.assertEqual(self.send(path, lease, **headers), 401)

    def test_a_new_login_closes_the_browsers_earlier_session(self) -> None:
        asked = {"invite": self.invites.create("ann"), "client": "browser"}
        self.send("POST /ctllm/session", asked)
        before = (self.header("set-cookie") or "").partition(";")[0]
        asked = {"invite": self.invites.create("bob"), "client": "browser"}
        self.assertEqual(self.send("POST /ctllm/session", asked, Cookie=before), 201)
        self.assertEqual(self.send("POST /ctllm/session/token", {}, Cookie=before), 401)


class IntrospectionTests(GatewayCase):
    """Describing an invite without redeeming it."""

    def test_describes_invites_and_login_codes_without_redeeming_them(self) -> None:
        invite = self.invites.create("ann")
        passed = self.login_codes.create(Authentication(BOB, self.clock.seconds()))
        for secret, name in ((invite, "ann"), (passed, "bob")):
            for _ in range(2):
                asked = {"invite": secret}
                self.assertEqual(self.send("POST /ctllm/session/introspect", asked), 200)
                self.assertEqual(self.json["user"], {"name": name, "id": f"ctllm|{name}"})
            body = {"invite": secret, "client": "browser"}
            self.assertEqual(self.send("POST /ctllm/session", body), 201)
            self.assertEqual(self.send("POST /ctllm/session/introspect", asked), 401)

    def test_refuses_other_sites_and_invalid_secrets(self) -> None:
        asked = {"invite": self.invites.create("ann")}
        headers = {"Origin": "https://evil.example"}
        self.assertEqual(self.send("POST /ctllm/session/introspect", asked, **headers), 403)
        self.assertEqual(self.send("POST /ctllm/session/introspect", {"invite": "x"}), 400)
        self.assertEqual(self.send("POST /ctllm/session/introspect", {"invite": "x" * 43}), 401)


class CookieTests(GatewayCase):
    """The session cookie."""

    def test_over_https_only_the_host_prefixed_cookie_counts(self) -> None:
        self.compose(is_https=True)
        asked = {"invite": self.invites.create("ann"), "client": "browser"}
        self.send("POST /ctllm/session", asked)
        cookie = (self.header("set-cookie") or "").partition(";")[0]
        self.assertTrue(cookie.startswith("__Host-ctllm-session=ctllm-r-"))
        self.assertEqual(self.send("POST /ctllm/session/token", {}, Cookie=cookie), 200)
        plain = cookie.removeprefix("__Host-")
        self.assertEqual(self.send("POST /ctllm/session/token", {}, Cookie=plain), 401)
        both = f"{plain}; {cookie}"
        self.assertEqual(self.send("POST /ctllm/session/token", {}, Cookie=both), 200)

    def test_over_http_the_cookie_has_no_prefix_and_a_narrow_path(self) -> None:
        asked = {"invite": self.invites.create("ann"), "client": "browser"}
        self.send("POST /ctllm/session", asked)
        told = self.header("set-cookie") or ""
        self.assertTrue(told.startswith("ctllm-session=ctllm-r-"))
        self.assertIn("; Path=/ctllm/session; ", told)
