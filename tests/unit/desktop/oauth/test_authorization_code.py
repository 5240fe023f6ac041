"""The login in a browser: PKCE, and which redirect belongs to it."""

from __future__ import annotations

import hashlib
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from ctllm.auth.jws import encode_base64url
from ctllm.desktop.oauth.authorization_code import MAX_QUERY, AuthorizationCodeGrant
from ctllm.desktop.oauth.tokens import GrantRefused
from ctllm.errors import BadGateway, BadRequest, CtllmError, NotFound
from tests.unit.desktop.oauth.provider_values import (
    CLIENT,
    ISSUER,
    METADATA,
    PROVIDER,
    encoded,
    jwt,
)

HOST = "127.0.0.1:4321"
REDIRECT = f"http://{HOST}/callback"


class GrantCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.grant = AuthorizationCodeGrant(CLIENT, PROVIDER, METADATA, REDIRECT)

    def receive(self, **fields: str) -> str | CtllmError:
        query = urlencode({"state": self.grant.state, **fields})
        return self.grant.receive("GET", HOST, f"/callback?{query}")


class UrlTests(GrantCase):
    def test_has_the_challenge_and_not_the_verifier(self) -> None:
        url = self.grant.url
        self.assertNotIn(self.grant.verifier, url)
        fields = dict(parse_qsl(urlsplit(url).query))
        digest = hashlib.sha256(self.grant.verifier.encode()).digest()
        self.assertEqual(fields["code_challenge"], encode_base64url(digest))
        self.assertEqual(fields["code_challenge_method"], "S256")
        self.assertEqual(fields["redirect_uri"], REDIRECT)
        self.assertEqual(fields["state"], self.grant.state)
        self.assertEqual(fields["nonce"], self.grant.nonce)
        self.assertEqual(fields["audience"], PROVIDER.audience)
        self.assertEqual(fields["prompt"], "consent")

    def test_keeps_the_query_of_the_endpoint(self) -> None:
        metadata = replace(METADATA, authorization_endpoint=f"{ISSUER}authorize?p=1")
        url = AuthorizationCodeGrant(CLIENT, PROVIDER, metadata, REDIRECT).url
        self.assertTrue(url.startswith(f"{ISSUER}authorize?p=1&response_type=code&"))

    def test_each_login_has_its_own_secrets(self) -> None:
        other = AuthorizationCodeGrant(CLIENT, PROVIDER, METADATA, REDIRECT)
        for name in ("verifier", "state", "nonce"):
            self.assertNotEqual(getattr(other, name), getattr(self.grant, name))
            self.assertGreaterEqual(len(getattr(self.grant, name)), 43)
            self.assertNotIn(getattr(self.grant, name), repr(self.grant))

    def test_the_token_request_proves_who_started_the_login(self) -> None:
        form = parse_qs(self.grant.token_request("the-code").body.decode())
        self.assertEqual(form["code_verifier"], [self.grant.verifier])
        self.assertEqual(form["redirect_uri"], [REDIRECT])
        self.assertEqual(form["code"], ["the-code"])


class RedirectTests(GrantCase):
    def test_returns_the_code(self) -> None:
        self.assertEqual(self.receive(code="the-code"), "the-code")

    def test_refuses_other_states_and_the_login_goes_on(self) -> None:
        for query in (
            "code=x",
            "code=x&state=",
            "code=x&state=guess",
            "code=x&state=%C3%A9",
            f"code=x&state={self.grant.state}x",
            f"code=x&state={self.grant.state}&state={self.grant.state}",
            f"state={self.grant.state}&code=x&code=y",
            f"state={self.grant.state}&code={'x' * MAX_QUERY}",
            "&".join(f"a{number}=1" for number in range(100)),
            "error=access_denied",
        ):
            with self.subTest(query[:60]):
                self.assertRaises(BadRequest, self.grant.receive, "GET", HOST, f"/callback?{query}")
        self.assertEqual(self.receive(code="the-code"), "the-code")

    def test_refuses_other_paths_methods_and_hosts(self) -> None:
        query = urlencode({"state": self.grant.state, "code": "x"})
        for method, host, path in (
            ("POST", HOST, "/callback"),
            ("GET", "evil.example", "/callback"),
            ("GET", "", "/callback"),
            ("GET", HOST, "/"),
            ("GET", HOST, "/callback/"),
        ):
            self.assertRaises(NotFound, self.grant.receive, method, host, f"{path}?{query}")

    def test_an_error_of_the_provider_ends_the_login(self) -> None:
        denied = self.receive(error="access_denied", error_description="\x1b[2JNo")
        assert isinstance(denied, GrantRefused)
        self.assertIn("denied", denied.message)
        self.assertTrue(denied.message.isprintable())
        self.assertIsInstance(self.receive(error="server_error"), GrantRefused)

    def test_a_redirect_without_a_usable_code_ends_the_login(self) -> None:
        for code in ("", "\n", "é"):
            self.assertIsInstance(self.receive(code=code), BadGateway)

    def test_refuses_the_redirect_of_another_provider(self) -> None:
        self.assertEqual(self.receive(code="x", iss=ISSUER.rstrip("/")), "x")
        self.assertIsInstance(self.receive(code="x", iss="https://evil.example"), BadGateway)
        metadata = replace(METADATA, authorization_response_iss_parameter_supported=True)
        self.grant = AuthorizationCodeGrant(CLIENT, PROVIDER, metadata, REDIRECT)
        self.assertIsInstance(self.receive(code="x"), BadGateway)

    def test_tokens_with_the_nonce_of_another_login_are_refused(self) -> None:
        def parse(nonce: str) -> None:
            tokens = encoded(access_token=jwt(), id_token=jwt(nonce=nonce, iss=ISSUER))
            self.grant.parse_tokens(200, tokens, 0)

        parse(self.grant.nonce)
        self.assertRaises(BadGateway, parse, "of another login")
