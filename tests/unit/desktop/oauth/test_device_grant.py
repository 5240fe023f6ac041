"""The device grant: intervals, and how it ends."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.oauth.device_grant import (
    MAX_INTERVAL,
    MAX_LIFETIME,
    SLOW_DOWN_STEP,
    DeviceGrant,
    device_code_request,
    parse_device_code,
)
from ctllm.desktop.oauth.tokens import GrantRefused
from ctllm.errors import BadGateway
from tests.unit.desktop.oauth.provider_values import (
    CLIENT,
    ISSUER,
    METADATA,
    PROVIDER,
    encoded,
    jwt,
)

LINK = "https://login.example/activate"
RESPONSE = {
    "device_code": "device-code",
    "user_code": "ABCD-EFGH",
    "verification_uri": LINK,
    "expires_in": 600,
    "interval": 7,
}


class CodeTests(SynchronousTestCase):
    def test_the_request_has_scope_and_audience(self) -> None:
        request = device_code_request(CLIENT, PROVIDER, METADATA)
        self.assertEqual(request.url, METADATA.device_authorization_endpoint)
        form = parse_qs(request.body.decode())
        self.assertEqual(form["scope"], [PROVIDER.scope])
        self.assertEqual(form["audience"], [PROVIDER.audience])

    def test_the_link_has_the_code_where_the_provider_gives_such_a_link(self) -> None:
        code = parse_device_code(200, encoded(**RESPONSE), ISSUER)
        self.assertEqual((code.user_code, code.url, code.link), ("ABCD-EFGH", LINK, LINK))
        complete = encoded(**RESPONSE, verification_uri_complete=f"{LINK}?user_code=A")
        self.assertEqual(parse_device_code(200, complete, ISSUER).link, f"{LINK}?user_code=A")
        google = {**RESPONSE, "verification_url": RESPONSE["verification_uri"]}
        del google["verification_uri"]
        self.assertEqual(parse_device_code(200, encoded(**google), ISSUER).url, LINK)

    def test_the_device_code_is_not_shown(self) -> None:
        self.assertNotIn("device-code", repr(parse_device_code(200, encoded(**RESPONSE), ISSUER)))

    def test_refuses_hostile_codes(self) -> None:
        for change in (
            {"user_code": "\x1b[2J"},
            {"user_code": "x" * 65},
            {"user_code": ""},
            {"verification_uri": "http://login.example/activate"},
            {"verification_uri": "javascript:alert(1)"},
            {"verification_uri": "file:///etc/passwd"},
            {"verification_uri": ""},
            {"verification_uri_complete": "https://a.example/\x07"},
            {"verification_uri_complete": "http://127.0.0.1:1/"},
            {"device_code": "a\nb"},
            {"expires_in": 0},
            {"interval": -1},
        ):
            body = encoded(**{**RESPONSE, **change})
            self.assertRaises(BadGateway, parse_device_code, 200, body, ISSUER)

    def test_times_have_limits(self) -> None:
        body = encoded(**{**RESPONSE, "expires_in": 1e12, "interval": 1e12})
        code = parse_device_code(200, body, ISSUER)
        self.assertEqual((code.expires_in, code.interval), (MAX_LIFETIME, MAX_INTERVAL))

    def test_a_provider_that_refuses_the_client_says_so(self) -> None:
        body = encoded(error="unauthorized_client", error_description="no device grant")
        error = self.assertRaises(GrantRefused, parse_device_code, 400, body, ISSUER)
        self.assertIn("no device grant", error.message)


class PollTests(SynchronousTestCase):
    def setUp(self) -> None:
        code = parse_device_code(200, encoded(**RESPONSE), ISSUER)
        self.grant = DeviceGrant(CLIENT, PROVIDER, METADATA, code, now=0.0)

    def receive(self, status: int = 400, now: float = 10.0, **members: Any) -> Any:
        return self.grant.receive(status, encoded(**members), now, 1000.0)

    def test_polls_at_the_interval_with_the_device_code(self) -> None:
        self.assertEqual(self.grant.delay, 7)
        form = parse_qs(self.grant.request.body.decode())
        self.assertEqual(form["device_code"], ["device-code"])
        self.assertEqual(form["grant_type"], ["urn:ietf:params:oauth:grant-type:device_code"])

    def test_waits_while_the_user_has_not_decided(self) -> None:
        self.assertIsNone(self.receive(error="authorization_pending"))
        self.assertEqual(self.grant.delay, 7)

    def test_slow_down_increases_the_interval_for_good(self) -> None:
        self.assertIsNone(self.receive(error="slow_down"))
        self.assertEqual(self.grant.delay, 7 + SLOW_DOWN_STEP)
        self.assertIsNone(self.receive(error="authorization_pending"))
        self.assertIsNone(self.receive(error="slow_down"))
        self.assertEqual(self.grant.delay, 7 + 2 * SLOW_DOWN_STEP)
        for _ in range(50):
            self.receive(error="slow_down")
        self.assertEqual(self.grant.delay, MAX_INTERVAL)

    def test_returns_the_tokens_of_an_approved_code(self) -> None:
        found = self.receive(200, access_token=jwt(sub="ann"), expires_in=60)
        self.assertEqual(found.expires_at, 1060)

    def test_a_denied_and_an_expired_code_end_it_with_a_sentence(self) -> None:
        denied = self.assertRaises(GrantRefused, self.receive, error="access_denied")
        self.assertIn("denied", denied.message)
        expired = self.assertRaises(GrantRefused, self.receive, error="expired_token")
        self.assertIn("expired", expired.message)

    def test_a_provider_that_is_always_pending_ends_with_the_code(self) -> None:
        self.assertIsNone(self.receive(now=599, error="authorization_pending"))
        for error in ("authorization_pending", "slow_down"):
            self.assertRaises(GrantRefused, self.receive, now=600, error=error)

    def test_failures_that_pass_double_the_delay_until_the_code_expires(self) -> None:
        self.assertIsNone(self.receive(502, error="server_error"))
        self.assertEqual(self.grant.delay, 14)
        self.grant.connection_failed(BadGateway("no route"), 20)
        self.assertEqual(self.grant.delay, 28)
        error = BadGateway("no route")
        self.assertIs(
            self.assertRaises(BadGateway, self.grant.connection_failed, error, 600), error
        )

    def test_any_other_error_ends_it(self) -> None:
        self.assertRaises(GrantRefused, self.receive, error="invalid_grant")
        self.assertRaises(BadGateway, self.receive, error="unsupported_grant_type")
        self.assertRaises(BadGateway, self.receive, 200, access_token="opaque")
