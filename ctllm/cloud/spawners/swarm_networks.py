"""The overlay networks of proxies in a swarm, and the server's containers that are attached."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from ipaddress import IPv4Network

from twisted.internet.defer import DeferredSemaphore

from ctllm.cloud.docker_api import (
    Container,
    DockerConflict,
    DockerNotFound,
    Network,
    SwarmClient,
)
from ctllm.cloud.spawners.container_spec import PROXY_LABEL, CloudLabels, network_name
from ctllm.cloud.spawners.subnet_allocator import SubnetAllocator
from ctllm.cloud.spawners.swarm_spec import overlay_config
from ctllm.errors import ProxyUnavailable
from ctllm.reactor.deferred_tools import run_all

#: How many networks containers are attached to at once. A new container needs all of them, and
#: Docker takes almost a second for each.
MAX_CONCURRENT_ATTACHMENTS = 8


class SwarmNetworks:
    """One network for each proxy, with a subnet of `pool`, to which `attached` are attached.

    `attached` are names of containers of the engine that `docker` reaches: those of the cloud and
    of the reverse proxy. Nothing else reaches a proxy.
    """

    def __init__(
        self,
        docker: SwarmClient,
        labels: CloudLabels,
        pool: IPv4Network,
        attached: Sequence[str],
        is_encrypted: bool,
    ) -> None:
        self._docker, self._labels, self._attached = docker, labels, attached
        self._is_encrypted = is_encrypted
        self._subnets = SubnetAllocator(pool)
        self._slots = DeferredSemaphore(MAX_CONCURRENT_ATTACHMENTS)

    async def create(self, proxy_id: str) -> str:
        """Create the network of a proxy, and return its id. Raises CtllmError.

        A swarm accepts a subnet that another network has, and then starts nothing in it. So the
        subnet is reserved until the network is listed.
        """
        in_use = [
            each for network in await self._docker.list_networks() for each in network.subnets
        ]
        subnet = self._subnets.reserve(in_use)
        try:
            config = overlay_config(self._labels, proxy_id, subnet, self._is_encrypted)
            return await self._docker.create_network(config)
        finally:
            self._subnets.release(subnet)

    async def find_id(self, proxy_id: str) -> str:
        """Return the id of a proxy's network, or an empty string if there is none of this cloud."""
        network = await self._find(proxy_id)
        return "" if network is None or not self._is_owned(network) else network.id

    async def attach(self, proxy_ids: Collection[str]) -> None:
        """Attach the server's containers to the networks of proxies, where they are not.

        Raises ProxyUnavailable if one of the containers does not exist, and a DockerError if one
        cannot be attached; all others are, nevertheless.
        """
        if proxy_ids and self._attached:
            wanted = {network_name(each) for each in proxy_ids}
            await run_all(self._attach(name, wanted) for name in self._attached)

    async def remove(self, proxy_id: str) -> None:
        """Detach the server's containers from the network of a proxy, and remove it, if it exists.

        Raises DockerConflict while the proxy's service uses it.
        """
        if network_id := await self.find_id(proxy_id):
            await run_all(self._detach(network_id, name) for name in self._attached)
            await self._docker.remove_network(network_id)

    async def list(self) -> dict[str, str]:
        """Return the ids of the networks of this cloud, by proxy."""
        networks = await self._docker.list_networks(self._labels.selector)
        owners = {(each.labels or {}).get(PROXY_LABEL, ""): each for each in networks}
        return {id: each.id for id, each in owners.items() if each.name == network_name(id)}

    def _is_owned(self, network: Network) -> bool:
        return self._labels.is_owned(network.labels or {})

    async def _find(self, proxy_id: str) -> Network | None:
        with suppress(DockerNotFound):
            return await self._docker.inspect_network(network_name(proxy_id))
        return None

    async def _attach(self, name: str, wanted: Collection[str]) -> None:
        container = await self._inspect(name)
        missing = sorted(set(wanted) - container.networks.keys())
        await run_all(self._connect(network, container.id) for network in missing)

    async def _connect(self, network: str, container_id: str) -> None:
        # A conflict: it was attached meanwhile. Not found: the proxy was removed meanwhile.
        async with self._slots:
            with suppress(DockerConflict, DockerNotFound):
                await self._docker.connect_container(network, container_id)

    async def _detach(self, network_id: str, name: str) -> None:
        with suppress(DockerNotFound):
            container = await self._docker.inspect_container(name)
            if any(each.network_id == network_id for each in container.networks.values()):
                await self._docker.disconnect_container(network_id, container.id)

    async def _inspect(self, name: str) -> Container:
        try:
            return await self._docker.inspect_container(name)
        except DockerNotFound as error:
            raise ProxyUnavailable(
                f"There is no container {name}, which cloud.swarm_containers names."
            ) from error
