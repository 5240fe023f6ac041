"""`ctllm.cloud.identity.access_token_issuer`: issuing and verifying access tokens."""

from __future__ import annotations

import json
import time

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ctllm.auth.jws import MAX_TOKEN_SIZE
from ctllm.cloud.identity import (
    AccessGrant,
    AccessTokenIssuer,
    AssertionSigner,
    User,
)
from ctllm.cloud.identity.access_token_issuer import ACCESS_TOKEN
from tests.unit.cloud.identity.identity_case import (
    ALICE,
    START,
    USE_SCOPES,
    VerifierCase,
)


class AccessTokenIssuerTests(VerifierCase):
    """Access tokens."""

    def setUp(self) -> None:
        super().setUp()
        self.key = Ed25519PrivateKey.generate()
        self.issuer = AccessTokenIssuer(self.key, self.now)

    def claims(self, **changes: object) -> dict[str, object]:
        claims: dict[str, object] = {
            "iss": "ctllm",
            "aud": "ctllm-cloud",
            "sub": "alice",
            "name": "alice",
            "scope": "use",
            "iat": int(START),
            "exp": int(START) + 600,
            "jti": "1",
        }
        claims.update(changes)
        return {name: value for name, value in claims.items() if value is not None}

    def signed(self, **changes: object) -> str:
        return ACCESS_TOKEN.sign(self.key, json.dumps(self.claims(**changes)).encode())

    def test_verifies_what_it_issued(self) -> None:
        token = self.issuer.issue(ALICE, frozenset({"use", "manage"}))
        self.assertTrue(self.issuer.matches(token))
        grant = self.grant_of(self.issuer.verify(token))
        self.assertEqual(
            grant, AccessGrant(ALICE, frozenset({"use", "manage"}), START + 600, START)
        )

    def test_tokens_are_jwts_that_pyjwt_verifies(self) -> None:
        self.time = time.time()
        token = self.issuer.issue(ALICE, USE_SCOPES)
        public = self.key.public_key()
        read = jwt.decode(token, public, algorithms=["EdDSA"], audience="ctllm-cloud")
        self.assertEqual((read["sub"], read["name"], read["scope"]), ("alice", "alice", "use"))

    def test_tokens_are_unique(self) -> None:
        self.assertNotEqual(
            self.issuer.issue(ALICE, USE_SCOPES), self.issuer.issue(ALICE, USE_SCOPES)
        )

    def test_a_providers_user_keeps_issuer_and_tier_and_is_no_built_in_user(self) -> None:
        for user in (User("https://i/", "alice", "alice"), User("https://i/", "a|b", "Älice")):
            token = self.issuer.issue(user, USE_SCOPES, tier="gold")
            grant = self.grant_of(self.issuer.verify(token))
            self.assertEqual((grant.user, grant.tier), (user, "gold"))
            self.assertNotEqual(grant.user.id, ALICE.id)

    def test_refuses_a_subject_issuer_that_could_pass_for_another(self) -> None:
        """No two forms of one user, and no issuer that moves the bar in a user's id."""
        self.grant_of(self.issuer.verify(self.signed(sub_iss="https://i/")))
        for issuer in ("ctllm", "https://i/|a", "|"):
            self.assert_refused(self.issuer.verify(self.signed(sub_iss=issuer)))

    def test_refuses_unknown_scopes(self) -> None:
        self.assertRaises(ValueError, self.issuer.issue, ALICE, frozenset({"root"}))

    def test_refuses_wrong_missing_and_additional_claims(self) -> None:
        self.grant_of(self.issuer.verify(self.signed()))
        for changes in (
            {"iss": "other"},
            {"aud": "ctllm-proxy-1"},
            {"aud": ["ctllm-cloud"]},
            {"sub": ""},
            {"sub": None},
            {"scope": "use root"},
            {"exp": None},
            {"iat": None},
            {"jti": None},
            {"exp": "9999999999"},
            {"admin": True},
        ):
            self.assert_refused(self.issuer.verify(self.signed(**changes)))

    def test_refuses_expired_and_future_tokens(self) -> None:
        """With a leeway of 5 and 30 seconds."""
        token = self.issuer.issue(ALICE, USE_SCOPES)
        self.time = START + 604
        self.grant_of(self.issuer.verify(token))
        self.time = START + 605
        self.assertIn("expired", self.assert_refused(self.issuer.verify(token)))
        self.time = START - 30
        self.grant_of(self.issuer.verify(token))
        self.time = START - 31
        self.assertIn("clocks", self.assert_refused(self.issuer.verify(token)))

    def test_refuses_tokens_with_a_wrong_signature_or_type(self) -> None:
        public = self.key.public_key().public_bytes_raw()
        typ = {"typ": "ctllm-access+jwt"}
        for forged in (
            jwt.encode(self.claims(), "", algorithm="none", headers=typ),
            jwt.encode(self.claims(), public, algorithm="HS256", headers=typ),
            jwt.encode(self.claims(), Ed25519PrivateKey.generate(), "EdDSA", headers=typ),
            jwt.encode(self.claims(), self.key, "EdDSA"),
            self.signed().rpartition(".")[0] + ".",
            self.signed()[:-1],
            "",
        ):
            self.assert_refused(self.issuer.verify(forged))

    def test_verifies_a_token_signed_by_pyjwt(self) -> None:
        """So the forgeries of the test above fail for the right reason."""
        typ = {"typ": "ctllm-access+jwt"}
        self.grant_of(self.issuer.verify(jwt.encode(self.claims(), self.key, "EdDSA", headers=typ)))

    def test_refuses_a_session_assertion(self) -> None:
        assertion = AssertionSigner(self.key, self.now).sign("ctllm-proxy-1", USE_SCOPES)
        self.assertFalse(self.issuer.matches(assertion))
        self.assert_refused(self.issuer.verify(assertion))

    def test_refuses_a_token_over_the_size_limit(self) -> None:
        giant = self.signed(name="a" * MAX_TOKEN_SIZE)
        self.assertIn("longer than", self.assert_refused(self.issuer.verify(giant)))
