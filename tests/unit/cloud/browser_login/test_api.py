"""`ctllm.cloud.browser_login.api`: a browser's way to the provider and back."""

from __future__ import annotations

from dataclasses import replace

from twisted.internet.defer import Deferred

from ctllm.cloud.browser_login.outcomes import callback_error
from ctllm.cloud.browser_login.transactions import LIFETIME, new_browser_secret
from ctllm.errors import (
    BadGateway,
    GroupNotAllowed,
    ServiceUnavailable,
    Unauthorized,
    UserDisabled,
)
from tests.unit.cloud.browser_login.login_case import ADA, MAX_ATTEMPTS, LoginCase


class BeginTests(LoginCase):
    def test_leads_to_the_provider_and_binds_the_browser(self) -> None:
        location = self.get("/ctllm/login?provider=corp")
        self.assertTrue(location.startswith("https://idp.example/authorize?state="), location)
        self.assertTrue(self.head.startswith("HTTP/1.1 302 "))
        cookie = self.header("set-cookie") or ""
        self.assertRegex(
            cookie,
            "^__Host-ctllm-login=[A-Za-z0-9_-]{43}; Path=/; Secure; HttpOnly; SameSite=Lax; "
            "Max-Age=600$",
        )
        self.assertEqual(self.header("cache-control"), "no-store")
        self.assertEqual(self.header("referrer-policy"), "no-referrer")
        self.assertIn("fresh=True", self.get("/ctllm/login?provider=corp&fresh=1"))

    def test_a_second_tab_keeps_the_browsers_secret(self) -> None:
        """One that is not ours, or that occurs twice, is replaced."""
        _, cookie = self.begin()
        self.assertEqual(self.begin(Cookie=f"a=b; {cookie}")[1], cookie)
        for other in (f"{cookie}x", f"{cookie}; {cookie}", cookie.removeprefix("__Host-")):
            self.assertNotIn(self.begin(Cookie=other)[1], other)

    def test_over_http_the_cookie_has_its_plain_name(self) -> None:
        self.compose("http://127.0.0.1:8080")
        _, cookie = self.begin(Host="127.0.0.1:8080")
        self.assertTrue(cookie.startswith("ctllm-login="), cookie)
        self.assertIn("; Path=/ctllm/; HttpOnly; SameSite=Lax", self.head)

    def test_other_sites_and_resources_begin_nothing(self) -> None:
        for headers in (
            {"Sec_Fetch_Site": "cross-site"},
            {"Sec_Fetch_Site": "same-site"},
            {"Origin": "https://evil.example"},
            {"Sec_Fetch_Dest": "iframe"},
            {"Sec_Fetch_Dest": "image"},
        ):
            self.assertEqual(self.get("/ctllm/login?provider=corp", **headers), "/", headers)
            self.assertIsNone(self.header("set-cookie"))

    def test_no_parameter_leads_anywhere_else(self) -> None:
        for query in (
            "provider=https%3A%2F%2Fevil.example",
            "provider=//evil.example",
            "provider=evil.example",
            "provider=corp&provider=corp",
            "provider=corp%0d%0aLocation:%20x",
            "provider=" + "a" * 20_000,
            "",
        ):
            location = self.get(f"/ctllm/login?{query}")
            self.assertIn(location, ("/#login-error=unknown", "/#login-error=failed"), query)
        for name in ("redirect_uri", "return", "next", "state", "nonce", "code_challenge"):
            location = self.get(f"/ctllm/login?provider=corp&{name}=//evil.example")
            self.assertNotIn("evil", location)

    def test_at_another_host_it_leads_to_the_public_url(self) -> None:
        """The provider sends the browser there, where the cookie has to be."""
        location = self.get("/ctllm/login?provider=corp", Host="evil.example")
        self.assertEqual(location, "https://cloud.example/")
        self.assertIsNone(self.header("set-cookie"))

    def test_a_provider_that_is_down_is_an_error_on_the_page(self) -> None:
        self.provider.error = ServiceUnavailable("down")
        self.assertEqual(self.get("/ctllm/login?provider=corp"), "/#login-error=unavailable")


