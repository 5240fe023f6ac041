"""The cloud's list of providers and the discovery document, both of which may be hostile."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.oauth.provider import (
    MAX_DOCUMENT,
    MAX_PROVIDERS,
    check_url,
    choose_provider,
    discovery_url,
    parse_metadata,
    parse_providers,
)
from ctllm.errors import BadGateway, BadRequest
from tests.unit.desktop.oauth.provider_values import ISSUER, METADATA, PROVIDER, encoded

CLOUD = "https://cloud.example"
ENTRY = {"name": "main", "issuer": ISSUER, "client_id": "desktop"}
DOCUMENT = {
    "issuer": ISSUER,
    "token_endpoint": METADATA.token_endpoint,
    "authorization_endpoint": METADATA.authorization_endpoint,
    "device_authorization_endpoint": METADATA.device_authorization_endpoint,
    "revocation_endpoint": METADATA.revocation_endpoint,
}
LOCAL = "http://127.0.0.1:4000"


class ProviderListTests(SynchronousTestCase):
    def test_reads_the_providers_and_ignores_unknown_members(self) -> None:
        body = encoded(providers=[{**ENTRY, "title": "Acme", "future": 1}], more=2)
        [found] = parse_providers(200, body, CLOUD)
        self.assertEqual((found.name, found.label, found.token), ("main", "Acme", "access_token"))

    def test_a_cloud_without_the_path_has_no_providers(self) -> None:
        self.assertEqual(parse_providers(404, b"<html>", CLOUD), ())

    def test_refuses_what_is_no_list_of_providers(self) -> None:
        for body in (
            b"",
            b"[]",
            b"{}",
            encoded(providers=[ENTRY] * (MAX_PROVIDERS + 1)),
            encoded(providers=[{**ENTRY, "title": "\x1b]0;owned\x07"}]),
            encoded(providers=[{**ENTRY, "issuer": "https://a.example\n"}]),
            encoded(providers=[{**ENTRY, "client_id": "two words"}]),
            encoded(providers=[{**ENTRY, "scope": "openid\r\nX: y"}]),
            encoded(providers=[{**ENTRY, "token": "refresh_token"}]),
            encoded(providers=[{**ENTRY, "name": "a b"}]),
            encoded(providers=[ENTRY], filling="x" * MAX_DOCUMENT),
        ):
            self.assertRaises(BadGateway, parse_providers, 200, body, CLOUD)
        self.assertRaises(BadGateway, parse_providers, 302, b"", CLOUD)

    def test_several_providers_need_a_choice(self) -> None:
        others = tuple(parse_providers(200, encoded(providers=[ENTRY]), CLOUD))
        both = (PROVIDER, *others)
        self.assertEqual(choose_provider(others, "").name, "main")
        self.assertEqual(choose_provider(both, "example"), PROVIDER)
        error = self.assertRaises(BadRequest, choose_provider, both, "")
        self.assertIn("example, main", error.message)
        self.assertIn("--provider", error.message)
        self.assertRaises(BadRequest, choose_provider, both, "other")


class DiscoveryTests(SynchronousTestCase):
    def test_the_url_has_one_slash(self) -> None:
        for issuer in ("https://a.example/x", "https://a.example/x/"):
            self.assertEqual(
                discovery_url(issuer), "https://a.example/x/.well-known/openid-configuration"
            )

    def test_an_issuer_is_https_or_on_this_machine(self) -> None:
        for issuer in (LOCAL, "http://localhost:1", "http://[::1]:1/x", "https://10.0.0.1"):
            discovery_url(issuer)
        for issuer in (
            "http://login.example",
            "http://10.0.0.1",
            "http://127.0.0.1.evil.example",
            "http://127.0.0.1@evil.example",
            "http://127.0.0.1\\@evil.example",
            "https://a.example/?x=1",
            "https://a.example/#x",
            "https://a.example:99999",
            "https://user:secret@a.example",
            "file:///etc/passwd",
            "javascript:alert(1)",
            "https://a.example/\x1b[2J",
            "https://a.example/" + "x" * 3000,
            "",
        ):
            self.assertRaises(BadGateway, discovery_url, issuer)

    def test_reads_the_document(self) -> None:
        self.assertEqual(parse_metadata(ISSUER, 200, encoded(**DOCUMENT)), METADATA)

    def test_the_issuer_may_differ_by_one_trailing_slash(self) -> None:
        parse_metadata(ISSUER.rstrip("/"), 200, encoded(**DOCUMENT))
        for other in ("https://login.example//", "https://login.example/x", "https://evil.example"):
            body = encoded(**{**DOCUMENT, "issuer": other})
            self.assertRaises(BadGateway, parse_metadata, ISSUER, 200, body)

    def test_endpoints_are_https_unless_the_issuer_is_on_this_machine(self) -> None:
        for name in DOCUMENT:
            if name == "issuer":
                continue
            for url in ("http://login.example/x", LOCAL, "https://a.example/ b", "//a.example"):
                body = encoded(**{**DOCUMENT, name: url})
                self.assertRaises(BadGateway, parse_metadata, ISSUER, 200, body)
        local = encoded(issuer=LOCAL, token_endpoint=f"{LOCAL}/token")
        self.assertEqual(parse_metadata(LOCAL, 200, local).token_endpoint, f"{LOCAL}/token")
        remote = encoded(issuer=LOCAL, token_endpoint="http://login.example/token")
        self.assertRaises(BadGateway, parse_metadata, LOCAL, 200, remote)

    def test_refuses_what_is_no_document(self) -> None:
        for body in (
            b"<html>",
            encoded(issuer=ISSUER),
            encoded(**{**DOCUMENT, "token_endpoint": ["https://a.example"]}),
            encoded(**DOCUMENT, filling="x" * MAX_DOCUMENT),
            b"[" * 100_000,
        ):
            self.assertRaises(BadGateway, parse_metadata, ISSUER, 200, body)
        self.assertRaises(BadGateway, parse_metadata, ISSUER, 302, encoded(**DOCUMENT))

    def test_an_error_names_the_endpoint(self) -> None:
        error = self.assertRaises(
            BadGateway, check_url, "token_endpoint", "http://a.example", allows_http=True
        )
        self.assertIn("token_endpoint", error.message)
