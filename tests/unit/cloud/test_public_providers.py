"""`ctllm.cloud.public_providers`: what everybody may know of the providers."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.public_providers import public_providers
from ctllm.config import Provider


class PublicProvidersTests(SynchronousTestCase):
    def test_has_what_a_desktop_needs_and_nothing_else(self) -> None:
        provider = Provider(
            issuer="https://login.example/",
            client_id="desktop",
            page_client_id="page",
            page_client_secret_file="/etc/secret",
            desktop_client_secret="not-confidential",
            audience="api",
            groups_claim="groups",
            allowed_groups=("staff",),
            namespace="people",
            title="The company",
        )
        expected = {
            "name": "acme",
            "title": "The company",
            "issuer": "https://login.example/",
            "client_id": "desktop",
            "client_secret": "not-confidential",
            "scope": "openid profile offline_access",
            "audience": "api",
            "token": "access_token",
        }
        self.assertEqual(public_providers({"acme": provider}), {"providers": [expected]})

    def test_names_a_provider_without_a_title_and_has_no_empty_secret(self) -> None:
        provider = Provider(issuer="https://login.example/", client_id="desktop")
        (found,) = public_providers({"acme": provider})["providers"]
        self.assertEqual(found["title"], "acme")
        self.assertNotIn("client_secret", found)
