"""The delays before the bridge reconnects: short for one desktop, spread for a thousand."""

from __future__ import annotations

import random
from collections import Counter

from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.reconnect_backoff import (
    MAX_DELAY,
    MAX_DELAY_WITH_REQUESTS,
    MAX_FIRST_DELAY,
    MAX_RETRY_AFTER,
    MAX_RETRY_AFTER_SPREAD,
    reconnect_delay,
)

BRIDGES = 1000


def dials(chance: random.Random, until: float) -> list[float]:
    """When one bridge dials a cloud that refuses it for so long, after a connection that worked."""
    at = reconnect_delay(0, chance.random, False)
    found = [at]
    while at < until:
        at += reconnect_delay(len(found), chance.random, False)
        found.append(at)
    return found


class ReconnectDelayTests(SynchronousTestCase):
    def test_delays_grow_to_the_maximum(self) -> None:
        shortest = [reconnect_delay(failures, lambda: 0.0, False) for failures in range(6)]
        longest = [reconnect_delay(failures, lambda: 1.0, False) for failures in range(6)]
        self.assertEqual(shortest, [0.0] + [1.0] * 5)
        self.assertEqual(longest, [MAX_FIRST_DELAY, 5.0, 15.0, MAX_DELAY, MAX_DELAY, MAX_DELAY])
        self.assertEqual(reconnect_delay(10**9, lambda: 1.0, False), MAX_DELAY)

    def test_delays_stay_short_with_requests_in_progress(self) -> None:
        longest = [reconnect_delay(failures, lambda: 1.0, True) for failures in range(4)]
        self.assertEqual(longest, [MAX_FIRST_DELAY] + [MAX_DELAY_WITH_REQUESTS] * 3)


class ThousandBridgesTests(SynchronousTestCase):
    """A thousand bridges that lose the same cloud at the same time; the seed is fixed."""

    def returns(self, away: float) -> list[float]:
        """For how long after the cloud's return each is still away."""
        chance = random.Random(3)
        return [dials(chance, away)[-1] - away for _ in range(BRIDGES)]

    def test_all_reconnect_within_half_a_minute(self) -> None:
        for away in (1.5, 5, 20, 120, 3600):
            self.assertLess(max(self.returns(away)), MAX_DELAY, away)

    def test_reconnects_are_spread(self) -> None:
        for away, most in ((1.5, 0.3), (5, 0.2), (20, 0.15), (120, 0.1), (3600, 0.1)):
            seconds = Counter(int(late) for late in self.returns(away))
            self.assertLess(max(seconds.values()), most * BRIDGES, away)

    def test_obeys_retry_after_up_to_a_limit(self) -> None:
        pauses = [reconnect_delay(1, random.Random(seed).random, False, 60) for seed in range(100)]
        self.assertTrue(60 <= min(pauses) < 62 and 68 < max(pauses) <= 70)
        latest = MAX_RETRY_AFTER + MAX_RETRY_AFTER_SPREAD
        self.assertLessEqual(reconnect_delay(9, lambda: 1.0, False, 10**8), latest)
        self.assertLessEqual(reconnect_delay(1, lambda: 1.0, True, 60), MAX_DELAY_WITH_REQUESTS)
        self.assertGreater(reconnect_delay(9, lambda: 1.0, False, 0), 20)

    def test_comes_back_when_the_cloud_says_also_after_many_refusals(self) -> None:
        """Its proxy runs by then; a delay that grows would have its user wait for it."""
        self.assertEqual(reconnect_delay(9, lambda: 1.0, False, 8), 16.0)
        self.assertEqual(reconnect_delay(9, lambda: 1.0, False, 1), MAX_DELAY_WITH_REQUESTS)

    def test_attempts_are_rare_while_the_cloud_is_away(self) -> None:
        chance = random.Random(3)
        counts = [len(dials(chance, 600.0)) for _ in range(100)]
        self.assertLess(sum(counts) / len(counts), 45)
