"""Tokens as five providers issue them are valid with the examples in `etc/ctllm.toml`.

The claims are those that the providers document, with made-up values.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.identity import MANAGE, SERVE, USE, AccessGrant
from ctllm.cloud.identity.oidc.claims import check_claims, read_grant
from ctllm.config import Provider, load
from ctllm.errors import GroupNotAllowed, Unauthorized
from tests.unit.cloud.identity.oidc.tokens import NOW

EXAMPLE = Path(__file__).parents[5] / "etc" / "ctllm.toml"
TIMES = {"iat": int(NOW) - 60, "exp": int(NOW) + 3600}
WEB_CLIENT = "PAGE.apps.googleusercontent.com"

#: Claims of each provider, and the name and subject of their user.
TOKENS: dict[str, tuple[dict[str, Any], str, str]] = {
    "auth0": (
        {
            "iss": "https://TENANT.eu.auth0.com/",
            "sub": "auth0|5f7c8ec7c33c6c004bbafe82",
            "aud": ["https://ctllm.example.org/api", "https://TENANT.eu.auth0.com/userinfo"],
            "azp": "THE-CLIENT-ID-OF-THE-NATIVE-APPLICATION",
            "scope": "openid profile offline_access",
            "https://ctllm.example.org/roles": ["ctllm"],
            "https://ctllm.example.org/name": "Ada",
        },
        "Ada",
        "auth0|5f7c8ec7c33c6c004bbafe82",
    ),
    "keycloak": (
        {
            "iss": "https://id.example.org/realms/REALM",
            "sub": "f1d3ff84-3297-43da-bd2e-9b1d8e9a1b11",
            "aud": ["ctllm", "account"],
            "azp": "ctllm",
            "typ": "Bearer",
            "jti": "onrtac:1",
            "sid": "e2c5",
            "acr": "1",
            "allowed-origins": ["https://ctllm.example.org"],
            "realm_access": {"roles": ["offline_access", "default-roles-realm"]},
            "groups": ["ctllm"],
            "scope": "openid profile offline_access",
            "name": "Ada Lovelace",
            "preferred_username": "ada",
        },
        "Ada Lovelace",
        "f1d3ff84-3297-43da-bd2e-9b1d8e9a1b11",
    ),
    "authentik": (
        {
            "iss": "https://auth.example.org/application/o/ctllm/",
            "sub": "7d6f",
            "aud": "THE-CLIENT-ID-OF-THE-PROVIDER",
            "azp": "THE-CLIENT-ID-OF-THE-PROVIDER",
            "auth_time": int(NOW) - 3600,
            "acr": "goauthentik.io/providers/oauth2/default",
            "name": "Ada",
            "preferred_username": "ada",
            "groups": ["everyone", "ctllm"],
            "uid": "x",
        },
        "Ada",
        "7d6f",
    ),
    "google": (
        {
            "iss": "https://accounts.google.com",
            "sub": "110169484474386276334",
            "aud": "DESKTOPS.apps.googleusercontent.com",
            "azp": "DESKTOPS.apps.googleusercontent.com",
            "hd": "example.org",
            "email": "ada@example.org",
            "email_verified": True,
            "at_hash": "x",
            "name": "Ada",
        },
        "Ada",
        "110169484474386276334",
    ),
    "entra": (
        {
            "iss": "https://login.microsoftonline.com/TENANT-ID/v2.0",
            "sub": "pairwise",
            "oid": "690222be-ff1a-4d56-abd1-7e4f7d38e474",
            "tid": "TENANT-ID",
            "aud": "CLIENT-ID",
            "azp": "CLIENT-ID",
            "azpacr": "0",
            "nbf": TIMES["iat"],
            "name": "Ada",
            "preferred_username": "ada@example.org",
            "roles": ["ctllm-user"],
            "scp": "access",
            "ver": "2.0",
        },
        "Ada",
        "690222be-ff1a-4d56-abd1-7e4f7d38e474",
    ),
}


class ExampleProviderTests(SynchronousTestCase):
    def setUp(self) -> None:
        text = re.sub(r"(?m)^# (?=\[cloud\.|\w+ = )", "", EXAMPLE.read_text("utf-8"))
        path = Path(self.mktemp())
        path.write_text(text, "utf-8")
        self.providers = load(path, {}, {"HOME": "/"}).cloud.providers

    def grant(self, claims: dict[str, Any], provider: Provider) -> AccessGrant:
        claims = {**claims, **TIMES}
        check_claims(claims, provider, NOW)
        return read_grant(claims, provider, {}, NOW)

    def test_their_tokens_sign_their_users_in(self) -> None:
        self.assertEqual({*self.providers} - {"example"}, {*TOKENS})
        for name, (claims, user, subject) in TOKENS.items():
            grant = self.grant(claims, self.providers[name])
            self.assertEqual((grant.user.name, grant.user.subject), (user, subject), name)
            self.assertEqual(grant.scopes, {USE, MANAGE, SERVE}, name)
            self.assertEqual(claims["iss"].rstrip("/"), grant.user.issuer)

    def test_without_their_group_they_do_not(self) -> None:
        for name, (claims, _, _) in TOKENS.items():
            group = self.providers[name].groups_claim
            without = {key: value for key, value in claims.items() if key != group}
            self.assertRaises(GroupNotAllowed, self.grant, without, self.providers[name])

    def test_a_token_for_another_application_does_not(self) -> None:
        for name, (claims, _, _) in TOKENS.items():
            for audience in ("another", ["account"], "00000003-0000-0000-c000-000000000000"):
                found = {**claims, "aud": audience}
                self.assertRaises(Unauthorized, self.grant, found, self.providers[name])

    def test_a_token_of_the_page_does_not_serve_as_a_desktop(self) -> None:
        claims = {**TOKENS["google"][0], "aud": WEB_CLIENT, "azp": WEB_CLIENT}
        self.assertEqual(self.grant(claims, self.providers["google"]).scopes, {USE, MANAGE})
