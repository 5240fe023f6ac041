"""When the bridge dials again: one desktop soon, a thousand not at once."""

from __future__ import annotations

import random
from collections import Counter

from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.reconnect_backoff import EAGER, LONGEST, LONGEST_ASKED, LONGEST_AWAITED, pause

BRIDGES = 1000


def dials(chance: random.Random, until: float) -> list[float]:
    """When one bridge dials a cloud that refuses it for so long, after a connection that worked."""
    at = pause(0, chance.random, False)
    found = [at]
    while at < until:
        at += pause(len(found), chance.random, False)
        found.append(at)
    return found


class PauseTests(SynchronousTestCase):
    """One bridge."""

    def test_the_range_of_each(self) -> None:
        """Soon at first, then rarer, never longer than half a minute, whatever chance says."""
        shortest = [pause(failures, lambda: 0.0, False) for failures in range(6)]
        longest = [pause(failures, lambda: 1.0, False) for failures in range(6)]
        self.assertEqual(shortest, [0.0] + [1.0] * 5)
        self.assertEqual(longest, [EAGER, 5.0, 15.0, LONGEST, LONGEST, LONGEST])
        self.assertEqual(pause(10**9, lambda: 1.0, False), LONGEST)

    def test_the_range_while_an_answer_is_awaited(self) -> None:
        """As soon at first, and not rarer later: the answer has only its grace time."""
        longest = [pause(failures, lambda: 1.0, True) for failures in range(4)]
        self.assertEqual(longest, [EAGER] + [LONGEST_AWAITED] * 3)


class HerdTests(SynchronousTestCase):
    """A thousand that lose the same cloud in the same moment, by the same seed each time."""

    def returns(self, away: float) -> list[float]:
        """For how long after the cloud's return each is still away."""
        chance = random.Random(3)
        return [dials(chance, away)[-1] - away for _ in range(BRIDGES)]

    def test_all_are_back_within_half_a_minute(self) -> None:
        """However long the cloud was away."""
        for away in (1.5, 5, 20, 120, 3600):
            self.assertLess(max(self.returns(away)), LONGEST, away)

    def test_none_of_them_is_a_herd(self) -> None:
        """In no second do more than three in ten come back; after an hour one in ten."""
        for away, most in ((1.5, 0.3), (5, 0.2), (20, 0.15), (120, 0.1), (3600, 0.1)):
            seconds = Counter(int(late) for late in self.returns(away))
            self.assertLess(max(seconds.values()), most * BRIDGES, away)

    def test_a_cloud_that_asks_to_wait_is_obeyed(self) -> None:
        """Those that it asked come spread over as long again; an absurd wish has a bound."""
        pauses = [pause(1, random.Random(seed).random, False, 60) for seed in range(100)]
        self.assertTrue(60 <= min(pauses) < 70 and 110 < max(pauses) <= 120)
        self.assertLessEqual(pause(9, lambda: 1.0, False, 10**8), 2 * LONGEST_ASKED)
        self.assertLessEqual(pause(1, lambda: 1.0, True, 60), LONGEST_AWAITED)
        self.assertGreater(pause(9, lambda: 1.0, False, 0), 20)

    def test_they_do_not_hammer_a_cloud_that_is_away(self) -> None:
        """While it is away for long, each dials about four times a minute."""
        chance = random.Random(3)
        counts = [len(dials(chance, 600.0)) for _ in range(100)]
        self.assertLess(sum(counts) / len(counts), 45)
