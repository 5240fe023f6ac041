"""`ctllm.cloud.browser_login.transactions`: state, nonce and verifier of a login."""

from __future__ import annotations

from base64 import urlsafe_b64decode
from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.browser_login.transactions import (
    LIFETIME,
    LoginTransactions,
    is_browser_secret,
    new_browser_secret,
)

SECRET = bytes(range(32))


class TransactionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_700_000_000)
        self.transactions = LoginTransactions(SECRET, self.clock.seconds)
        self.browser = new_browser_secret()

    def test_a_callback_finds_its_transaction_once(self) -> None:
        begun = self.transactions.begin("corp.example", self.browser)
        self.assertEqual(self.transactions.finish(begun.state, self.browser), begun)
        self.assertEqual(begun.provider, "corp.example")
        self.assertIsNone(self.transactions.finish(begun.state, self.browser))

    def test_a_stolen_callback_is_of_no_use_in_another_browser(self) -> None:
        """And does not use it up."""
        begun = self.transactions.begin("corp", self.browser)
        for other in (new_browser_secret(), "", self.browser[:-1] + "\udcff"):
            self.assertIsNone(self.transactions.finish(begun.state, other))
        self.assertIsNotNone(self.transactions.finish(begun.state, self.browser))

    def test_a_transaction_expires(self) -> None:
        begun = self.transactions.begin("corp", self.browser)
        self.clock.advance(LIFETIME)
        self.assertIsNone(self.transactions.finish(begun.state, self.browser))

    def test_a_state_that_was_changed_anywhere_is_not_found(self) -> None:
        """Also with a later expiry, or with another provider."""
        state = self.transactions.begin("corp", self.browser).state
        for index, old in enumerate(state):
            changed = state[:index] + ("B" if old == "A" else "A") + state[index + 1 :]
            self.assertIsNone(self.transactions.finish(changed, self.browser), changed)
        self.assertIsNone(self.transactions.finish(state + "x", self.browser))

    def test_another_cloud_does_not_know_it(self) -> None:
        other = LoginTransactions(bytes(32), self.clock.seconds)
        state = other.begin("corp", self.browser).state
        self.assertIsNone(self.transactions.finish(state, self.browser))

    @given(st.text(max_size=60), st.text(max_size=60))
    def test_any_state_and_cookie_are_refused_without_an_error(
        self, state: str, browser: str
    ) -> None:
        transactions = LoginTransactions(SECRET, lambda: 0.0)
        self.assertIsNone(transactions.finish(state, browser))
        self.assertIsNone(transactions.finish(f"{state}.1.2.{state}", browser))

    def test_nothing_in_the_url_gives_away_the_rest(self) -> None:
        """All values differ, in each transaction; the challenge is the hash of the verifier."""
        begun = [self.transactions.begin("corp", self.browser) for _ in range(50)]
        values = [v for each in begun for v in (each.state[:43], each.nonce, each.verifier)]
        self.assertEqual(len(set(values)), 150)
        self.assertTrue(all(len(value) == 43 for value in values))
        digest = urlsafe_b64decode(begun[0].challenge + "=")
        self.assertEqual(digest, sha256(begun[0].verifier.encode()).digest())
        for secret in (begun[0].state, begun[0].nonce, begun[0].verifier):
            self.assertNotIn(secret, repr(begun[0]))

    def test_ten_thousand_begun_ones_neither_take_memory_nor_displace_another(self) -> None:
        first = self.transactions.begin("corp", self.browser)
        for _ in range(10_000):
            self.transactions.begin("corp", "x")
        self.assertEqual(len(self.transactions), 0)
        self.assertEqual(self.transactions.finish(first.state, self.browser), first)

    def test_used_ones_are_bounded(self) -> None:
        transactions = LoginTransactions(SECRET, self.clock.seconds, max_used=3)
        for _ in range(10):
            transactions.finish(transactions.begin("corp", self.browser).state, self.browser)
        self.assertEqual(len(transactions), 3)

    def test_a_browsers_secret_has_one_form(self) -> None:
        self.assertTrue(is_browser_secret(self.browser))
        for value in ("", "x", self.browser + "x", self.browser[:-1] + ";"):
            self.assertFalse(is_browser_secret(value))
