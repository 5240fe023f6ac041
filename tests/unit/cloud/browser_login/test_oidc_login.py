"""`ctllm.cloud.browser_login.oidc_login`: codes, refresh tokens, and what a provider answers."""

from __future__ import annotations

import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.browser_login.interfaces import LoginProvider
from ctllm.cloud.browser_login.messages import Callback
from ctllm.cloud.browser_login.oidc_login import create_login_providers
from ctllm.cloud.browser_login.outcomes import LoginFailed
from ctllm.cloud.browser_login.transactions import LoginTransaction
from ctllm.cloud.identity.oidc.key_set import parse_key_set
from ctllm.cloud.identity.oidc.metadata import ProviderMetadata
from ctllm.cloud.identity.oidc.provider_client import FetchedKeys
from ctllm.cloud.identity.oidc.verifier import OidcVerifier
from ctllm.config import Provider
from ctllm.errors import BadConfiguration, BadGateway, CtllmError, GroupNotAllowed, Unauthorized
from ctllm.http.message.head import Headers, ResponseHead
from ctllm.reactor.interfaces import Clock as ClockInterface

T = TypeVar("T")
NOW = 1_700_000_000
ISSUER = "https://idp.example/"
REDIRECT = "https://cloud.example/ctllm/callback"
METADATA = ProviderMetadata(
    ISSUER,
    f"{ISSUER}jwks",
    authorization_endpoint=f"{ISSUER}authorize",
    token_endpoint=f"{ISSUER}token",
    revocation_endpoint=f"{ISSUER}revoke",
)
SETTINGS = Provider(
    issuer=ISSUER, client_id="desktop", page_client_id="page", audience="api", scope="profile",
    groups_claim="groups", allowed_groups=("staff",),
)  # fmt: skip
TRANSACTION = LoginTransaction("acme", "state", "nonce", "v" * 43)
KEY, OTHER_KEY = (generate_private_key(65537, 2048) for _ in range(2))


def key_set() -> bytes:
    jwk = jwt.algorithms.RSAAlgorithm.to_jwk(KEY.public_key(), as_dict=True)
    return json.dumps({"keys": [{**jwk, "kid": "k"}]}).encode()


class FakeClient:
    """A provider whose endpoints give `answers` in turn: a status and what is its JSON."""

    def __init__(self) -> None:
        self.known = METADATA
        self.answers: list[tuple[int, Any]] = []
        self.sent: list[tuple[str, dict[str, str]]] = []

    async def metadata(self) -> ProviderMetadata:
        return self.known

    async def fetch_keys(self, known: FetchedKeys | None) -> FetchedKeys:
        return FetchedKeys(parse_key_set(key_set()))

    async def request(
        self, method: str, url: str, headers: Headers = (), body: bytes = b""
    ) -> tuple[ResponseHead, bytes]:
        self.sent.append((url, dict(parse_qsl(body.decode()))))
        status, answer = self.answers.pop(0)
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        return ResponseHead(status), data


def id_claims() -> dict[str, Any]:
    return {
        "iss": ISSUER, "sub": "ada", "aud": "page", "iat": NOW, "exp": NOW + 300, "nonce": "nonce",
    }  # fmt: skip


def token(audience: str, key: RSAPrivateKey = KEY, **changes: Any) -> str:
    claims = {
        "iss": ISSUER, "sub": "ada", "aud": audience, "iat": NOW, "exp": NOW + 300,
        "groups": ["staff"], **changes,
    }  # fmt: skip
    return jwt.encode(claims, key, "RS256", {"kid": "k"})


def tokens(refresh: str = "r1", nonce: str = "nonce", **changes: Any) -> dict[str, Any]:
    return {
        "access_token": token("api"),
        "id_token": token("page", nonce=nonce),
        "refresh_token": refresh,
        "token_type": "Bearer",
        **changes,
    }


class OidcLoginTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.client = FakeClient()
        self.login = self.compose(SETTINGS)

    def compose(self, settings: Provider) -> LoginProvider:
        def client_for(issuer: str, clock: ClockInterface) -> Any:
            return self.client

        verifier = OidcVerifier(
            {"acme": settings}, {}, Clock(), lambda name: None, lambda: NOW, client_for
        )
        return create_login_providers(verifier, REDIRECT, lambda: NOW)["acme"]

    def result(self, work: Coroutine[Any, Any, T]) -> T:
        return self.successResultOf(Deferred.fromCoroutine(work))

    def failure(self, work: Coroutine[Any, Any, Any], kind: type[CtllmError]) -> CtllmError:
        error = self.failureResultOf(Deferred.fromCoroutine(work), kind).value
        assert isinstance(error, CtllmError)
        return error

    def redeem(self, **callback: str) -> Any:
        return self.login.redeem(TRANSACTION, Callback(**{"code": "c", **callback}))

    def test_the_url_is_of_the_pages_client_and_always_asks_for_an_id_token(self) -> None:
        url = self.result(self.login.authorization_url(TRANSACTION, True))
        query = dict(parse_qsl(urlsplit(url).query))
        self.assertEqual((query["client_id"], query["scope"]), ("page", "openid profile"))
        self.assertEqual((query["audience"], query["prompt"]), ("api", "login"))

    def test_a_code_gives_a_user_and_a_refresh_token(self) -> None:
        self.client.answers = [(200, tokens())]
        found = self.result(self.redeem(iss=ISSUER))
        self.assertEqual((found.grant.user.subject, found.refresh_token), ("ada", "r1"))
        [(url, sent)] = self.client.sent
        self.assertEqual((url, sent["code"]), (METADATA.token_endpoint, "c"))
        self.assertEqual(sent["code_verifier"], TRANSACTION.verifier)
        self.assertNotIn("r1", repr(found))

    def test_an_id_token_that_is_not_of_this_login_signs_nobody_in(self) -> None:
        for id_token in (
            "",
            "x.y.z",
            token("page", nonce="another"),
            token("page"),
            token("desktop", nonce="nonce"),
            token("page", OTHER_KEY, nonce="nonce"),
            token("page", nonce="nonce", iss="https://evil.example/"),
            token("page", nonce="nonce", exp=NOW - 60),
            jwt.encode(id_claims(), KEY, "RS384", {"kid": "k"}),  # of the right key
            jwt.encode({"iss": ISSUER, "aud": "page", "nonce": "nonce"}, "s" * 32, "HS256"),
            jwt.encode({"iss": ISSUER, "aud": "page", "nonce": "nonce"}, "", "none"),
        ):
            self.client.answers = [(200, tokens(id_token=id_token))]
            self.failure(self.redeem(), Unauthorized)

    def test_the_access_token_is_verified_as_any_other(self) -> None:
        for access_token, kind in (
            (token("api", OTHER_KEY), Unauthorized),
            (token("page"), Unauthorized),
            ("opaque", Unauthorized),
            (token("api", groups=["guests"]), GroupNotAllowed),
        ):
            self.client.answers = [(200, tokens(access_token=access_token))]
            self.failure(self.redeem(), kind)

    def test_a_callback_of_another_issuer_sends_no_code(self) -> None:
        """RFC 9207. The name of the issuer is needed where the provider says that it sends it."""
        self.failure(self.redeem(iss="https://evil.example/"), LoginFailed)
        supported = {"authorization_response_iss_parameter_supported": True}
        self.client.known = ProviderMetadata(
            **{name: getattr(METADATA, name) for name in METADATA.__struct_fields__} | supported
        )
        self.failure(self.redeem(), LoginFailed)
        self.failure(self.redeem(error="access_denied"), LoginFailed)
        self.failure(self.redeem(code="", iss=ISSUER), LoginFailed)
        self.assertEqual(self.client.sent, [])

    def test_a_refresh_token_is_used_once_even_if_its_successor_was_not_stored(self) -> None:
        """A second use would be taken for theft."""
        self.client.answers = [(200, tokens("r2", access_token="opaque")), (200, tokens("r3"))]
        self.failure(self.login.refresh("r1"), Unauthorized)
        found = self.result(self.login.refresh("r1"))
        self.assertEqual(found.refresh_token, "r3")
        self.assertEqual([sent["refresh_token"] for _, sent in self.client.sent], ["r1", "r2"])

    def test_a_provider_that_does_not_rotate_keeps_its_refresh_token(self) -> None:
        answer = tokens()
        del answer["refresh_token"], answer["id_token"]
        self.client.answers = [(200, answer)]
        self.assertEqual(self.result(self.login.refresh("r1")).refresh_token, "r1")

    def test_only_an_invalid_grant_is_the_end_of_a_sign_in(self) -> None:
        self.client.answers = [(400, {"error": "invalid_grant"})]
        self.failure(self.login.refresh("r1"), Unauthorized)
        for status, body in (
            (401, {"error": "invalid_client"}),
            (400, {"error": "invalid_grant\r\n" + "x" * 200}),
            (400, b"<html>"),
            (500, {}),
            (302, b""),
            (200, b"<html>"),
            (200, {"access_token": ""}),
        ):
            self.client.answers = [(status, body)]
            self.failure(self.login.refresh("r1"), BadGateway)

    def test_revokes_the_latest_refresh_token(self) -> None:
        self.client.answers = [(200, tokens("r2")), (200, b"")]
        self.result(self.login.refresh("r1"))
        self.result(self.login.revoke("r1"))
        self.assertEqual(self.client.sent[1][0], METADATA.revocation_endpoint)
        self.assertEqual(self.client.sent[1][1]["token"], "r2")

    def test_an_id_token_may_be_what_counts(self) -> None:
        settings = {name: getattr(SETTINGS, name) for name in SETTINGS.__struct_fields__}
        self.login = self.compose(Provider(**{**settings, "token": "id_token", "audience": ""}))
        self.client.answers = [(200, tokens(access_token="opaque"))]
        self.assertEqual(self.result(self.redeem()).grant.user.subject, "ada")

    def test_a_client_secret_is_read_from_its_file(self) -> None:
        settings = {name: getattr(SETTINGS, name) for name in SETTINGS.__struct_fields__}
        path = Path(self.mktemp())
        with self.assertRaises(BadConfiguration):
            self.compose(Provider(**{**settings, "page_client_secret_file": str(path)}))
        path.write_text("secret\n")
        self.login = self.compose(Provider(**{**settings, "page_client_secret_file": str(path)}))
        self.client.answers = [(200, tokens())]
        self.result(self.redeem())
        self.assertNotIn("client_id", self.client.sent[0][1])
