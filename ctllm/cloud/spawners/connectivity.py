"""How the cloud and a container reach each other: a face with two kinds behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ctllm.cloud.spawners.interfaces import ProxySocket

if TYPE_CHECKING:  # the engine's client takes half a second to import, which commands need not
    from ctllm.cloud.docker_api import Container, ContainerSummary


#: The user of what runs in containers, and their group where the cloud has none to give.
CONTAINER_USER = CONTAINER_GROUP = 1001


@dataclass(frozen=True, slots=True)
class ContainerConnectivity:
    """What a container needs to be reached.

    `listening` are its arguments that say where it listens, `host` what that takes of its
    HostConfig, `group` the group that it runs in.
    """

    listen_arguments: tuple[str, ...]
    host_config: Mapping[str, Any]
    group: int = CONTAINER_GROUP


class Connectivity(Protocol):
    """Makes what containers are reached by, and removes it."""

    def check_host(self) -> None:
        """Begin; BadConfiguration when this host has no place for it."""

    async def provision(self, proxy_id: str) -> ContainerConnectivity:
        """Make what this proxy's container needs, and may be cancelled; CtllmError if it cannot."""

    async def container_started(self, proxy_id: str) -> None:
        """What is left to do once its container runs; cancelled when that takes too long."""

    def endpoint(self, proxy_id: str, container: Container | ContainerSummary) -> str:
        """Where that container is reached, as a client endpoint string; empty when it is not.

        Empty also where it could lead to somebody else. Each call looks anew.
        """

    def proxy_socket(
        self, proxy_id: str, container: Container | ContainerSummary
    ) -> ProxySocket | None:
        """The socket that `endpoint` names; None where it names an address."""

    async def deprovision(self, proxy_id: str) -> None:
        """Remove what was made, if anything was; its container is gone."""

    async def list_provisioned(self) -> set[str]:
        """The proxies for which something is there."""
