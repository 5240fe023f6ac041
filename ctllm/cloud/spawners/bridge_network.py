"""A network for each container: internal, and nobody else is on it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Network
from pathlib import Path

from twisted.logger import Logger

from ctllm.cloud.docker_api import Container, DockerClient, Listed, Missing, NoSubnet
from ctllm.cloud.spawners.connectivity import Attached
from ctllm.cloud.spawners.container_spec import PORT, PROXY, Marks, network, network_name
from ctllm.cloud.spawners.host_routes import leads_nowhere, routes
from ctllm.cloud.spawners.subnet_allocator import Subnets

#: Subnets that are tried: Docker refuses one which another of its users has taken meanwhile.
TRIES = 8
#: Where Docker's own resolver passes on what it does not know: nobody (RFC 5737). Engines before
#: 23.0.11 would ask the host's for an internal network too (CVE-2024-29018).
NO_RESOLVER = "192.0.2.1"


class Bridges:
    """An `Attachment` by subnets of `pool`; `table` has the engine's host's routes, if here."""

    _log = Logger()

    def __init__(
        self, engine: DockerClient, marks: Marks, pool: IPv4Network, table: Path | None = None
    ) -> None:
        self._engine, self._marks, self._pool, self._table = engine, marks, pool, table
        self._subnets = Subnets(pool)

    def open(self) -> None:
        """Say so where containers are not kept from this host, as far as that shows."""
        if self._table is not None and not leads_nowhere(self._pool, self._table):
            self._log.warn(
                "containers of streaming proxies can reach services of this machine: run, as root, "
                "ctllm firewall"
            )

    async def make(self, proxy_id: str) -> Attached:
        """A network of its own; Overloaded when there is no subnet for it."""
        await self._make_network(proxy_id)
        return Attached(
            ("--port", str(PORT), "--host", "0.0.0.0"),  # noqa: S104 - of its own network
            {"NetworkMode": network_name(proxy_id), "Dns": [NO_RESOLVER]},
        )

    async def ready(self, proxy_id: str) -> None:
        """Nothing: it has its address."""

    def endpoint(self, proxy_id: str, found: Container | Listed) -> str:
        """Its address in its own network."""
        address = found.address(network_name(proxy_id))
        return f"tcp:host={address}:port={PORT}" if address else ""

    def socket(self, proxy_id: str, found: Container | Listed) -> None:
        """None: it has an address."""

    async def clear(self, proxy_id: str) -> None:
        """Remove the network, if it is ours."""
        with suppress(Missing):
            theirs = await self._engine.network(network_name(proxy_id))
            if self._marks.own(theirs.labels or {}):
                await self._engine.remove_network(theirs.id)

    async def left(self) -> set[str]:
        """The owners of networks that are ours, by name and by label."""
        networks = await self._engine.networks(self._marks.ours)
        owners = {(each.labels or {}).get(PROXY, ""): each.name for each in networks}
        return {id for id, name in owners.items() if name == network_name(id)}

    async def _make_network(self, proxy_id: str) -> None:
        for left in reversed(range(TRIES)):
            taken = [one for each in await self._engine.networks() for one in each.subnets]
            subnet = self._subnets.take([*taken, *self._elsewhere()])
            try:
                await self._engine.create_network(network(self._marks, proxy_id, subnet))
            except NoSubnet:
                if not left:
                    raise
            else:
                return
            finally:
                self._subnets.release(subnet)

    def _elsewhere(self) -> Sequence[str]:
        return routes(self._table) if self._table is not None else ()
