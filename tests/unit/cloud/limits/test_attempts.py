"""`ctllm.cloud.limits.attempts`: failed attempts of an address, and who still gets in."""

from __future__ import annotations

import contextlib

from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.limits.attempts import KNOWN_FOR, AttemptLimiter, is_costly
from ctllm.errors import RateLimited

OFFICE, OTHER = "198.51.100.7", "198.51.100.8"


class AttemptLimiterTests(SynchronousTestCase):
    """Five failures a minute."""

    def setUp(self) -> None:
        self.now = 0.0
        self.attempts = AttemptLimiter(5, 50, lambda: self.now)

    def fail_often(self, address: str = OFFICE) -> None:
        for _ in range(5):
            self.attempts.failed(address, is_login=True)

    def test_after_too_many_failures_an_unknown_credential_is_not_checked(self) -> None:
        self.fail_often()
        error = self.assertRaises(RateLimited, self.attempts.admit, OFFICE, "a.b.c", is_login=True)
        self.assertEqual((error.status, error.retry_after), (429, 12))
        self.assertRaises(RateLimited, self.attempts.failed, OFFICE, is_login=True)
        self.now += 12
        self.attempts.admit(OFFICE, "a.b.c", is_login=True)

    def test_a_credential_that_was_good_gets_in_beside_a_flood(self) -> None:
        self.attempts.succeeded("good.to.ken")
        self.fail_often()
        self.attempts.admit(OFFICE, "good.to.ken", is_login=True)
        self.now += KNOWN_FOR
        self.fail_often()
        self.assertRaises(RateLimited, self.attempts.admit, OFFICE, "good.to.ken", is_login=True)

    def test_a_credential_is_not_remembered_after_its_expiry(self) -> None:
        self.attempts.succeeded("good.to.ken", 60)
        self.fail_often()
        self.attempts.admit(OFFICE, "good.to.ken", is_login=True)
        self.now += 60
        self.fail_often()
        self.assertRaises(RateLimited, self.attempts.admit, OFFICE, "good.to.ken", is_login=True)

    def test_a_program_with_an_old_api_key_affects_nobody_else(self) -> None:
        for _ in range(5):
            self.attempts.failed(OFFICE, was_cheap=True, is_login=True)
        self.assertRaises(RateLimited, self.attempts.failed, OFFICE, was_cheap=True, is_login=True)
        self.attempts.admit(OFFICE, "a.b.c", is_login=True)
        self.fail_often()

    def test_a_request_counts_less_than_a_login(self) -> None:
        for _ in range(50):
            self.attempts.failed(OFFICE, is_login=False)
        self.assertRaises(RateLimited, self.attempts.failed, OFFICE, is_login=False)
        self.assertRaises(RateLimited, self.attempts.admit, OFFICE, "a.b.c", is_login=True)
        self.now += 1.2
        self.attempts.admit(OFFICE, "a.b.c", is_login=False)
        self.assertRaises(RateLimited, self.attempts.admit, OFFICE, "a.b.c", is_login=True)

    def test_other_addresses_are_not_affected(self) -> None:
        self.fail_often()
        self.attempts.admit(OTHER, "a.b.c", is_login=True)
        self.attempts.failed(OTHER, is_login=True)

    def test_an_ipv6_client_cannot_change_its_address_within_its_network(self) -> None:
        for each in range(5):
            self.attempts.failed(f"2001:db8:1:2::{each}", is_login=True)
        self.assertRaises(
            RateLimited, self.attempts.admit, "2001:db8:1:2:ffff::1", "a.b.c", is_login=True
        )
        self.attempts.admit("2001:db8:1:3::1", "a.b.c", is_login=True)

    def test_a_flood_locks_nobody_out_for_long_after_it_ends(self) -> None:
        for _ in range(10_000):
            self.now += 0.01
            with contextlib.suppress(RateLimited):
                self.attempts.failed(OFFICE, is_login=True)
        self.now += 12
        self.attempts.admit(OFFICE, "a.b.c", is_login=True)

    def test_zero_is_no_limit(self) -> None:
        attempts = AttemptLimiter(0, 0, lambda: 0.0)
        for _ in range(1000):
            attempts.failed(OFFICE, is_login=True)
        attempts.admit(OFFICE, "a.b.c", is_login=True)

    def test_the_number_of_known_credentials_is_bounded(self) -> None:
        attempts = AttemptLimiter(1, 1, lambda: 0.0, max_known=10)
        for each in range(11):
            attempts.succeeded(f"{each}")
        attempts.failed(OFFICE, is_login=True)
        self.assertRaises(RateLimited, attempts.admit, OFFICE, "0", is_login=True)
        attempts.admit(OFFICE, "10", is_login=True)

    def test_only_signed_tokens_are_costly(self) -> None:
        self.assertTrue(is_costly("eyJh.eyJp.c2ln"))
        for cheap in ("ollama", "ctllm-k-0123-abc", "", "sk.a.b.c"):
            self.assertFalse(is_costly(cheap))
