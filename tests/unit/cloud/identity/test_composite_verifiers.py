"""`ctllm.cloud.identity.composite_verifiers`: several kinds of token, and cached grants."""

from __future__ import annotations

from ctllm.auth.jws import MAX_TOKEN_SIZE
from ctllm.cloud.identity import (
    AccessGrant,
    CachingTokenVerifier,
    CompositeTokenVerifier,
    User,
)
from ctllm.errors import Unauthorized
from tests.unit.cloud.identity.identity_case import (
    START,
    USE_SCOPES,
    VerifierCase,
)


class RecordingVerifier:
    """A TokenVerifier that matches a prefix and records the tokens that it verifies."""

    def __init__(self, prefix: str, expires: float) -> None:
        self.prefix = prefix
        self.expires = expires
        self.verified: list[str] = []
        self.is_refusing = False

    def matches(self, token: str) -> bool:
        return token.startswith(self.prefix)

    async def verify(self, token: str) -> AccessGrant:
        self.verified.append(token)
        if self.is_refusing:
            raise Unauthorized("No.")
        return AccessGrant(User("i", token, ""), USE_SCOPES, self.expires, START)


class CompositeTokenVerifierTests(VerifierCase):
    """Several kinds of token."""

    def setUp(self) -> None:
        super().setUp()
        self.a, self.b = RecordingVerifier("a", START + 10), RecordingVerifier("b", START + 10)
        self.verifier = CompositeTokenVerifier([self.a, self.b])

    def test_delegates_to_the_verifier_that_matches(self) -> None:
        self.assertEqual(self.grant_of(self.verifier.verify("b1")).user.subject, "b1")
        self.assertEqual((self.a.verified, self.b.verified), ([], ["b1"]))

    def test_refuses_an_unknown_kind_with_instructions(self) -> None:
        self.assertFalse(self.verifier.matches("c"))
        self.assertIn("Log in", self.assert_refused(self.verifier.verify("c")))
        self.assertIn("Log in", self.assert_refused(self.verifier.verify("")))

    def test_does_not_try_the_next_verifier_after_a_refusal(self) -> None:
        self.a.is_refusing = True
        directory = RecordingVerifier("a", START + 10)
        self.assert_refused(CompositeTokenVerifier([self.a, directory]).verify("a"))
        self.assertEqual(directory.verified, [])

    def test_refuses_a_token_over_the_size_limit(self) -> None:
        self.assert_refused(self.verifier.verify("a" * (MAX_TOKEN_SIZE + 1)))
        self.assertEqual(self.a.verified, [])


class CachingTokenVerifierTests(VerifierCase):
    """Cached grants."""

    def setUp(self) -> None:
        super().setUp()
        self.inner = RecordingVerifier("a", START + 10)
        self.verifier = CachingTokenVerifier(self.inner, self.now, max_grants=2)

    def test_verifies_each_token_once(self) -> None:
        for token in ("a1", "a1", "a2", "a1"):
            self.assertEqual(self.grant_of(self.verifier.verify(token)).user.subject, token)
        self.assertEqual(self.inner.verified, ["a1", "a2"])

    def test_a_grant_is_cached_until_it_expires(self) -> None:
        self.grant_of(self.verifier.verify("a1"))
        self.time = START + 10
        self.inner.is_refusing = True
        self.assert_refused(self.verifier.verify("a1"))

    def test_an_expired_grant_is_not_cached(self) -> None:
        self.inner.expires = START
        self.grant_of(self.verifier.verify("a1"))
        self.grant_of(self.verifier.verify("a1"))
        self.assertEqual(len(self.inner.verified), 2)

    def test_errors_are_not_cached(self) -> None:
        self.inner.is_refusing = True
        self.assert_refused(self.verifier.verify("a1"))
        self.inner.is_refusing = False
        self.grant_of(self.verifier.verify("a1"))

    def test_accepts_tokens_that_are_not_valid_unicode(self) -> None:
        self.inner.is_refusing = True
        self.assert_refused(self.verifier.verify("a\udcff"))
