"""Connectivity by an internal Docker network for each container."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Network
from pathlib import Path

from ctllm.cloud.docker_api import (
    Container,
    ContainerSummary,
    DockerClient,
    DockerNotFound,
    Network,
    SubnetOverlap,
)
from ctllm.cloud.spawners.connectivity import ContainerConnectivity
from ctllm.cloud.spawners.container_spec import (
    PROXY_LABEL,
    PROXY_PORT,
    CloudLabels,
    network_config,
    network_name,
    network_options,
)
from ctllm.cloud.spawners.host_isolation import HostIsolation
from ctllm.cloud.spawners.host_routes import list_routes
from ctllm.cloud.spawners.subnet_allocator import SubnetAllocator
from ctllm.reactor.deferred_tools import run_together

#: Docker refuses a subnet that another of its clients has taken meanwhile.
MAX_SUBNET_ATTEMPTS = 8
#: The resolver to which Docker's own forwards queries. Nothing has this address (RFC 5737).
#: Docker before 23.0.11 forwards queries from internal networks to the host's resolver
#: (CVE-2024-29018).
UNREACHABLE_RESOLVER = "192.0.2.1"


class BridgeNetwork:
    """A `Connectivity` by networks whose subnets are taken from `pool`.

    If Docker's host is this host, `isolation` protects it from the containers, and `route_table` is
    the file with its routes.
    """

    def __init__(
        self,
        docker: DockerClient,
        labels: CloudLabels,
        pool: IPv4Network,
        isolation: HostIsolation | None = None,
        route_table: Path | None = None,
    ) -> None:
        self._docker, self._labels = docker, labels
        self._isolation, self._route_table = isolation, route_table
        self._subnets = SubnetAllocator(pool)

    def check_host(self) -> None:
        """Warn if containers can reach this host, and nothing will prevent that."""
        if self._isolation is not None:
            self._isolation.warn_if_unchecked()

    async def verify_isolation(self) -> None:
        """Raise ProxyUnavailable unless the firewall isolates containers from this host."""
        if self._isolation is not None:
            await self._isolation.verify()

    async def prepare(self, proxy_id: str) -> ContainerConnectivity:
        """Return what the container needs: Docker looks its network up when it starts."""
        return ContainerConnectivity(
            # All addresses of a network in which there is only this container.
            ("--port", str(PROXY_PORT), "--host", "0.0.0.0"),  # noqa: S104
            {"NetworkMode": network_name(proxy_id), "Dns": [UNREACHABLE_RESOLVER]},
        )

    async def provision(self, proxy_id: str) -> None:
        """Create the proxy's network.

        Raises ServiceUnavailable if no subnet is free, and ProxyUnavailable without isolation.
        """
        # Nothing runs in the network yet. It is removed again if the check fails.
        await run_together(self.verify_isolation(), self._create_network(proxy_id))

    async def provision_again(self, proxy_id: str, container: Container) -> bool:
        """Return whether the container's only network is its own, unused, and as it was created.

        Raises ProxyUnavailable without isolation.
        """
        _, network = await run_together(self.verify_isolation(), self._find_network(proxy_id))
        if network is None or network.containers:
            return False
        attached = {name: each.network_id for name, each in container.networks.items()}
        return attached == {network.name: network.id} and self._is_as_created(proxy_id, network)

    async def container_started(self, proxy_id: str) -> None:
        """Do nothing: Docker has assigned an address."""

    def endpoint(self, proxy_id: str, container: Container | ContainerSummary) -> str:
        """Return the endpoint of the container's address in its network."""
        address = container.address(network_name(proxy_id))
        return f"tcp:{address}:{PROXY_PORT}" if address else ""

    def proxy_socket(self, proxy_id: str, container: Container | ContainerSummary) -> None:
        """Return None: the endpoint is an IP address."""

    async def deprovision(self, proxy_id: str) -> None:
        """Remove the network, if it belongs to this cloud."""
        network = await self._find_network(proxy_id)
        if network is not None and self._labels.is_owned(network.labels or {}):
            await self._docker.remove_network(network.id)

    async def list_provisioned(self) -> set[str]:
        """Return the proxies that have a network whose name and labels match."""
        networks = await self._docker.list_networks(self._labels.selector)
        owners = {(each.labels or {}).get(PROXY_LABEL, ""): each.name for each in networks}
        return {id for id, name in owners.items() if name == network_name(id)}

    async def _find_network(self, proxy_id: str) -> Network | None:
        with suppress(DockerNotFound):
            return await self._docker.inspect_network(network_name(proxy_id))
        return None

    def _is_as_created(self, proxy_id: str, network: Network) -> bool:
        labels = network.labels or {}
        is_own = self._labels.is_owned(labels) and labels.get(PROXY_LABEL) == proxy_id
        options = network_options(proxy_id).items() <= (network.options or {}).items()
        return is_own and network.internal and options

    async def _create_network(self, proxy_id: str) -> None:
        for attempts_left in reversed(range(MAX_SUBNET_ATTEMPTS)):
            is_first = attempts_left == MAX_SUBNET_ATTEMPTS - 1
            subnet = self._subnets.reserve(await self._subnets_in_use(is_first))
            try:
                await self._docker.create_network(network_config(self._labels, proxy_id, subnet))
            except SubnetOverlap:
                if not attempts_left:
                    raise
            else:
                return
            finally:
                self._subnets.release(subnet)

    async def _subnets_in_use(self, is_first_attempt: bool) -> Sequence[str]:
        """Return the subnets that a new network must not have.

        The bridge of each network has a route on Docker's host. So Docker is only asked for its
        networks, which takes long if there are many, if it runs elsewhere, or refused a subnet.
        """
        routes = list_routes(self._route_table) if self._route_table is not None else ()
        if routes and is_first_attempt:
            return routes
        networks = await self._docker.list_networks()
        return [*routes, *(subnet for each in networks for subnet in each.subnets)]
