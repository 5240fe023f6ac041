"""The interface by which the cloud and a container reach each other.

`bridge_network` and `socket_mount` implement it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ctllm.cloud.spawners.interfaces import ProxySocket

if TYPE_CHECKING:  # importing the Docker client takes half a second, which commands need not spend
    from ctllm.cloud.docker_api import Container, ContainerSummary


#: The user of proxies in containers, and their group where the cloud runs in group 0.
CONTAINER_USER = CONTAINER_GROUP = 1001


@dataclass(frozen=True, slots=True)
class ContainerConnectivity:
    """What a container needs in order to be reached.

    `listen_arguments` are arguments of the proxy's command line, `host_config` becomes part of the
    container's HostConfig, and `group` is the group id of the proxy.
    """

    listen_arguments: tuple[str, ...]
    host_config: Mapping[str, object]
    group: int = CONTAINER_GROUP


class Connectivity(Protocol):
    """Provisions what the cloud needs to reach containers: networks, or shared directories."""

    def check_host(self) -> None:
        """Raise BadConfiguration if this host lacks what containers need. Called at the start."""

    async def verify_isolation(self) -> None:
        """Raise ProxyUnavailable if a container that starts now could reach this host."""

    async def prepare(self, proxy_id: str) -> ContainerConnectivity:
        """Create what must exist before the proxy's container; return what the container needs.

        Raises CtllmError if that fails.
        """

    async def provision(self, proxy_id: str) -> None:
        """Create what must exist before the container starts. Raises CtllmError if that fails."""

    async def provision_again(self, proxy_id: str, container: Container) -> bool:
        """Make ready what exists for a container that exited, so that it can start again.

        Return False if that differs from what `prepare` and `provision` would create: the container
        must not start then. Raises CtllmError as they do.
        """

    async def container_started(self, proxy_id: str) -> None:
        """Complete what can only be done once the container runs. Never times out by itself."""

    def endpoint(self, proxy_id: str, container: Container | ContainerSummary) -> str:
        """Return the description of the client endpoint of a container.

        It is empty if the container cannot be reached, or not safely. Each call checks again.
        """

    def proxy_socket(
        self, proxy_id: str, container: Container | ContainerSummary
    ) -> ProxySocket | None:
        """Return the UNIX socket of `endpoint`, or None if that is not a UNIX socket."""

    async def deprovision(self, proxy_id: str) -> None:
        """Remove what was created for a container, if anything. The container no longer exists."""

    async def list_provisioned(self) -> set[str]:
        """Return the ids of the proxies for which something is provisioned."""
