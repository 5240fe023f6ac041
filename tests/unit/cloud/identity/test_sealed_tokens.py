"""`ctllm.cloud.identity.sealed_tokens`: tokens of providers at rest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.identity.sealed_tokens import TokenSealer

SEALER = TokenSealer(bytes(range(32)))


class SealedTokenTests(SynchronousTestCase):
    @given(st.text(max_size=300), st.text(max_size=50))
    def test_a_sealed_token_is_opened_again(self, text: str, context: str) -> None:
        self.assertEqual(SEALER.unseal(SEALER.seal(text, context), context), text)

    def test_it_is_not_readable_and_never_the_same(self) -> None:
        first, second = SEALER.seal("refresh", "a"), SEALER.seal("refresh", "a")
        self.assertNotEqual(first, second)
        self.assertNotIn("refresh", first)

    def test_it_opens_with_no_other_key_and_for_no_other_session(self) -> None:
        sealed = SEALER.seal("refresh", "a")
        self.assertIsNone(TokenSealer(bytes(32)).unseal(sealed, "a"))
        self.assertIsNone(SEALER.unseal(sealed, "b"))

    def test_a_damaged_one_is_none(self) -> None:
        sealed = SEALER.seal("refresh", "a")
        for damaged in (
            "",
            "x",
            sealed[:-2],
            ("B" if sealed[0] == "A" else "A") + sealed[1:],
            "é",
            sealed + "==",
        ):
            self.assertIsNone(SEALER.unseal(damaged, "a"), damaged)