class FinishTests(LoginCase):
    def test_signs_in_with_a_sealed_refresh_token_and_leads_to_the_page(self) -> None:
        state, cookie = self.begin()
        self.assertEqual(self.finish(state, cookie), "/")
        self.assertTrue(self.head.startswith("HTTP/1.1 303 "))
        self.assertEqual(self.header("set-cookie"), "session=1")
        self.assertEqual(self.header("cache-control"), "no-store")
        self.assertEqual(self.header("referrer-policy"), "no-referrer")
        [(grant, sealed)] = self.sessions.created
        self.assertEqual(grant.user, ADA)
        self.assertNotIn("refresh-1", sealed)
        self.assertEqual(self.provider.redeemed[0].state, state)

    def assert_refused(self, outcome: str, location: str) -> None:
        self.assertEqual(location, f"/#login-error={outcome}")
        self.assertEqual(self.sessions.created, [])
        self.assertIsNone(self.header("set-cookie"))

    def test_a_callback_works_in_its_browser_only_and_once(self) -> None:
        state, cookie = self.begin()
        stranger = f"__Host-ctllm-login={new_browser_secret()}"
        for other in ("", stranger, f"{cookie}; {cookie}", cookie.removeprefix("__Host-")):
            self.assert_refused("expired", self.finish(state, other))
        self.assertEqual(self.provider.redeemed, [])
        self.finish(state, cookie)
        self.sessions.created.clear()
        self.assert_refused("expired", self.finish(state, cookie))
        self.assertEqual(len(self.provider.redeemed), 1)

    def test_a_state_of_another_login_is_refused(self) -> None:
        """Login CSRF: the attacker's code with the state of the victim's browser, or none."""
        state, _ = self.begin()
        _, cookie = self.begin()
        for wrong in (state, "", "x", state[:-1], "a" * 20_000):
            location = self.finish(wrong, cookie)
            self.assertIn(location, ("/#login-error=expired", "/#login-error=failed"))
        self.assertEqual((self.sessions.created, self.provider.redeemed), ([], []))

    def test_only_a_navigation_finishes_a_login(self) -> None:
        state, cookie = self.begin()
        for dest in ("iframe", "image", "script", "empty"):
            self.assert_refused("expired", self.finish(state, cookie, Sec_Fetch_Dest=dest))
        self.assertEqual(self.finish(state, cookie), "/")

    def test_ten_minutes_are_the_longest_way(self) -> None:
        state, cookie = self.begin()
        self.clock.advance(LIFETIME)
        self.assert_refused("expired", self.finish(state, cookie))

    def test_two_tabs_sign_in_at_once(self) -> None:
        first, cookie = self.begin()
        second, _ = self.begin(Cookie=cookie)
        self.assertEqual([self.finish(state, cookie) for state in (second, first)], ["/", "/"])

    def test_each_failure_is_a_word_for_the_page(self) -> None:
        for error, outcome in (
            (GroupNotAllowed("x", user=ADA), "not_allowed"),
            (Unauthorized("x"), "failed"),
            (BadGateway("x"), "unavailable"),
            (callback_error("access_denied"), "denied"),
            (callback_error("server_error"), "unavailable"),
            (callback_error("<script>alert(1)</script>"), "failed"),
        ):
            state, cookie = self.begin()
            self.provider.error = error
            self.assert_refused(outcome, self.finish(state, cookie))
            self.provider.error = None
        self.assertEqual(self.sessions.ended, [ADA])  # whom no group admits
        for refusal, outcome in ((UserDisabled("x"), "disabled"), (Unauthorized("x"), "revoked")):
            state, cookie = self.begin()
            self.sessions.error = refusal
            self.assert_refused(outcome, self.finish(state, cookie))

    def test_made_up_codes_cost_the_provider_few_requests(self) -> None:
        """Behind the same address, others can sign in a minute later."""
        self.provider.error = Unauthorized("invalid_grant")
        logins = []
        for _ in range(MAX_ATTEMPTS + 5):
            self.provider.error = None
            logins.append(self.begin())
            self.provider.error = Unauthorized("invalid_grant")
            last = self.finish(*logins[-1])
        self.assert_refused("limited", last)
        self.assertEqual(len(self.provider.redeemed), MAX_ATTEMPTS)
        self.provider.error = None
        self.clock.advance(60)
        self.assertEqual(self.finish(*self.begin()), "/")

    def test_the_audit_log_says_who_signed_in_and_why_not_and_has_no_secret(self) -> None:
        self.finish(*self.begin())
        self.finish("wrong", self.begin()[1])
        state, cookie = self.begin()
        self.provider.error = GroupNotAllowed("x", user=ADA)
        self.finish(state, cookie, "code=the-code")
        ada = {"user": f"hash-of-{ADA.id}", "method": "corp"}
        self.assertEqual(
            [{key: each[key] for key in each if key != "address"} for each in self.audit_lines()],
            [
                {"event": "session.created", **ada},
                {"event": "login.refused", "reason": "expired"},
                {"event": "login.refused", **ada, "reason": "not_allowed"},
            ],
        )
        text = str(self.audit_lines())
        for secret in ("the-code", state, cookie.partition("=")[2]):
            self.assertNotIn(secret, text)

    def test_a_provider_that_was_removed_meanwhile_signs_nobody_in(self) -> None:
        state, cookie = self.begin()
        self.providers.clear()
        self.assert_refused("expired", self.finish(state, cookie))

    def test_a_few_ask_the_provider_at_once(self) -> None:
        logins = [self.begin() for _ in range(4)]
        self.provider.delay = Deferred()
        self.assertEqual([self.finish(*each) for each in logins[:3]], ["", "", ""])
        self.assert_refused("unavailable", self.finish(*logins[3]))
        self.assert_refused("unavailable", self.get("/ctllm/login?provider=corp"))
        self.provider.delay.callback(None)
        self.provider.delay = None
        self.assertEqual(len(self.sessions.created), 3)
        self.assertEqual(self.finish(*self.begin()), "/")


class ConsentTests(LoginCase):
    """How long a provider's consent counts."""

    def test_a_consent_that_can_be_renewed_outlives_an_outage_of_an_hour(self) -> None:
        """The provider is asked after ten minutes, or a minute before its token expires."""
        now = self.clock.seconds()
        for lifetime, asked in ((86400, 600), (300, 240), (30, -30)):
            grant = replace(self.provider.login.grant, expires_at=now + lifetime)
            consent = self.renewals.consent("corp", replace(self.provider.login, grant=grant))
            self.assertEqual(consent.grant.expires_at, now + 3600)
            self.assertEqual(consent.ask_at, now + asked)

    def test_without_a_refresh_token_it_counts_as_long_as_the_token(self) -> None:
        login = replace(self.provider.login, refresh_token="")
        consent = self.renewals.consent("corp", login)
        self.assertEqual((consent.grant, consent.sealed_refresh), (login.grant, ""))
