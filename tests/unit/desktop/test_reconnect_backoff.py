"""When the bridge dials again: one desktop soon, a thousand not at once."""

from __future__ import annotations

import random
from collections import Counter

from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.reconnect_backoff import (
    MAX_DELAY,
    MAX_DELAY_WITH_REQUESTS,
    MAX_FIRST_DELAY,
    MAX_RETRY_AFTER,
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


class PauseTests(SynchronousTestCase):
    """One bridge."""

    def test_the_range_of_each(self) -> None:
        """Soon at first, then rarer, never longer than half a minute, whatever chance says."""
        shortest = [reconnect_delay(failures, lambda: 0.0, False) for failures in range(6)]
        longest = [reconnect_delay(failures, lambda: 1.0, False) for failures in range(6)]
        self.assertEqual(shortest, [0.0] + [1.0] * 5)
        self.assertEqual(longest, [MAX_FIRST_DELAY, 5.0, 15.0, MAX_DELAY, MAX_DELAY, MAX_DELAY])
        self.assertEqual(reconnect_delay(10**9, lambda: 1.0, False), MAX_DELAY)

    def test_the_range_while_an_answer_is_awaited(self) -> None:
        """As soon at first, and not rarer later: the answer has only its grace time."""
        longest = [reconnect_delay(failures, lambda: 1.0, True) for failures in range(4)]
        self.assertEqual(longest, [MAX_FIRST_DELAY] + [MAX_DELAY_WITH_REQUESTS] * 3)


class HerdTests(SynchronousTestCase):
    """A thousand that lose the same cloud in the same moment, by the same seed each time."""

    def returns(self, away: float) -> list[float]:
        """For how long after the cloud's return each is still away."""
        chance = random.Random(3)
        return [dials(chance, away)[-1] - away for _ in range(BRIDGES)]

    def test_all_are_back_within_half_a_minute(self) -> None:
        """However long the cloud was away."""
        for away in (1.5, 5, 20, 120, 3600):
            self.assertLess(max(self.returns(away)), MAX_DELAY, away)

    def test_none_of_them_is_a_herd(self) -> None:
        """In no second do more than three in ten come back; after an hour one in ten."""
        for away, most in ((1.5, 0.3), (5, 0.2), (20, 0.15), (120, 0.1), (3600, 0.1)):
            seconds = Counter(int(late) for late in self.returns(away))
            self.assertLess(max(seconds.values()), most * BRIDGES, away)

    def test_a_cloud_that_asks_to_wait_is_obeyed(self) -> None:
        """Those that it asked come spread over as long again; an absurd wish has a bound."""
        pauses = [reconnect_delay(1, random.Random(seed).random, False, 60) for seed in range(100)]
        self.assertTrue(60 <= min(pauses) < 70 and 110 < max(pauses) <= 120)
        self.assertLessEqual(reconnect_delay(9, lambda: 1.0, False, 10**8), 2 * MAX_RETRY_AFTER)
        self.assertLessEqual(reconnect_delay(1, lambda: 1.0, True, 60), MAX_DELAY_WITH_REQUESTS)
        self.assertGreater(reconnect_delay(9, lambda: 1.0, False, 0), 20)

    def test_they_do_not_hammer_a_cloud_that_is_away(self) -> None:
        """While it is away for long, each dials about four times a minute."""
        chance = random.Random(3)
        counts = [len(dials(chance, 600.0)) for _ in range(100)]
        self.assertLess(sum(counts) / len(counts), 45)
