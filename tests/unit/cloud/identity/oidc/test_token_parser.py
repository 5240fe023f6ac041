"""`ctllm.cloud.identity.oidc.token_parser`: provider tokens are parsed strictly."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.auth.jws import MAX_TOKEN_SIZE
from ctllm.cloud.identity.oidc.token_parser import MAX_KEY_ID, looks_like_jwt, parse_token
from ctllm.errors import Unauthorized
from tests.unit.cloud.identity.oidc.tokens import CLAIMS, ISSUER, encode, sign

HEADER = {"alg": "RS256", "kid": "k1"}


class ParseTests(SynchronousTestCase):
    def refused(self, token: str) -> None:
        self.assertRaises(Unauthorized, parse_token, token)

    def test_has_the_parts_of_a_token(self) -> None:
        token = sign()
        parsed = parse_token(token)
        self.assertEqual((parsed.algorithm, parsed.key_id, parsed.issuer), ("RS256", "k1", ISSUER))
        self.assertEqual(parsed.claims["sub"], "auth0|ada")
        self.assertEqual(parsed.signed.decode(), token.rpartition(".")[0])
        self.assertTrue(looks_like_jwt(token))

    def test_the_key_id_and_the_type_may_be_missing(self) -> None:
        self.assertIsNone(parse_token(encode({"alg": "RS256"}, CLAIMS)).key_id)
        for kind in ("JWT", "at+jwt", "application/at+JWT"):
            parse_token(encode({**HEADER, "typ": kind}, CLAIMS))

    def test_refuses_other_types_of_token_and_critical_extensions(self) -> None:
        more: Any
        for more in (
            {"typ": "dpop+jwt"},
            {"typ": "logout+jwt"},
            {"typ": 5},
            {"typ": None},
            {"crit": ["b64"], "b64": False},
            {"crit": []},
        ):
            self.refused(encode({**HEADER, **more}, CLAIMS))

    def test_refuses_headers_and_claims_of_other_types(self) -> None:
        header: Any
        for header in ({}, {"alg": None}, {"alg": ["RS256"]}, [], "RS256", 5, None):
            self.refused(encode(header, CLAIMS))
        key_id: Any
        for key_id in (5, {}, "k" * (MAX_KEY_ID + 1)):
            self.refused(encode({**HEADER, "kid": key_id}, CLAIMS))
        claims: Any
        for claims in ({}, {"iss": None}, {"iss": [ISSUER]}, [], "", b"", b"{", b"\xff"):
            self.refused(encode(HEADER, claims))

    def test_refuses_members_that_occur_twice(self) -> None:
        """Two programs might read different ones."""
        self.refused(encode(b'{"alg":"none","alg":"RS256"}', CLAIMS))
        self.refused(encode(HEADER, b'{"iss":"https://login.example/","sub":"a","sub":"b"}'))

    def test_refuses_json_that_is_nested_without_an_end_or_has_no_finite_numbers(self) -> None:
        for value in (b"[" * 3000, b"NaN", b"1e999", b"Infinity", b"9" * 4500):
            self.refused(encode(HEADER, b'{"iss":"https://login.example/","x":' + value + b"}"))
            closed = b"]" * 3000 if value[0] == 91 else b""
            document = b'{"iss":"https://login.example/","x":' + value + closed + b"}"
            self.refused(encode(HEADER, document))

    def test_refuses_what_is_too_long_or_not_base64url(self) -> None:
        self.refused("e" * (MAX_TOKEN_SIZE + 1))
        parse_token(sign(name="x" * 5000))
        self.refused(sign(name="x" * 6000))  # in base64url it is longer than the limit
        head, claims, signature = sign().split(".")
        for token in (
            "",
            "..",
            f"{head}.{claims}",
            f"{head}.{claims}.{signature}.{signature}",
            f"{head}=.{claims}.{signature}",
            f"{head}.{claims}.{signature}==",
            f"{head}.{claims}.{signature[:-1]}!",
            f" {head}.{claims}.{signature}",
            f"{head}.{claims}\n.{signature}",
            f"{head}.{claims}.é",
            "\udcff",
        ):
            self.refused(token)

    @given(st.one_of(st.text(), st.builds(encode, st.binary(), st.binary(), st.binary())))
    def test_no_text_raises_another_error(self, token: str) -> None:
        self.refused(token)
