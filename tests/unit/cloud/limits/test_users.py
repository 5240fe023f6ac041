"""`ctllm.cloud.limits.users`: the limits of users, by their tier, and of their keys."""

from __future__ import annotations

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.identity import ISSUER, USE, AccessGrant, User
from ctllm.cloud.limits.concurrency import MAX_TUNNELS_PER_USER, UserLimiter
from ctllm.cloud.limits.users import CREDENTIALS_PER_MINUTE, Tiers, UserLimits
from ctllm.config import Tier
from ctllm.errors import RateLimited, TooManyRequests

ANN = AccessGrant(User(ISSUER, "ann", "ann"), frozenset({USE}), 1e9, 0.0)
FREE = replace(ANN, tier="free")
KEY = replace(ANN, credential_id="key:1", requests_per_minute=2)
TIERS = Tiers(
    {"free": Tier(requests_per_minute=3, max_requests=2), "paid": Tier(max_desktops=2)},
    requests_per_minute=10,
)


class UserLimitsTests(SynchronousTestCase):
    """A cloud with two tiers."""

    def setUp(self) -> None:
        self.now = 0.0
        self.limits = UserLimits(TIERS, UserLimiter(5), lambda: self.now)

    def count_admitted(self, grant: AccessGrant, user: str = "ann") -> int:
        """Return how many requests are admitted, one after the other."""
        for admitted in range(100):
            try:
                self.limits.admit_request(user, grant)()
            except RateLimited:
                return admitted
        return -1

    def test_a_user_has_the_limit_of_the_tier_or_of_the_cloud(self) -> None:
        self.assertEqual(self.count_admitted(ANN), 10)
        self.assertEqual(self.count_admitted(FREE, "bob"), 3)
        self.assertEqual(self.count_admitted(replace(ANN, tier="paid"), "carol"), 10)
        self.assertEqual(self.count_admitted(replace(ANN, tier="removed"), "dave"), 10)

    def test_the_credentials_of_a_user_share_their_limit(self) -> None:
        self.assertEqual(self.count_admitted(replace(ANN, session_ids=("a",))), 10)
        self.assertEqual(self.count_admitted(replace(ANN, credential_id="key:2")), 0)

    def test_a_key_has_its_own_limit_besides_that_of_its_user(self) -> None:
        self.assertEqual(self.count_admitted(KEY), 2)
        error = self.assertRaises(RateLimited, self.limits.admit_request, "ann", KEY)
        self.assertEqual(error.retry_after, 30)
        self.assertIn("This API key", error.message)
        self.assertEqual(self.count_admitted(ANN), 8, "The key's refusals count for nobody.")
        self.now += 60
        self.assertEqual(self.count_admitted(ANN), 10)
        self.assertEqual(self.count_admitted(KEY), 0)
        self.now += 6
        self.assertEqual(self.count_admitted(KEY), 1, "The user's refusals do not use up the key.")

    def test_keys_with_one_id_of_two_users_are_two_keys(self) -> None:
        self.assertEqual(self.count_admitted(KEY), 2)
        self.assertEqual(self.count_admitted(KEY, "bob"), 2)

    def test_a_tier_lowers_the_number_of_concurrent_requests_and_cannot_raise_it(self) -> None:
        for _ in range(2):
            self.limits.admit_request("bob", FREE)
        error = self.assertRaises(TooManyRequests, self.limits.admit_request, "bob", FREE)
        self.assertNotIsInstance(error, RateLimited)
        limits = UserLimits(Tiers({"free": Tier(max_requests=99)}, 0), UserLimiter(5), lambda: 0.0)
        for _ in range(5):
            limits.admit_request("bob", FREE)
        self.assertRaises(TooManyRequests, limits.admit_request, "bob", FREE)

    def test_a_request_that_is_refused_for_its_rate_is_not_in_progress(self) -> None:
        self.assertEqual(self.count_admitted(FREE), 3)
        for _ in range(10):
            self.assertRaises(RateLimited, self.limits.admit_request, "ann", FREE)

    def test_a_tier_of_few_requests_does_not_disconnect_desktops_or_the_page(self) -> None:
        self.assertEqual(self.count_admitted(FREE), 3)
        self.limits.admit_tunnel("ann", FREE)
        self.limits.admit_own_request("ann", FREE)()
        self.limits.admit_renewal("ann")

    def test_a_tunnel_counts_as_a_request_until_it_is_closed(self) -> None:
        limits = UserLimits(TIERS, UserLimiter(1), lambda: 0.0)
        release = limits.admit_tunnel("ann", ANN)
        self.assertRaises(TooManyRequests, limits.admit_request, "ann", ANN)
        release()
        limits.admit_request("ann", ANN)
        self.assertRaises(TooManyRequests, limits.admit_tunnel, "ann", ANN)
        many = UserLimits(TIERS, UserLimiter(1000), lambda: 0.0)
        for _ in range(MAX_TUNNELS_PER_USER):
            many.admit_tunnel("ann", ANN)
        self.assertRaises(TooManyRequests, many.admit_tunnel, "ann", ANN)

    def test_sessions_without_end_are_refused(self) -> None:
        for _ in range(CREDENTIALS_PER_MINUTE):
            self.limits.admit_credential("ann")
        error = self.assertRaises(RateLimited, self.limits.admit_credential, "ann")
        self.assertEqual(error.retry_after, 1)
        self.limits.admit_credential("bob")
        self.limits.admit_renewal("ann")

    def test_renewals_without_end_are_refused(self) -> None:
        def renew() -> None:
            for _ in range(100_000):
                self.limits.admit_renewal("ann")

        self.assertRaises(RateLimited, renew)
