"""`ctllm.desktop.broker.routing_policy`: the table of policies."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.broker.flap_damping import FlapDamper
from ctllm.desktop.broker.routing_policy import Route, RoutingPolicy, choose_route, failover_route


def dampers(local: str, cloud: str) -> dict[Route, FlapDamper]:
    """Return both routes at time 100: up, unstable (up, but not stable) or down."""
    found = {}
    for route, state in ((Route.LOCAL, local), (Route.CLOUD, cloud)):
        found[route] = damper = FlapDamper()
        if state != "down":
            damper.mark_up(0)
        if state == "unstable":
            damper.mark_request_failed(99)
    return found


class RoutingPolicyTests(SynchronousTestCase):
    def chosen(self, policy: RoutingPolicy, is_only_remote: bool = False) -> dict[str, str]:
        """Return the first letter of the route, by the states of the local and the cloud route."""
        states = ("up", "unstable", "down")
        return {
            f"{local} {cloud}": choose_route(policy, dampers(local, cloud), is_only_remote, 100)[0]
            for local in states
            for cloud in states
        }

    def test_local_route_is_preferred_while_it_is_stable(self) -> None:
        expected = {
            "up up": "l", "up unstable": "l", "up down": "l",
            "unstable up": "c", "unstable unstable": "l", "unstable down": "l",
            "down up": "c", "down unstable": "c", "down down": "l",
        }  # fmt: skip
        self.assertEqual(self.chosen(RoutingPolicy.AUTO), expected)
        self.assertEqual(self.chosen(RoutingPolicy.LOCAL), expected)
        self.assertEqual(self.chosen(RoutingPolicy.LOCAL, True), expected)

    def test_cloud_route_is_preferred_while_it_is_stable(self) -> None:
        expected = {
            "up up": "c", "up unstable": "l", "up down": "l",
            "unstable up": "c", "unstable unstable": "c", "unstable down": "l",
            "down up": "c", "down unstable": "c", "down down": "c",
        }  # fmt: skip
        self.assertEqual(self.chosen(RoutingPolicy.CLOUD), expected)
        self.assertEqual(self.chosen(RoutingPolicy.CLOUD, True), expected)

    def test_policy_never_uses_the_cloud(self) -> None:
        self.assertEqual(set(self.chosen(RoutingPolicy.NEVER).values()), {"l"})
        self.assertEqual(set(self.chosen(RoutingPolicy.NEVER, True).values()), {"l"})

    def test_policy_auto_follows_a_model_to_the_cloud(self) -> None:
        found = self.chosen(RoutingPolicy.AUTO, True)
        self.assertEqual({state for state, route in found.items() if route == "l"},
                         {"up down", "unstable down", "down down"})  # fmt: skip

    def test_fails_over_to_a_route_that_is_up(self) -> None:
        up = dampers("up", "up")
        for policy in (RoutingPolicy.AUTO, RoutingPolicy.LOCAL, RoutingPolicy.CLOUD):
            self.assertEqual(failover_route(policy, up, Route.LOCAL), Route.CLOUD)
            self.assertEqual(failover_route(policy, up, Route.CLOUD), Route.LOCAL)
            self.assertIsNone(failover_route(policy, dampers("up", "down"), Route.LOCAL))
            self.assertIsNone(failover_route(policy, dampers("down", "up"), Route.CLOUD))
        self.assertIsNone(failover_route(RoutingPolicy.NEVER, up, Route.LOCAL))
