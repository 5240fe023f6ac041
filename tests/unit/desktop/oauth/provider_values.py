"""A provider's values, for the tests of each grant."""

from __future__ import annotations

import base64
import json
from typing import Any

from ctllm.desktop.oauth.provider import Provider, ProviderMetadata
from ctllm.desktop.oauth.tokens import OAuthClientId

ISSUER = "https://login.example/"
PROVIDER = Provider(
    "example", ISSUER, "desktop", scope="openid offline_access", audience="https://relay.example"
)
METADATA = ProviderMetadata(
    ISSUER,
    f"{ISSUER}token",
    f"{ISSUER}authorize",
    f"{ISSUER}device",
    f"{ISSUER}revoke",
)
CLIENT = OAuthClientId("desktop")


def encoded(**members: Any) -> bytes:
    """Return a JSON object."""
    return json.dumps(members).encode()


def jwt(**claims: Any) -> str:
    """Return a token in the form of a JWT; its signature is worthless."""
    parts = [json.dumps(part).encode() for part in ({"alg": "RS256"}, claims)]
    return ".".join(base64.urlsafe_b64encode(each).rstrip(b"=").decode() for each in parts) + ".AA"
