"""`ctllm.cloud.identity.oidc.metadata`: the discovery document of a provider."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.identity.oidc.metadata import metadata_url, parse_metadata
from ctllm.errors import BadGateway

ISSUER = "https://login.example/"
DOCUMENT = {"issuer": ISSUER, "jwks_uri": "https://keys.example/jwks", "more": [1]}


def document(**changes: Any) -> bytes:
    return json.dumps({**DOCUMENT, **changes}).encode()


class MetadataTests(SynchronousTestCase):
    def refused(self, body: bytes, issuer: str = ISSUER) -> str:
        return str(self.assertRaises(BadGateway, parse_metadata, body, issuer).message)

    def test_the_document_is_below_the_issuer(self) -> None:
        path = "/.well-known/openid-configuration"
        for issuer in ("https://a.example", "https://a.example/"):
            self.assertEqual(metadata_url(issuer), f"https://a.example{path}")
        self.assertEqual(metadata_url("https://a.example/b"), f"https://a.example/b{path}")

    def test_endpoints_may_be_missing_except_for_the_keys(self) -> None:
        found = parse_metadata(document(token_endpoint="https://login.example/t"), ISSUER)
        self.assertEqual(found.jwks_uri, "https://keys.example/jwks")
        self.assertEqual(found.token_endpoint, "https://login.example/t")
        self.assertEqual(found.device_authorization_endpoint, "")
        self.refused(json.dumps({"issuer": ISSUER}).encode())
        self.assertIn("jwks_uri", self.refused(document(jwks_uri="")))

    def test_the_issuer_is_the_configured_one_except_for_one_trailing_slash(self) -> None:
        parse_metadata(document(), "https://login.example")
        parse_metadata(document(issuer="https://login.example"), ISSUER)
        for issuer in (
            "https://login.example//",
            "https://login.example/x",
            "https://LOGIN.example",
        ):
            self.assertIn("another issuer", self.refused(document(issuer=issuer)))

    def test_endpoints_are_https_unless_all_is_on_this_machine(self) -> None:
        for url in (
            "http://login.example/t",
            "http://127.0.0.1/t",
            "ftp://login.example",
            "https://",
            "https://user:pass@login.example/",
            "https://login.example/a b",
            "https://login.example/\u202e",
            "https://login.example:port/",
            "https://[::1",
            "//login.example",
            "javascript:alert(1)",
        ):
            self.assertIn("token_endpoint", self.refused(document(token_endpoint=url)), url)
        local = "http://127.0.0.1:5/"
        parse_metadata(document(issuer=local, jwks_uri="http://[::1]:6/jwks"), local)
        self.refused(document(issuer=local, jwks_uri="http://192.0.2.1/jwks"), local)

    def test_refuses_what_is_no_document(self) -> None:
        for body in (b"", b"<html>", b"[]", b"null", b"[" * 9999, document(issuer=5), b"\xff"):
            self.assertIn("not valid", self.refused(body))
        self.refused(document(jwks_uri="https://a.example/" + "x" * 3000))
