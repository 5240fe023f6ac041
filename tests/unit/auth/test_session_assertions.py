"""The session assertion: a proxy believes what the cloud signed for it, and nothing else."""

from __future__ import annotations

import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.trial.unittest import SynchronousTestCase

from ctllm.auth import jws
from ctllm.auth.session_assertions import ASSERTION, LIFETIME_SECONDS, AssertionVerifier
from ctllm.cloud.identity import AccessTokenIssuer, AssertionSigner, User
from ctllm.errors import BadConfiguration, Forbidden, Unauthorized

PROXY = "ctllm-proxy-0123456789abcdef0123456789abcdef"
USE = frozenset({"use"})
START = 1_000_000.0


def body(**changes: object) -> dict[str, object]:
    """Give the claims of a good assertion made at START, with `changes`; None leaves one out."""
    claims: dict[str, object] = {
        "iss": "ctllm",
        "sub": "0123456789abcdef0123456789abcdef",
        "aud": PROXY,
        "scope": "use",
        "iat": int(START),
        "exp": int(START) + LIFETIME_SECONDS,
    }
    claims.update(changes)
    return {name: value for name, value in claims.items() if value is not None}


class Case(SynchronousTestCase):
    """A cloud's key, a proxy that trusts it, and a clock that both look at."""

    def setUp(self) -> None:
        self.time = START
        self.key = Ed25519PrivateKey.generate()
        self.assertions = AssertionSigner(self.key, self.now)
        self.verifier = AssertionVerifier(jws.encode_public_key(self.key), PROXY, self.now)

    def now(self) -> float:
        return self.time

    def signed(self, **changes: object) -> str:
        return ASSERTION.sign(self.key, json.dumps(body(**changes)).encode())

    def refused(self, token: str | bytes) -> str:
        return self.assertRaises(Unauthorized, self.verifier.verify, token).message


