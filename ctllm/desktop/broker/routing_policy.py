"""The choice of a route: a table of policies, and the state of both routes."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from ctllm.desktop.broker.flap_damping import FlapDamper


class Route(StrEnum):
    """Where the broker sends a request."""

    LOCAL = "local"
    CLOUD = "cloud"

    @property
    def other(self) -> Route:
        """The other route."""
        return Route.CLOUD if self is Route.LOCAL else Route.LOCAL


class RoutingPolicy(StrEnum):
    """Which route the user prefers.

    AUTO: this desktop first; the cloud for models that only another desktop has. LOCAL: this
    desktop; the cloud only while its Ollama fails. CLOUD: the other desktops; this one while they
    fail. NEVER: no request leaves this machine.
    """

    AUTO = "auto"
    LOCAL = "local"
    CLOUD = "cloud"
    NEVER = "never"


_PREFERRED = {
    RoutingPolicy.AUTO: Route.LOCAL,
    RoutingPolicy.LOCAL: Route.LOCAL,
    RoutingPolicy.CLOUD: Route.CLOUD,
    RoutingPolicy.NEVER: Route.LOCAL,
}


def choose_route(
    policy: RoutingPolicy, dampers: Mapping[Route, FlapDamper], is_only_remote: bool, now: float
) -> Route:
    """Return the route to try first.

    `is_only_remote` says that another desktop has the model and this one does not. A route that is
    down is tried only if the other one is down too: its error tells the user what is wrong.
    """
    preferred = _PREFERRED[policy]
    if policy is RoutingPolicy.NEVER:
        return preferred
    if policy is RoutingPolicy.AUTO and is_only_remote and dampers[Route.CLOUD].is_up:
        return Route.CLOUD
    other = preferred.other
    if dampers[preferred].is_stable(now) or not dampers[other].is_up:
        return preferred
    if dampers[preferred].is_up and not dampers[other].is_stable(now):
        return preferred
    return other


def failover_route(
    policy: RoutingPolicy, dampers: Mapping[Route, FlapDamper], failed: Route
) -> Route | None:
    """Return the route to try after `failed`, or None."""
    if policy is RoutingPolicy.NEVER or not dampers[failed.other].is_up:
        return None
    return failed.other
