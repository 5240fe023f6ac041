"""Whatever a cloud or a provider sends is a value or an error, and never another exception."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.oauth.authorization_code import AuthorizationCodeGrant
from ctllm.desktop.oauth.device_grant import DeviceGrant, parse_device_code
from ctllm.desktop.oauth.provider import discovery_url, parse_metadata, parse_providers
from ctllm.desktop.oauth.tokens import parse_refresh_token, parse_tokens
from ctllm.errors import CtllmError
from tests.unit.desktop.oauth.provider_values import CLIENT, ISSUER, METADATA, PROVIDER, jwt

STATUS = st.sampled_from((200, 302, 400, 401, 429, 503))
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)
NAMES = st.sampled_from((
    "access_token", "token_type", "expires_in", "refresh_token", "id_token", "error",
    "error_description", "device_code", "user_code", "verification_uri", "interval", "issuer",
    "token_endpoint", "verification_uri_complete", "providers", "name", "client_id",
))  # fmt: skip
OBJECTS = st.dictionaries(NAMES, JSON | st.just(jwt(nonce=5)) | st.just(ISSUER))
BODIES = st.binary(max_size=100) | OBJECTS.map(lambda found: json.dumps(found).encode())


class HostileResponseTests(SynchronousTestCase):
    def tolerate(self, parse: Any, *arguments: Any, **more: Any) -> None:
        try:
            parse(*arguments, **more)
        except CtllmError as error:
            self.assertTrue(error.message.isprintable(), error.message)

    @given(STATUS, BODIES)
    def test_any_response(self, status: int, body: bytes) -> None:
        self.tolerate(parse_providers, status, body, "https://cloud.example")
        self.tolerate(parse_metadata, ISSUER, status, body)
        self.tolerate(parse_device_code, status, body, ISSUER)
        self.tolerate(parse_refresh_token, status, body)
        for kind in ("access_token", "id_token"):
            self.tolerate(parse_tokens, status, body, kind, 0.0, nonce="n", issuer=ISSUER)
        code = parse_device_code(
            200,
            b'{"device_code":"d","user_code":"u","verification_uri":"https://login.example/"}',
            ISSUER,
        )
        grant = DeviceGrant(CLIENT, PROVIDER, METADATA, code, 0.0)
        self.tolerate(grant.receive, status, body, 1.0, 1.0)

    @given(st.text(max_size=60))
    def test_any_issuer(self, issuer: str) -> None:
        self.tolerate(discovery_url, issuer)
        self.tolerate(discovery_url, f"https://{issuer}")

    @given(st.text(st.characters(max_codepoint=255), max_size=80))
    def test_any_redirect(self, target: str) -> None:
        grant = AuthorizationCodeGrant(CLIENT, PROVIDER, METADATA, "http://127.0.0.1:1/callback")
        for each in (target, f"/callback?{target}", f"/callback?state={grant.state}&{target}"):
            self.tolerate(grant.receive, "GET", "127.0.0.1:1", each)
