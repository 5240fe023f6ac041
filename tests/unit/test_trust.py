"""Flapping, damped; and which side gets a request."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.broker.flap_damping import MAX_PENALTY, MIN_PENALTY, RESET_AFTER, FlapDamper
from ctllm.desktop.broker.routing_policy import Route, RoutingPolicy, choose_route, failover_route


def rest(trust: FlapDamper, now: float) -> float:
    """Seconds until it is trusted, if it stays as it is."""
    return next(later for later in range(1000) if trust.is_stable(now + later))


class TrustTests(SynchronousTestCase):
    """Times are made up."""

    def setUp(self) -> None:
        self.trust = FlapDamper()

    def test_at_first(self) -> None:
        """What never failed is trusted as soon as it is there."""
        self.assertFalse(self.trust.is_up)
        self.assertFalse(self.trust.is_stable(100))
        self.trust.mark_up(100)
        self.assertTrue(self.trust.is_stable(100))
        self.assertEqual(rest(self.trust, 100), 0)

    def test_after_a_fall(self) -> None:
        """It is up at once, and trusted after a while; being seen again changes nothing."""
        self.trust.mark_up(0)
        self.trust.mark_down(10)
        self.assertFalse(self.trust.is_up)
        self.assertFalse(self.trust.is_stable(1000))
        self.trust.mark_up(20)
        self.trust.mark_up(23)
        self.assertTrue(self.trust.is_up)
        self.assertFalse(self.trust.is_stable(20 + MIN_PENALTY - 0.1))
        self.assertEqual(rest(self.trust, 21), MIN_PENALTY - 1)
        self.assertTrue(self.trust.is_stable(20 + MIN_PENALTY))

    def test_flapping(self) -> None:
        """Each fall doubles the time, up to a limit; long peace forgets them."""
        self.trust.mark_up(0)
        now, waits = 0.0, []
        for _ in range(7):
            now += 20
            self.trust.mark_down(now)
            self.trust.mark_up(now)
            waits.append(rest(self.trust, now))
        self.assertEqual(waits, [5, 10, 20, 40, 80, MAX_PENALTY, MAX_PENALTY])
        now += RESET_AFTER
        self.trust.mark_down(now)
        self.trust.mark_up(now)
        self.assertEqual(rest(self.trust, now), MIN_PENALTY)

    def test_one_trouble_seen_twice(self) -> None:
        """A request that failed, and the look that follows, are one fall."""
        self.trust.mark_up(0)
        self.trust.mark_request_failed(10)
        self.assertTrue(self.trust.is_up)
        self.assertFalse(self.trust.is_stable(10))
        self.trust.mark_down(11)
        self.trust.mark_up(12)
        self.assertEqual(rest(self.trust, 12), MIN_PENALTY)

    def test_a_failure_while_it_is_down(self) -> None:
        """It is known already."""
        self.trust.mark_request_failed(1)
        self.trust.mark_up(2)
        self.assertTrue(self.trust.is_stable(2))


def sides(local: str, cloud: str) -> dict[Route, FlapDamper]:
    """Both, at the time 100: up, shaky (up and not trusted) or down."""
    found = {}
    for side, state in ((Route.LOCAL, local), (Route.CLOUD, cloud)):
        found[side] = trust = FlapDamper()
        if state != "down":
            trust.mark_up(0)
        if state == "shaky":
            trust.mark_request_failed(99)
    return found


class ChoiceTests(SynchronousTestCase):
    """The whole table of preferences."""

    def chosen(self, preference: RoutingPolicy, only_elsewhere: bool = False) -> dict[str, str]:
        """By the states of here and elsewhere, the first letter of who is asked first."""
        states = ("up", "shaky", "down")
        return {
            f"{local} {cloud}": choose_route(preference, sides(local, cloud), only_elsewhere, 100)[
                0
            ]
            for local in states
            for cloud in states
        }

    def test_local_first(self) -> None:
        expected = {
            "up up": "l", "up shaky": "l", "up down": "l",
            "shaky up": "c", "shaky shaky": "l", "shaky down": "l",
            "down up": "c", "down shaky": "c", "down down": "l",
        }  # fmt: skip
        self.assertEqual(self.chosen(RoutingPolicy.AUTO), expected)
        self.assertEqual(self.chosen(RoutingPolicy.LOCAL), expected)
        self.assertEqual(self.chosen(RoutingPolicy.LOCAL, True), expected)

    def test_cloud_first(self) -> None:
        expected = {
            "up up": "c", "up shaky": "l", "up down": "l",
            "shaky up": "c", "shaky shaky": "c", "shaky down": "l",
            "down up": "c", "down shaky": "c", "down down": "c",
        }  # fmt: skip
        self.assertEqual(self.chosen(RoutingPolicy.CLOUD), expected)
        self.assertEqual(self.chosen(RoutingPolicy.CLOUD, True), expected)

    def test_never(self) -> None:
        self.assertEqual(set(self.chosen(RoutingPolicy.NEVER).values()), {"l"})
        self.assertEqual(set(self.chosen(RoutingPolicy.NEVER, True).values()), {"l"})

    def test_a_model_that_is_only_elsewhere(self) -> None:
        """AUTO goes where the model is, if anybody is there."""
        found = self.chosen(RoutingPolicy.AUTO, True)
        self.assertEqual({state for state, side in found.items() if side == "l"},
                         {"up down", "shaky down", "down down"})  # fmt: skip

    def test_second(self) -> None:
        """The other side, where it is up; never, where that was said."""
        up = sides("up", "up")
        for preference in (RoutingPolicy.AUTO, RoutingPolicy.LOCAL, RoutingPolicy.CLOUD):
            self.assertEqual(failover_route(preference, up, Route.LOCAL), Route.CLOUD)
            self.assertEqual(failover_route(preference, up, Route.CLOUD), Route.LOCAL)
            self.assertIsNone(failover_route(preference, sides("up", "down"), Route.LOCAL))
            self.assertIsNone(failover_route(preference, sides("down", "up"), Route.CLOUD))
        self.assertIsNone(failover_route(RoutingPolicy.NEVER, up, Route.LOCAL))
