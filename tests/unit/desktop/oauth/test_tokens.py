"""Requests to the token endpoint, and what its responses may contain."""

from __future__ import annotations

from urllib.parse import parse_qs

from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.oauth.tokens import (
    DEFAULT_LIFETIME,
    MAX_RESPONSE,
    GrantRefused,
    OAuthClientId,
    parse_tokens,
    refresh_request,
    revocation_request,
)
from ctllm.errors import BadGateway
from tests.unit.desktop.oauth.provider_values import CLIENT, encoded, jwt

URL = "https://login.example/token"
ACCESS = jwt(sub="ann")


class RequestTests(SynchronousTestCase):
    def test_a_refresh_has_the_token_in_the_form_alone(self) -> None:
        request = refresh_request(CLIENT, URL, "a secret&+")
        self.assertEqual(request.url, URL)
        self.assertEqual(
            parse_qs(request.body.decode()),
            {
                "grant_type": ["refresh_token"],
                "refresh_token": ["a secret&+"],
                "client_id": ["desktop"],
            },
        )

    def test_no_representation_shows_a_secret(self) -> None:
        client = OAuthClientId("desktop", "confidential")
        request = refresh_request(client, URL, "confidential")
        tokens = parse_tokens(
            200, encoded(access_token=ACCESS, refresh_token="confidential"), "access_token", 0
        )
        shown = f"{client!r} {request!r} {tokens!r}"
        self.assertNotIn("confidential", shown)
        self.assertNotIn(ACCESS, shown)

    def test_a_client_secret_is_sent_as_the_provider_takes_it(self) -> None:
        basic = refresh_request(OAuthClientId("a:b", "s s"), URL, "r")
        self.assertEqual(basic.authorization, "Basic YSUzQWI6cytz")
        self.assertNotIn(b"client_secret", basic.body)
        post = refresh_request(OAuthClientId("a:b", "s s", uses_post=True), URL, "r")
        self.assertEqual(post.authorization, "")
        self.assertIn(b"client_secret=s+s", post.body)

    def test_a_revocation_names_the_kind_of_token(self) -> None:
        form = parse_qs(revocation_request(CLIENT, URL, "r").body.decode())
        self.assertEqual((form["token"], form["token_type_hint"]), (["r"], ["refresh_token"]))


class ResponseTests(SynchronousTestCase):
    def test_the_access_token_lasts_as_the_response_says(self) -> None:
        body = encoded(access_token=ACCESS, expires_in=60, refresh_token="r", token_type="Bearer")
        found = parse_tokens(200, body, "access_token", 1000)
        self.assertEqual((found.token, found.expires_at, found.refresh_token), (ACCESS, 1060, "r"))

    def test_without_expires_in_the_token_itself_says(self) -> None:
        for claims, expected in (({"exp": 1100}, 1100), ({}, 1000 + DEFAULT_LIFETIME)):
            body = encoded(access_token=jwt(**claims))
            self.assertEqual(parse_tokens(200, body, "access_token", 1000).expires_at, expected)

    def test_an_id_token_lasts_until_its_exp(self) -> None:
        token = jwt(exp=1200)
        body = encoded(access_token="opaque", id_token=token, expires_in=5)
        found = parse_tokens(200, body, "id_token", 1000)
        self.assertEqual((found.token, found.expires_at), (token, 1200))

    def test_a_token_that_the_cloud_cannot_verify_says_what_to_do(self) -> None:
        for kind, member, hint in (
            ("access_token", {"access_token": "opaque"}, "audience"),
            ("id_token", {"access_token": ACCESS}, "openid"),
        ):
            error = self.assertRaises(BadGateway, parse_tokens, 200, encoded(**member), kind, 0)
            self.assertIn(hint, error.message)

    def test_refuses_hostile_responses(self) -> None:
        for body in (
            b"",
            b"null",
            encoded(access_token=5),
            encoded(access_token="a.b.c\r\nX: y"),
            encoded(access_token=ACCESS, refresh_token="with space"),
            encoded(access_token=ACCESS, refresh_token="x" * 9000),
            encoded(access_token=ACCESS, expires_in=-1),
            encoded(access_token=ACCESS, expires_in="soon"),
            encoded(access_token=ACCESS, id_token="no jwt"),
            encoded(access_token=ACCESS, token_type="mac"),
            encoded(access_token=ACCESS, filling="x" * MAX_RESPONSE),
            encoded(access_token=f"{ACCESS}.{ACCESS}.AA"),
        ):
            self.assertRaises(BadGateway, parse_tokens, 200, body, "access_token", 0)

    def test_a_lifetime_has_a_limit(self) -> None:
        body = encoded(access_token=ACCESS, expires_in=1e300)
        self.assertLess(parse_tokens(200, body, "access_token", 0).expires_at, 4e7)

    def test_an_id_token_has_the_nonce_and_the_issuer(self) -> None:
        def parse(**claims: object) -> None:
            body = encoded(access_token=ACCESS, id_token=jwt(**claims))
            parse_tokens(200, body, "access_token", 0, nonce="n", issuer="https://a.example/")

        parse(nonce="n", iss="https://a.example")
        for claims in (
            {},
            {"iss": "https://a.example"},
            {"iss": "https://a.example", "nonce": "m"},
            {"iss": "https://a.example", "nonce": 5},
            {"iss": "https://b.example", "nonce": "n"},
        ):
            self.assertRaises(BadGateway, parse, **claims)


class ErrorTests(SynchronousTestCase):
    def test_a_refused_grant_is_permanent_and_other_errors_are_not(self) -> None:
        for status, code, kind in (
            (400, "invalid_grant", GrantRefused),
            (401, "invalid_client", GrantRefused),
            (400, "temporarily_unavailable", BadGateway),
            (503, "invalid_grant", BadGateway),
            (429, "slow_down", BadGateway),
        ):
            error = self.assertRaises(
                kind, parse_tokens, status, encoded(error=code), "access_token", 0
            )
            self.assertIn(code, str(error))

    def test_a_description_is_bounded_and_printable(self) -> None:
        body = encoded(error="invalid_grant", error_description="\x1b[2J" + "x" * 9999)
        error = self.assertRaises(GrantRefused, parse_tokens, 400, body, "access_token", 0)
        self.assertTrue(error.message.isprintable())
        self.assertLess(len(error.message), 300)

    def test_a_page_instead_of_json_is_an_error_with_its_status(self) -> None:
        for status in (302, 400, 502):
            error = self.assertRaises(
                BadGateway, parse_tokens, status, b"<html>", "access_token", 0
            )
            self.assertIn(str(status), error.message)
