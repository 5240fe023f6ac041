"""`ctllm.cloud.identity.oidc.verifier`: tokens of providers from end to end, without a network."""

from __future__ import annotations

import base64
import hmac
import subprocess
import sys
from typing import Any

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.auth.jws import encode_base64url
from ctllm.cloud.identity import AccessGrant
from ctllm.cloud.identity.oidc.key_set import parse_key_set
from ctllm.cloud.identity.oidc.provider_client import FetchedKeys
from ctllm.cloud.identity.oidc.verifier import OidcVerifier
from ctllm.config import Tier
from ctllm.errors import BadGateway, CtllmError, GroupNotAllowed, ServiceUnavailable, Unauthorized
from tests.unit.cloud.identity.oidc.tokens import (
    CLAIMS,
    ISSUER,
    NOW,
    SETTINGS,
    ec_key,
    encode,
    jwk,
    key_set,
    rsa_key,
    sign,
)

OTHER = "https://other.example"


class FakeClient:
    """A ProviderClient that gives `keys`, or raises the error that takes their place."""

    def __init__(self, issuer: str, clock: Any) -> None:
        self.issuer = issuer
        self.fetches = 0
        self.keys: bytes | CtllmError = key_set(jwk(rsa_key()))

    async def fetch_keys(self, known: FetchedKeys | None) -> FetchedKeys:
        self.fetches += 1
        if isinstance(self.keys, CtllmError):
            raise self.keys
        return FetchedKeys(parse_key_set(self.keys))


