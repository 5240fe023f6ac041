"""Flapping, damped; and which side gets a request."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.broker.flap_damping import FORGET, LONGEST, STEADY, Trust
from ctllm.desktop.broker.routing_policy import Preference, Side, choose, second


def rest(trust: Trust, now: float) -> float:
    """Seconds until it is trusted, if it stays as it is."""
    return next(later for later in range(1000) if trust.trusted(now + later))


class TrustTests(SynchronousTestCase):
    """Times are made up."""

    def setUp(self) -> None:
        self.trust = Trust()

    def test_at_first(self) -> None:
        """What never failed is trusted as soon as it is there."""
        self.assertFalse(self.trust.up)
        self.assertFalse(self.trust.trusted(100))
        self.trust.rose(100)
        self.assertTrue(self.trust.trusted(100))
        self.assertEqual(rest(self.trust, 100), 0)

    def test_after_a_fall(self) -> None:
        """It is up at once, and trusted after a while; being seen again changes nothing."""
        self.trust.rose(0)
        self.trust.fell(10)
        self.assertFalse(self.trust.up)
        self.assertFalse(self.trust.trusted(1000))
        self.trust.rose(20)
        self.trust.rose(23)
        self.assertTrue(self.trust.up)
        self.assertFalse(self.trust.trusted(20 + STEADY - 0.1))
        self.assertEqual(rest(self.trust, 21), STEADY - 1)
        self.assertTrue(self.trust.trusted(20 + STEADY))

    def test_flapping(self) -> None:
        """Each fall doubles the time, up to a limit; long peace forgets them."""
        self.trust.rose(0)
        now, waits = 0.0, []
        for _ in range(7):
            now += 20
            self.trust.fell(now)
            self.trust.rose(now)
            waits.append(rest(self.trust, now))
        self.assertEqual(waits, [5, 10, 20, 40, 80, LONGEST, LONGEST])
        now += FORGET
        self.trust.fell(now)
        self.trust.rose(now)
        self.assertEqual(rest(self.trust, now), STEADY)

    def test_one_trouble_seen_twice(self) -> None:
        """A request that failed, and the look that follows, are one fall."""
        self.trust.rose(0)
        self.trust.failed(10)
        self.assertTrue(self.trust.up)
        self.assertFalse(self.trust.trusted(10))
        self.trust.fell(11)
        self.trust.rose(12)
        self.assertEqual(rest(self.trust, 12), STEADY)

    def test_a_failure_while_it_is_down(self) -> None:
        """It is known already."""
        self.trust.failed(1)
        self.trust.rose(2)
        self.assertTrue(self.trust.trusted(2))


def sides(local: str, cloud: str) -> dict[Side, Trust]:
    """Both, at the time 100: up, shaky (up and not trusted) or down."""
    found = {}
    for side, state in ((Side.LOCAL, local), (Side.CLOUD, cloud)):
        found[side] = trust = Trust()
        if state != "down":
            trust.rose(0)
        if state == "shaky":
            trust.failed(99)
    return found


class ChoiceTests(SynchronousTestCase):
    """The whole table of preferences."""

    def chosen(self, preference: Preference, only_elsewhere: bool = False) -> dict[str, str]:
        """By the states of here and elsewhere, the first letter of who is asked first."""
        states = ("up", "shaky", "down")
        return {
            f"{local} {cloud}": choose(preference, sides(local, cloud), only_elsewhere, 100)[0]
            for local in states
            for cloud in states
        }

    def test_local_first(self) -> None:
        expected = {
            "up up": "l", "up shaky": "l", "up down": "l",
            "shaky up": "c", "shaky shaky": "l", "shaky down": "l",
            "down up": "c", "down shaky": "c", "down down": "l",
        }  # fmt: skip
        self.assertEqual(self.chosen(Preference.AUTO), expected)
        self.assertEqual(self.chosen(Preference.LOCAL), expected)
        self.assertEqual(self.chosen(Preference.LOCAL, True), expected)

    def test_cloud_first(self) -> None:
        expected = {
            "up up": "c", "up shaky": "l", "up down": "l",
            "shaky up": "c", "shaky shaky": "c", "shaky down": "l",
            "down up": "c", "down shaky": "c", "down down": "c",
        }  # fmt: skip
        self.assertEqual(self.chosen(Preference.CLOUD), expected)
        self.assertEqual(self.chosen(Preference.CLOUD, True), expected)

    def test_never(self) -> None:
        self.assertEqual(set(self.chosen(Preference.NEVER).values()), {"l"})
        self.assertEqual(set(self.chosen(Preference.NEVER, True).values()), {"l"})

    def test_a_model_that_is_only_elsewhere(self) -> None:
        """AUTO goes where the model is, if anybody is there."""
        found = self.chosen(Preference.AUTO, True)
        self.assertEqual({state for state, side in found.items() if side == "l"},
                         {"up down", "shaky down", "down down"})  # fmt: skip

    def test_second(self) -> None:
        """The other side, where it is up; never, where that was said."""
        up = sides("up", "up")
        for preference in (Preference.AUTO, Preference.LOCAL, Preference.CLOUD):
            self.assertEqual(second(preference, up, Side.LOCAL), Side.CLOUD)
            self.assertEqual(second(preference, up, Side.CLOUD), Side.LOCAL)
            self.assertIsNone(second(preference, sides("up", "down"), Side.LOCAL))
            self.assertIsNone(second(preference, sides("down", "up"), Side.CLOUD))
        self.assertIsNone(second(Preference.NEVER, up, Side.LOCAL))
