"""A network for each container: internal, and nobody else is on it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Network
from pathlib import Path

from twisted.logger import Logger

from ctllm.cloud.docker_api import (
    Container,
    ContainerSummary,
    DockerClient,
    DockerNotFound,
    SubnetOverlap,
)
from ctllm.cloud.spawners.connectivity import ContainerConnectivity
from ctllm.cloud.spawners.container_spec import (
    PROXY_LABEL,
    PROXY_PORT,
    CloudLabels,
    network_config,
    network_name,
)
from ctllm.cloud.spawners.host_routes import is_blackholed, list_routes
from ctllm.cloud.spawners.subnet_allocator import SubnetAllocator

#: Subnets that are tried: Docker refuses one which another of its users has taken meanwhile.
MAX_SUBNET_ATTEMPTS = 8
#: Where Docker's own resolver passes on what it does not know: nobody (RFC 5737). Engines before
#: 23.0.11 would ask the host's for an internal network too (CVE-2024-29018).
UNREACHABLE_RESOLVER = "192.0.2.1"


class BridgeNetwork:
    """An `Attachment` by subnets of `pool`; `table` has the engine's host's routes, if here."""

    _log = Logger()

    def __init__(
        self,
        docker: DockerClient,
        labels: CloudLabels,
        pool: IPv4Network,
        route_table: Path | None = None,
    ) -> None:
        self._docker, self._labels, self._pool, self._route_table = (
            docker,
            labels,
            pool,
            route_table,
        )
        self._subnets = SubnetAllocator(pool)

    def check_host(self) -> None:
        """Say so where containers are not kept from this host, as far as that shows."""
        if self._route_table is not None and not is_blackholed(self._pool, self._route_table):
            self._log.warn(
                "containers of streaming proxies can reach services of this machine: run, as root, "
                "ctllm firewall"
            )

    async def provision(self, proxy_id: str) -> ContainerConnectivity:
        """A network of its own; Overloaded when there is no subnet for it."""
        await self._create_network(proxy_id)
        return ContainerConnectivity(
            ("--port", str(PROXY_PORT), "--host", "0.0.0.0"),  # noqa: S104 - of its own network
            {"NetworkMode": network_name(proxy_id), "Dns": [UNREACHABLE_RESOLVER]},
        )

    async def container_started(self, proxy_id: str) -> None:
        """Nothing: it has its address."""

    def endpoint(self, proxy_id: str, container: Container | ContainerSummary) -> str:
        """Its address in its own network."""
        address = container.address(network_name(proxy_id))
        return f"tcp:host={address}:port={PROXY_PORT}" if address else ""

    def proxy_socket(self, proxy_id: str, container: Container | ContainerSummary) -> None:
        """None: it has an address."""

    async def deprovision(self, proxy_id: str) -> None:
        """Remove the network, if it is ours."""
        with suppress(DockerNotFound):
            network = await self._docker.inspect_network(network_name(proxy_id))
            if self._labels.is_owned(network.labels or {}):
                await self._docker.remove_network(network.id)

    async def list_provisioned(self) -> set[str]:
        """The owners of networks that are ours, by name and by label."""
        networks = await self._docker.list_networks(self._labels.selector)
        owners = {(each.labels or {}).get(PROXY_LABEL, ""): each.name for each in networks}
        return {id for id, name in owners.items() if name == network_name(id)}

    async def _create_network(self, proxy_id: str) -> None:
        for attempts_left in reversed(range(MAX_SUBNET_ATTEMPTS)):
            in_use = [one for each in await self._docker.list_networks() for one in each.subnets]
            subnet = self._subnets.allocate([*in_use, *self._host_routes()])
            try:
                await self._docker.create_network(network_config(self._labels, proxy_id, subnet))
            except SubnetOverlap:
                if not attempts_left:
                    raise
            else:
                return
            finally:
                self._subnets.release(subnet)

    def _host_routes(self) -> Sequence[str]:
        return list_routes(self._route_table) if self._route_table is not None else ()