class VerifierCase(SynchronousTestCase):
    """A verifier of two providers: `login` with groups, and `other`, which has other keys."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.failed: list[str] = []
        self.clients: dict[str, FakeClient] = {}
        replace = msgspec.structs.replace
        providers = {
            "login": replace(SETTINGS, groups_claim="groups", allowed_groups=("staff",)),
            "other": replace(SETTINGS, issuer=OTHER, algorithms=("ES256",), title="Other"),
        }
        self.verifier = OidcVerifier(
            providers,
            {"gold": Tier(groups=("staff",))},
            self.clock,
            self.failed.append,
            lambda: NOW,
            self.client_for,  # type: ignore[arg-type]
        )
        self.login, self.other = self.clients[ISSUER], self.clients[OTHER]
        self.other.keys = key_set(jwk(ec_key()))

    def client_for(self, issuer: str, clock: Any) -> FakeClient:
        self.clients[issuer] = FakeClient(issuer, clock)
        return self.clients[issuer]

    def verified(self, token: str) -> AccessGrant:
        grant: AccessGrant = self.successResultOf(
            Deferred.fromCoroutine(self.verifier.verify(token))
        )
        return grant

    def refused(self, token: str, kind: type[CtllmError] = Unauthorized) -> Any:
        return self.failureResultOf(Deferred.fromCoroutine(self.verifier.verify(token)), kind).value


class VerifyTests(VerifierCase):
    def test_a_signed_token_grants_its_user_a_tier(self) -> None:
        grant = self.verified(sign(groups=["staff"]))
        self.assertEqual((grant.user.name, grant.tier), ("Ada", "gold"))

    def test_the_issuer_chooses_the_provider(self) -> None:
        grant = self.verified(sign(ec_key(), "ES256", iss=OTHER))
        self.assertEqual(grant.user.id, f"{OTHER}|auth0|ada")
        self.assertEqual((self.login.fetches, self.other.fetches), (0, 1))
        self.verified(sign(ec_key(), "ES256", iss=f"{OTHER}/"))

    def test_one_provider_does_not_speak_for_another(self) -> None:
        self.refused(sign(ec_key(), "ES256", groups=["staff"]))
        error = self.refused(sign(rsa_key(), iss=OTHER))
        self.assertIn("signature algorithm", error.message)

    def test_nothing_is_fetched_for_tokens_that_cannot_be_valid(self) -> None:
        for token in (
            sign(iss="https://stranger.example"),
            sign(iss=f"{ISSUER}/"),
            sign(iss="https://login.example/x"),
            sign(exp=int(NOW) - 31, iat=int(NOW) - 99),
            sign(aud="another"),
            sign(None, "RS512"),
            encode({"alg": "none"}, CLAIMS),
            "eyJ.x.y",
        ):
            self.refused(token)
        self.assertEqual((self.login.fetches, self.other.fetches), (0, 0))

    def test_the_group_is_checked_after_the_signature(self) -> None:
        """A forged token must not end the sessions of its user."""
        error = self.refused(sign(groups=[]), GroupNotAllowed)
        self.assertEqual(error.user.name, "Ada")
        self.refused(sign(rsa_key("forger"), groups=[]))

    def test_refuses_forged_tokens(self) -> None:
        public = rsa_key().public_key()
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        modulus = base64.urlsafe_b64decode(jwk(rsa_key())["n"] + "==")
        for secret in (pem, pem.strip(), modulus, b""):
            for algorithm in ("HS256", "RS256"):
                unsigned = encode({"alg": algorithm, "kid": "k1"}, CLAIMS).rpartition(".")[0]
                digest = hmac.digest(secret, unsigned.encode(), "sha256")
                self.refused(f"{unsigned}.{encode_base64url(digest)}")
        for algorithm in ("none", "None", "", "rs256"):
            for signature in (b"", b"x"):
                self.refused(encode({"alg": algorithm, "kid": "k1"}, CLAIMS, signature))
        signed, _, _ = sign().rpartition(".")
        self.refused(f"{signed}.")

    def test_keys_and_urls_in_the_header_are_ignored(self) -> None:
        forger = rsa_key("forger")
        for header in (
            {"jwk": jwk(forger)},
            {"jku": "https://evil.example/keys"},
            {"x5u": "https://evil.example/cert"},
            {"x5c": ["MIIB"]},
            {"kid": None, "jwk": jwk(forger)},
            {"kid": "../../../dev/null"},
        ):
            self.refused(sign(forger, header=header, groups=["staff"]))

    def test_a_token_without_a_key_id_is_valid_if_one_key_fits(self) -> None:
        token = sign(header={"kid": None}, groups=["staff"])
        self.verified(token)
        self.login.keys = key_set(jwk(rsa_key()), jwk(rsa_key("b"), kid="k2"))
        self.clock.advance(20)
        self.assertIn("which key", self.refused(token).message)
        self.login.keys = key_set(jwk(rsa_key()), jwk(ec_key(), kid="k2"))
        self.clock.advance(20)
        self.verified(token)

    def test_a_retired_key_is_not_valid_although_its_token_was(self) -> None:
        token = sign(groups=["staff"])
        self.verified(token)
        self.login.keys = key_set(jwk(rsa_key("new"), kid="k2"))
        self.clock.advance(20)
        self.refused(token)
        self.verified(sign(rsa_key("new"), header={"kid": "k2"}, groups=["staff"]))

    def test_a_provider_that_is_down_does_not_affect_the_other(self) -> None:
        self.login.keys = BadGateway("It is down.")
        self.refused(sign(groups=["staff"]), ServiceUnavailable)
        self.assertEqual(self.failed, ["login"])
        self.verified(sign(ec_key(), "ES256", iss=OTHER))

    def test_a_token_of_one_provider_is_none_of_another(self) -> None:
        token = sign(ec_key(), "ES256", iss=OTHER)
        self.successResultOf(Deferred.fromCoroutine(self.verifier.verify_as("other", token)))
        self.failureResultOf(
            Deferred.fromCoroutine(self.verifier.verify_as("login", token)), Unauthorized
        )

    def test_stopping_cancels_requests_to_providers(self) -> None:
        self.verifier.startService()
        self.verifier.stopService()
        self.refused(sign(groups=["staff"]), ServiceUnavailable)


class ImportTests(SynchronousTestCase):
    def test_a_cloud_without_providers_imports_no_pyjwt(self) -> None:
        code = (
            "import sys, ctllm.cloud.service, ctllm.cli, ctllm.tap\n"
            "print([name for name in sys.modules if name == 'jwt' or '.oidc.' in name])"
        )
        found = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        self.assertEqual(found.stdout.strip(), "[]")
