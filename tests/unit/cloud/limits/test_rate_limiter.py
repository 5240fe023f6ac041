"""`ctllm.cloud.limits.rate_limiter`: so many in a minute, and the wait is true."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.limits.rate_limiter import RateLimiter


class RateLimiterTests(SynchronousTestCase):
    """A limiter with a clock."""

    def setUp(self) -> None:
        self.now = 1000.0
        self.limiter = RateLimiter(lambda: self.now)

    def count_until_refused(self, key: str, per_minute: int) -> int:
        admitted = 0
        while not self.limiter.count(key, per_minute):
            admitted += 1
        return admitted

    def test_admits_the_whole_limit_at_once_and_then_evenly(self) -> None:
        self.assertEqual(self.count_until_refused("ann", 30), 30)
        self.assertEqual(self.limiter.wait("ann", 30), 2)
        for _ in range(100):
            self.now += 2
            self.assertEqual(self.count_until_refused("ann", 30), 1)

    def test_nobody_is_admitted_in_the_last_part_of_a_second_of_the_wait(self) -> None:
        self.count_until_refused("ann", 7)  # one more is free after 60 / 7 = 8.57 s
        self.now += 8.5
        self.assertEqual(self.limiter.count("ann", 7), 1)
        self.now += 0.1
        self.assertEqual(self.limiter.count("ann", 7), 0)

    def test_keys_do_not_affect_each_other(self) -> None:
        self.count_until_refused("ann", 5)
        self.assertEqual(self.limiter.wait("bob", 5), 0)

    def test_after_a_quiet_minute_the_whole_limit_is_free_again_and_not_more(self) -> None:
        self.count_until_refused("ann", 10)
        self.now += 600
        self.assertEqual(self.count_until_refused("ann", 10), 10)

    def test_zero_is_no_limit_and_takes_no_memory(self) -> None:
        self.assertEqual({self.limiter.count("ann", 0) for _ in range(10_000)}, {0})
        self.assertEqual(len(self.limiter), 0)

    def test_refusals_do_not_prolong_the_wait(self) -> None:
        self.count_until_refused("ann", 1)
        waits = []
        for _ in range(60):
            waits.append(self.limiter.count("ann", 1))
            self.now += 1
        self.assertEqual(waits, list(range(60, 0, -1)))
        self.assertEqual(self.limiter.count("ann", 1), 0)

    @given(
        st.integers(1, 10_000),
        st.lists(st.floats(0, 30), max_size=60),
        st.floats(0, 1e9),
    )
    def test_whoever_waits_as_long_as_told_is_admitted(
        self, per_minute: int, pauses: list[float], start: float
    ) -> None:
        self.now, limiter = start, RateLimiter(lambda: self.now)
        for pause in pauses:
            self.now += pause
            for _ in range(per_minute):
                wait = limiter.count("ann", per_minute)
                if wait:
                    self.assertLessEqual(wait, 60)
                    self.now += wait
                    self.assertEqual(limiter.count("ann", per_minute), 0)
                    break

    def test_memory_is_bounded_and_the_longest_unused_key_is_forgotten(self) -> None:
        limiter = RateLimiter(lambda: self.now, max_keys=100)
        for each in range(10_000):
            limiter.count(f"2001:db8::{each:x}", 1)
            limiter.count("busy", 1_000_000)
        self.assertEqual(len(limiter), 100)
        self.assertEqual(limiter.wait("2001:db8::0", 1), 0)
        self.assertEqual(limiter.wait("2001:db8::270f", 1), 60)

    def test_keys_that_are_free_again_take_no_memory(self) -> None:
        for each in range(1000):
            self.limiter.count(f"192.0.2.{each}", 60)  # free again after a second
            self.assertLessEqual(len(self.limiter), 11)
            self.now += 0.1
