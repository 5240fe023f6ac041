"""`ctllm.cloud.limits.guard`, at a gateway: failed attempts, and what is recorded of refusals."""

from __future__ import annotations

from typing import Any

import msgspec

from ctllm.cloud.audit import AUDIT_FILE
from ctllm.cloud.identity import USE
from ctllm.cloud.limits.attempts import AttemptLimiter
from ctllm.cloud.limits.users import Tiers
from tests.unit.cloud.gateway_case import ALL_SCOPES, ANN, GatewayCase

FORGED = "eyJhbGciOiJFZERTQSIsInR5cCI6ImN0bGxtLWFjY2Vzcytqd3QifQ.e30.c2ln"
UNKNOWN_KEY = f"ctllm-k-{'0' * 16}-{'x' * 43}"


class AttemptsAtTheGatewayTests(GatewayCase):
    """Three failed attempts a minute."""

    def setUp(self) -> None:
        super().setUp()
        self.attempts = AttemptLimiter(3, 3, self.clock.seconds)
        self.verified: list[str] = []
        verify = self.issuer.verify

        async def counting_verify(token: str) -> Any:
            self.verified.append(token)
            return await verify(token)

        self.patch(self.issuer, "verify", counting_verify)
        self.compose()

    def get(self, token: str, **headers: str) -> int:
        return self.send("GET /api/tags", Authorization=f"Bearer {token}", **headers)

    def audit_lines(self) -> list[Any]:
        data = (self.audit_dir / AUDIT_FILE).read_bytes()
        return [msgspec.json.decode(line) for line in data.splitlines()]

    def use_up_attempts(self) -> None:
        self.assertEqual([self.get(FORGED) for _ in range(3)], [401] * 3)

    def test_a_flood_of_forged_tokens_gets_429_and_no_cryptography(self) -> None:
        self.use_up_attempts()
        del self.verified[:]
        self.assertEqual([self.get(f"{FORGED}{each}") for each in range(50)], [429] * 50)
        self.assertEqual(self.verified, [])
        self.assertEqual(self.header("retry-after"), "20")
        self.clock.advance(20)
        self.assertEqual(self.get(FORGED), 401)

    def test_the_error_is_in_the_dialect_of_the_path(self) -> None:
        self.use_up_attempts()
        headers = {"Authorization": f"Bearer {FORGED}"}
        self.assertEqual(self.send("POST /v1/messages", **headers), 429)
        self.assertEqual(self.json["error"]["type"], "rate_limit_error")
        self.assertEqual(self.send("POST /v1/chat/completions", **headers), 429)
        self.assertEqual(self.json["error"]["code"], "rate_limit_exceeded")
        self.assertEqual(self.send("GET /ctllm/session", **headers), 429)
        self.assertEqual(self.code, "rate_limit_exceeded")

    def test_good_credentials_of_the_same_address_get_in(self) -> None:
        good = self.token()
        self.assertEqual(self.get(good), 0)
        self.use_up_attempts()
        self.assertEqual(self.get(FORGED), 429)
        self.assertEqual(self.get(good), 0)
        self.assertEqual(self.send("GET /api/tags", x_api_key=good, Authorization="Bearer x"), 0)

    def test_a_token_is_good_until_it_expires(self) -> None:
        good = self.token()
        self.assertEqual(self.get(good), 0)
        self.clock.advance(self.issuer.lifetime)  # it would be accepted for some seconds yet
        self.use_up_attempts()
        self.assertEqual(self.get(good), 429)

    def test_another_address_is_not_affected(self) -> None:
        self.use_up_attempts()
        self.client_address = "192.0.2.8"
        self.assertEqual(self.get(self.token()), 0)
        self.assertEqual(self.get(FORGED), 401)

    def test_placeholders_beside_a_good_key_are_no_failures(self) -> None:
        for _ in range(10):
            self.assertEqual(
                self.send("GET /api/tags", Authorization="Bearer ollama", x_api_key=self.token()), 0
            )
        self.assertEqual(self.get(FORGED), 401)
        self.assertIn(b"ctllm_authentication_failures_total 1.0", self.metrics.render_text()[1])

    def test_old_api_keys_get_429_in_the_end_and_do_not_keep_others_out(self) -> None:
        self.assertEqual([self.get(UNKNOWN_KEY) for _ in range(4)], [401, 401, 401, 429])
        self.assertEqual(self.get(FORGED), 401)

    def test_several_bad_tokens_of_one_request_are_one_failure(self) -> None:
        self.get(FORGED, x_api_key=UNKNOWN_KEY, api_key="third")
        self.assertEqual([self.get(FORGED) for _ in range(3)], [401, 401, 429])

    def test_requests_without_credentials_and_foreign_pages_are_no_failures(self) -> None:
        for _ in range(10):
            self.assertEqual(self.send("GET /api/tags"), 401)
            self.assertEqual(self.send("POST /ctllm/session/token", {}), 401)
            body = {"client": "browser", "invite": "x" * 43}
            self.assertEqual(self.send("POST /ctllm/session", body, Origin="https://evil.example"),
                             403)  # fmt: skip
        self.assertEqual(self.get(FORGED), 401)

    def test_wrong_invites_and_refresh_tokens_count_and_good_ones_still_work(self) -> None:
        good = {"client": "desktop", "invite": self.invites.create("ann")}
        bad = {"client": "desktop", "invite": "x" * 43}
        statuses = [self.send("POST /ctllm/session", bad) for _ in range(4)]
        self.assertEqual(statuses, [401, 401, 401, 429])
        self.assertEqual(self.send("POST /ctllm/session/introspect", {"invite": "x" * 43}), 429)
        unknown = {"refresh": f"ctllm-r-{'x' * 43}"}
        self.assertEqual(self.send("POST /ctllm/session/token", unknown), 429)
        self.assertEqual(self.send("POST /ctllm/session", good), 201)
        self.assertEqual(self.send("POST /ctllm/session/token", {"refresh": self.json["refresh"]}),
                         200)  # fmt: skip

    def test_websockets_and_the_management_api_are_covered(self) -> None:
        self.use_up_attempts()
        for line in ("GET /ctllm/desktops", "GET /ctllm/proxy", "GET /ws/tunnel"):
            self.assertEqual(self.send(line, Authorization=f"Bearer {FORGED}", Upgrade="websocket",
                             Connection="upgrade"), 429, line)  # fmt: skip

    def test_refusals_are_recorded_with_a_reason_and_without_what_was_sent(self) -> None:
        self.get(FORGED)
        self.get(UNKNOWN_KEY)
        self.send("DELETE /api/delete", **self.bearer(frozenset({USE})))
        self.send("POST /ctllm/session", {"client": "browser", "invite": "x" * 43})
        self.send("POST /ctllm/session/token", {"refresh": f"ctllm-r-{'x' * 43}"})
        lines = self.audit_lines()
        hashed = self.user_hash_of(ANN)
        self.assertEqual(
            [(line["event"], line["reason"], line.get("user")) for line in lines],
            [("request.refused", "unauthenticated", None), ("key.refused", "unauthenticated", None),
             ("request.refused", "forbidden", hashed), ("login.refused", "unauthenticated", None),
             ("session.renewal_refused", "unauthenticated", None)],
        )  # fmt: skip
        self.assertEqual({line["address"] for line in lines}, {"192.0.2.0/24"})
        text = (self.audit_dir / AUDIT_FILE).read_text()
        for secret in (FORGED, UNKNOWN_KEY, "x" * 43, "192.0.2.7", "ann"):
            self.assertNotIn(secret, text)

    def test_the_rate_of_a_user_is_limited_with_a_true_retry_after(self) -> None:
        self.tiers = Tiers({}, requests_per_minute=2)
        self.compose()
        statuses = [self.send("GET /api/tags", **self.bearer()) for _ in range(3)]
        self.assertEqual(statuses, [0, 0, 429])
        wait = self.header("retry-after") or ""
        self.clock.advance(int(wait))
        self.assertEqual(self.send("GET /api/tags", **self.bearer()), 0)
        self.assertIn(
            b'ctllm_request_refusals_total{code="rate_limit_exceeded"} 1.0',
            self.metrics.render_text()[1],
        )
        self.assertEqual(self.send("GET /ctllm/session", **self.bearer(ALL_SCOPES)), 200)


