"""Which side gets a request: one table of preferences, and what is known of both sides."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from ctllm.desktop.broker.flap_damping import FlapDamper


class Route(StrEnum):
    """Where an answer may come from."""

    LOCAL = "local"
    CLOUD = "cloud"

    @property
    def other(self) -> Route:
        """The one that is not this one."""
        return Route.CLOUD if self is Route.LOCAL else Route.LOCAL


class RoutingPolicy(StrEnum):
    """What the user wants.

    AUTO: this machine first, and the cloud for models that only another desktop has. LOCAL: this
    machine, and the cloud only while its Ollama fails. CLOUD: the other desktops, and this machine
    while they fail. NEVER: no request ever leaves this machine.
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
    """The side to ask first; `only_elsewhere` says that this machine lacks what another has.

    A side that is down is asked only where the other one is, too: its error says what is wrong.
    """
    wanted = _PREFERRED[policy]
    if policy is RoutingPolicy.NEVER:
        return wanted
    if policy is RoutingPolicy.AUTO and is_only_remote and dampers[Route.CLOUD].is_up:
        return Route.CLOUD
    other = wanted.other
    if dampers[wanted].is_stable(now) or not dampers[other].is_up:
        return wanted
    if dampers[wanted].is_up and not dampers[other].is_stable(now):
        return wanted  # both are shaky
    return other


def failover_route(
    policy: RoutingPolicy, dampers: Mapping[Route, FlapDamper], failed: Route
) -> Route | None:
    """The side that may be asked after `tried` failed, or None."""
    if policy is RoutingPolicy.NEVER or not dampers[failed.other].is_up:
        return None
    return failed.other
