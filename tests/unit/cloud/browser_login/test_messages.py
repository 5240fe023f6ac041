"""`ctllm.cloud.browser_login.messages`: the messages of the authorization code flow."""

from __future__ import annotations

import contextlib
from base64 import b64decode
from urllib.parse import parse_qs, parse_qsl, urlsplit

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.browser_login.messages import (
    MAX_QUERY,
    Callback,
    OAuthClient,
    authorization_url,
    code_parameters,
    decode_token_error,
    decode_token_response,
    form_request,
    parse_callback,
    parse_login,
    refresh_parameters,
)
from ctllm.cloud.browser_login.transactions import LoginTransaction
from ctllm.common.json_decoder import InvalidJson
from ctllm.errors import BadRequest

TRANSACTION = LoginTransaction("corp", "the state", "the-nonce", "v" * 43)
CLIENT = OAuthClient(
    "https://idp.example/", "page", "https://cloud.example/ctllm/callback", "openid profile"
)


class CallbackTests(SynchronousTestCase):
    def test_reads_the_parameters_and_ignores_others(self) -> None:
        target = b"/ctllm/callback?code=a%2Fb&state=s.1&iss=https%3A%2F%2Fidp&session_state=x"
        self.assertEqual(parse_callback(target), Callback("a/b", "s.1", "https://idp"))
        self.assertEqual(
            parse_callback(b"/ctllm/callback?error=access_denied&state=s"),
            Callback(state="s", error="access_denied"),
        )
        self.assertEqual(parse_callback(b"/ctllm/callback"), Callback())

    def test_refuses_a_parameter_that_occurs_twice(self) -> None:
        for query in (
            b"code=a&code=a",
            b"state=a&state=b",
            b"iss=&iss=a&iss=b",
            b"%63ode=a&code=b",
        ):
            with self.assertRaises(BadRequest):
                parse_callback(b"/ctllm/callback?" + query)

    def test_refuses_huge_and_many_parameters(self) -> None:
        for query in (b"code=" + b"a" * MAX_QUERY, b"&".join(b"a%d=1" % n for n in range(99))):
            with self.assertRaises(BadRequest):
                parse_callback(b"/ctllm/callback?" + query)

    @given(st.binary(max_size=80))
    def test_any_query_is_read_or_refused(self, query: bytes) -> None:
        for parse in (parse_callback, parse_login):
            with contextlib.suppress(BadRequest):
                parse(b"/?" + query)

    def test_a_login_names_one_provider(self) -> None:
        for query, found in (
            (b"provider=corp.example", ("corp.example", False)),
            (b"fresh=1&provider=corp&next=//evil.example", ("corp", True)),
        ):
            self.assertEqual(parse_login(b"/ctllm/login?" + query), found)
        for query in (b"", b"provider=", b"provider=a%2Fb", b"provider=a&provider=a", b"x=corp",
                      b"provider=" + b"a" * 65, b"provider=%00", b"provider=a%0d%0ab"):  # fmt: skip
            with self.assertRaises(BadRequest):
                parse_login(b"/ctllm/login?" + query)


class RequestTests(SynchronousTestCase):
    def test_the_authorization_request_binds_all_of_the_transaction(self) -> None:
        url = urlsplit(authorization_url("https://idp.example/authorize", CLIENT, TRANSACTION))
        self.assertEqual(url[:3], ("https", "idp.example", "/authorize"))
        self.assertEqual(
            dict(parse_qsl(url.query)),
            {
                "response_type": "code", "client_id": "page", "scope": "openid profile",
                "redirect_uri": "https://cloud.example/ctllm/callback", "state": "the state",
                "nonce": "the-nonce", "code_challenge": TRANSACTION.challenge,
                "code_challenge_method": "S256",
            },
        )  # fmt: skip
        self.assertNotIn(TRANSACTION.verifier, url.query)

    def test_the_endpoint_may_have_a_query_and_the_client_an_audience(self) -> None:
        client = OAuthClient("https://idp", "page", "https://c", "openid", audience="an api")
        url = authorization_url("https://idp/authorize?tenant=a", client, TRANSACTION)
        self.assertEqual(parse_qs(urlsplit(url).query)["tenant"], ["a"])
        self.assertEqual(parse_qs(urlsplit(url).query)["audience"], ["an api"])

    def test_google_needs_its_own_parameters_for_a_refresh_token(self) -> None:
        for issuer in ("https://accounts.google.com", "https://accounts.google.com/"):
            client = OAuthClient(issuer, "page", "https://c", "openid")
            for fresh, prompt in ((False, "consent"), (True, "select_account consent")):
                url = authorization_url("https://idp/authorize", client, TRANSACTION, fresh)
                query = parse_qs(urlsplit(url).query)
                self.assertEqual((query["access_type"], query["prompt"]), (["offline"], [prompt]))

    def test_a_public_client_sends_its_id_and_the_verifier(self) -> None:
        headers, body = form_request(CLIENT, code_parameters(CLIENT, TRANSACTION, "the code"), None)
        self.assertNotIn(b"Authorization", dict(headers))
        self.assertEqual(
            dict(parse_qsl(body.decode())),
            {
                "grant_type": "authorization_code", "code": "the code", "client_id": "page",
                "redirect_uri": CLIENT.redirect_uri, "code_verifier": TRANSACTION.verifier,
            },
        )  # fmt: skip

    def test_a_confidential_client_authenticates_as_the_provider_supports(self) -> None:
        client = OAuthClient("https://idp", "pa:ge", "https://c", "openid", secret="s&:%")
        parameters = refresh_parameters(client, "r")
        for methods in (None, ("private_key_jwt", "client_secret_basic", "client_secret_post")):
            headers, body = form_request(client, parameters, methods)
            decoded = b64decode(dict(headers)[b"Authorization"].removeprefix(b"Basic "))
            self.assertEqual(decoded, b"pa%3Age:s%26%3A%25")
            self.assertNotIn(b"client_", body)
        headers, body = form_request(client, parameters, ("client_secret_post",))
        self.assertNotIn(b"Authorization", dict(headers))
        self.assertEqual(dict(parse_qsl(body.decode()))["client_secret"], "s&:%")
        self.assertNotIn("s&:%", repr(client))

    def test_token_responses_are_decoded_within_limits(self) -> None:
        found = decode_token_response(b'{"access_token":"a","refresh_token":"r","x":[1]}')
        self.assertEqual((found.access_token, found.refresh_token, found.id_token), ("a", "r", ""))
        self.assertEqual(repr(found), "TokenResponse()")
        self.assertEqual(decode_token_error(b'{"error":"invalid_grant"}').error, "invalid_grant")
        for body in (b"", b"[]", b"{}", b'{"access_token":""}', b'{"access_token":1}',
                     b'{"access_token":"%s"}' % (b"a" * 20_000)):  # fmt: skip
            with self.assertRaises(InvalidJson):
                decode_token_response(body)