class SignInAuditTests(GatewayCase):
    """The audit log of sign-ins, renewals and sign-outs."""

    def setUp(self) -> None:
        super().setUp()
        self.attempts = AttemptLimiter(2, 2, self.clock.seconds)
        self.compose()

    def events(self) -> list[tuple[str, str, str]]:
        lines = (self.audit_dir / AUDIT_FILE).read_bytes().splitlines()
        entries = [msgspec.json.decode(line) for line in lines]
        return [(each["event"], each.get("method", ""), each.get("user", "")) for each in entries]

    def test_signing_in_and_out_is_recorded_with_how(self) -> None:
        body = {"client": "desktop", "invite": self.invites.create("ann")}
        self.assertEqual(self.send("POST /ctllm/session", body), 201)
        desktop = self.json
        token = {"Authorization": f"Bearer {desktop['token']}"}
        self.assertEqual(self.send("POST /ctllm/session/invite", **token), 201)
        body = {"client": "browser", "invite": self.json["invite"]}
        self.assertEqual(self.send("POST /ctllm/session", body), 201)
        refresh = {"Ctllm_Refresh": desktop["refresh"]}
        self.assertEqual(self.send("DELETE /ctllm/session", **refresh), 204)
        self.assertEqual(self.send("DELETE /ctllm/session", **refresh), 204)
        ann = self.user_hash_of(ANN)
        self.assertEqual(self.events(), [
            ("session.created", "invite", ann), ("session.created", "login_code", ann),
            ("session.closed", "", ann)])  # fmt: skip

    def test_a_provider_token_is_not_verified_after_too_many_failures(self) -> None:
        asked: list[str] = []
        verify = self.provider.verify

        async def counting_verify(token: str) -> Any:
            asked.append(token)
            return await verify(token)

        self.patch(self.provider, "verify", counting_verify)
        body = {"client": "desktop", "provider_token": "provider-forged"}
        statuses = [self.send("POST /ctllm/session", body) for _ in range(4)]
        self.assertEqual((statuses, len(asked)), ([401, 401, 429, 429], 2))
        self.assertEqual([event for event, *_ in self.events()], ["login.refused"] * 2)
