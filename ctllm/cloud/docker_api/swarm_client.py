"""The client of an engine that is a manager of a swarm."""

from __future__ import annotations

from collections.abc import Mapping

from ctllm.cloud.docker_api.client import DockerClient, encode_filters, quote_name
from ctllm.cloud.docker_api.models import decode_response
from ctllm.cloud.docker_api.swarm_models import CreatedService, Node, Service, Task


class SwarmClient(DockerClient):
    """A `DockerClient` with the requests of swarm mode, which only managers of a swarm answer."""

    async def list_services(self, label: str) -> list[Service]:
        """Return all services with a label (`name` or `name=value`)."""
        query = {"filters": encode_filters(label=[label])}
        return decode_response(await self._call("GET", "/services", query), list[Service])

    async def inspect_service(self, name: str) -> Service:
        """Return the service with a name or id. Raises DockerNotFound."""
        body = await self._call("GET", f"/services/{quote_name(name)}")
        return decode_response(body, Service)

    async def create_service(self, config: Mapping[str, object]) -> str:
        """Create a service and return its id. Raises DockerConflict if its name is in use."""
        body = await self._call("POST", "/services/create", config=config)
        return decode_response(body, CreatedService).id

    async def remove_service(self, name: str) -> None:
        """Remove a service, if it exists. Its task ends afterwards."""
        await self._delete(f"/services/{quote_name(name)}")

    async def list_tasks(self, **filters: str) -> list[Task]:
        """Return the tasks that match filters, such as `label` or `service`."""
        query = {"filters": encode_filters(**{name: [value] for name, value in filters.items()})}
        return decode_response(await self._call("GET", "/tasks", query), list[Task])

    async def list_nodes(self) -> list[Node]:
        """Return the nodes of the swarm."""
        return decode_response(await self._call("GET", "/nodes"), list[Node])

    async def connect_container(self, network: str, container: str) -> None:
        """Attach a container of this engine to a network. Raises DockerNotFound."""
        path = f"/networks/{quote_name(network)}/connect"
        await self._call("POST", path, config={"Container": container})

    async def disconnect_container(self, network: str, container: str) -> None:
        """Detach a container from a network. Raises DockerNotFound."""
        path = f"/networks/{quote_name(network)}/disconnect"
        await self._call("POST", path, config={"Container": container, "Force": True})