class AssertionVerifierTests(Case):
    """Verification by a proxy."""

    def test_returns_the_claims_of_a_valid_assertion(self) -> None:
        claims = self.verifier.verify(self.assertions.sign(PROXY, USE))
        self.assertEqual(claims.subject, PROXY.removeprefix("ctllm-proxy-"))
        self.assertEqual(claims.scopes, USE)
        self.assertEqual(claims.expires, START + LIFETIME_SECONDS)

    def test_accepts_text_and_bytes(self) -> None:
        token = self.assertions.sign(PROXY, USE)
        self.assertEqual(self.verifier.verify(token), self.verifier.verify(token.encode()))

    def test_returns_serve_only_if_granted(self) -> None:
        token = self.assertions.sign(PROXY, frozenset({"use", "serve", "manage"}))
        self.assertEqual(self.verifier.verify(token).scopes, {"use", "serve"})

    def test_returns_the_models_that_the_client_may_use(self) -> None:
        restricted = self.assertions.sign(PROXY, USE, ("llama*", "qwen3"))
        self.assertEqual(self.verifier.verify(restricted).models, ("llama*", "qwen3"))
        self.assertEqual(self.verifier.verify(self.assertions.sign(PROXY, USE)).models, ())

    def test_an_assertion_without_a_restriction_is_as_before(self) -> None:
        """A proxy of an earlier version, which may outlive an upgrade, accepts it."""
        claims = jwt.decode(self.assertions.sign(PROXY, USE), options={"verify_signature": False})
        self.assertEqual(claims, body())

    def test_accepts_the_body_that_other_tests_change(self) -> None:
        self.verifier.verify(self.signed())

    def test_refuses_invalid_claims(self) -> None:
        for changes in (
            {"iss": "other"},
            {"aud": PROXY + "0"},
            {"aud": [PROXY]},
            {"aud": None},
            {"scope": "serve"},
            {"scope": "manage"},
            {"scope": "use manage serve"},
            {"scope": "serve use"},
            {"exp": None},
            {"iat": None},
            {"exp": str(int(START) + LIFETIME_SECONDS)},
            {"admin": True},
            {"models": "llama3"},
            {"models": ["a b"]},
            {"models": ["a,b"]},
            {"models": ["a"] * 17},
        ):
            self.refused(self.signed(**changes))

    def test_refuses_an_expired_assertion_after_the_leeway(self) -> None:
        token = self.signed()
        self.time = START + LIFETIME_SECONDS + 4
        self.verifier.verify(token)
        self.time = START + LIFETIME_SECONDS + 5
        self.assertIn("expired", self.refused(token))

    def test_cached_assertion_expires(self) -> None:
        token = self.signed()
        self.verifier.verify(token)
        self.time = START + LIFETIME_SECONDS + 5
        self.assertIn("expired", self.refused(token))

    def test_accepts_a_slow_clock_within_the_leeway(self) -> None:
        self.verifier.verify(self.signed(iat=int(START) + 30))
        self.assertIn("clocks", self.refused(self.signed(iat=int(START) + 31)))

    def test_refuses_times_that_are_no_finite_numbers(self) -> None:
        for far in ({"exp": 2**53 + 1}, {"exp": 10**400}, {"iat": 10**400}):
            self.refused(self.signed(**far))

    def test_refuses_an_unsigned_token(self) -> None:
        for typ in ("JWT", "ctllm-assertion+jwt"):
            no_key: Any = None
            forged = jwt.encode(body(), no_key, algorithm="none", headers={"typ": typ})
            self.refused(forged)

    def test_refuses_a_mac_with_the_public_key(self) -> None:
        public = self.key.public_key().public_bytes_raw()
        for secret in (public, jws.encode_base64url(public).encode()):
            headers = {"typ": "ctllm-assertion+jwt"}
            self.refused(jwt.encode(body(), secret, algorithm="HS256", headers=headers))

    def test_refuses_a_missing_or_random_signature(self) -> None:
        signed = self.signed().rpartition(".")[0]
        for signature in (
            "",
            "AA",
            jws.encode_base64url(bytes(64)),
            jws.encode_base64url(bytes(65)),
        ):
            self.refused(f"{signed}.{signature}")
        self.refused(signed)

    def test_refuses_another_key(self) -> None:
        stranger = Ed25519PrivateKey.generate()
        self.refused(AssertionSigner(stranger, self.now).sign(PROXY, USE))

    def test_refuses_another_header(self) -> None:
        for headers in ({"typ": "JWT"}, {"typ": "ctllm-assertion+jwt", "kid": "1"}):
            self.refused(jwt.encode(body(), self.key, algorithm="EdDSA", headers=headers))

    def test_refuses_an_access_token(self) -> None:
        user = User("ctllm", "alice", "alice")
        self.refused(AccessTokenIssuer(self.key, self.now).issue(user, USE))

    def test_refuses_truncated_and_modified_tokens(self) -> None:
        token = self.signed()
        for cut in range(len(token)):
            self.refused(token[:cut])
            other = "B" if token[cut] != "B" else "C"
            self.refused(token[:cut] + other + token[cut + 1 :])

    def test_refuses_noncanonical_base64url(self) -> None:
        token = self.signed()
        spare = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        last = spare[spare.index(token[-1]) + 1]
        for spelling in (token + "=", token + "==", token + "\n", token[:-1] + "!" + token[-1]):
            self.refused(spelling)
        self.refused(token[:-1] + last)

    def test_refuses_invalid_characters(self) -> None:
        for token in (b"\xff\xfe", b"", b"..", "\udcff", "é.é.é", "a.b.c", "\x00" * 10):
            self.refused(token)

    def test_refuses_a_token_over_the_size_limit(self) -> None:
        self.assertIn("longer than", self.refused(self.signed() + "A" * jws.MAX_TOKEN_SIZE))
        self.assertIn("longer than", self.refused(self.signed(scope="u" * jws.MAX_TOKEN_SIZE)))

    def test_raises_bad_configuration_for_an_invalid_key(self) -> None:
        for text in ("", "AA", "!" * 43, jws.encode_base64url(bytes(33)), "é" * 43):
            error = self.assertRaises(BadConfiguration, AssertionVerifier, text, PROXY, self.now)
            self.assertIn("public key", error.message)


class AssertionSignerTests(Case):
    """Signing by the cloud."""

    def test_another_jwt_library_verifies_it(self) -> None:
        self.time = time.time()
        token = self.assertions.sign(PROXY, USE)
        claims = jwt.decode(token, self.key.public_key(), algorithms=["EdDSA"], audience=PROXY)
        self.assertEqual(claims, body(iat=int(self.time), exp=int(self.time) + LIFETIME_SECONDS))
        self.assertEqual(jwt.get_unverified_header(token)["typ"], "ctllm-assertion+jwt")

    def test_reuses_an_assertion_for_half_its_lifetime(self) -> None:
        first = self.assertions.sign(PROXY, USE)
        self.time = START + LIFETIME_SECONDS / 2 - 1
        self.assertEqual(self.assertions.sign(PROXY, USE), first)
        self.time = START + LIFETIME_SECONDS / 2
        self.assertEqual(
            self.verifier.verify(self.assertions.sign(PROXY, USE)).expires,
            self.time + LIFETIME_SECONDS,
        )

    def test_signs_separately_for_each_restriction(self) -> None:
        tokens = {
            self.assertions.sign(PROXY, USE, models) for models in ((), ("a",), ("b",), ("a",))
        }
        self.assertEqual(len(tokens), 3)

    def test_signs_separately_for_each_proxy_and_scope(self) -> None:
        made = {
            self.assertions.sign(proxy, scopes)
            for proxy in (PROXY, PROXY[:-1] + "0")
            for scopes in (USE, frozenset({"use", "serve"}))
        }
        self.assertEqual(len(made), 4)

    def test_refuses_a_grant_without_the_scope_use(self) -> None:
        self.assertRaises(Forbidden, self.assertions.sign, PROXY, frozenset({"serve"}))
