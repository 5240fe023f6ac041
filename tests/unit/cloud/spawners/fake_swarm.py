"""A swarm in memory, as its manager reports it."""

from __future__ import annotations

from itertools import count
from typing import Any

import msgspec

from ctllm.cloud.docker_api import (
    Container,
    DockerConflict,
    DockerError,
    DockerNotFound,
    Network,
    Node,
    Service,
    Task,
)
from ctllm.cloud.docker_api.models import decode_response

TIME = "2026-11-29T12:00:{:02}Z"


class FakeSwarm:
    """A `SwarmClient` whose tasks run at once, on node 1, unless a test says otherwise."""

    def __init__(self) -> None:
        self.services: dict[str, dict[str, Any]] = {}
        self.networks: dict[str, dict[str, Any]] = {}
        self.tasks: dict[str, dict[str, Any]] = {}  # by the service's name
        self.nodes = {"node1": "ready", "node2": "ready"}
        self.attached: dict[str, set[str]] = {"nginx": set()}  # networks, by container
        self.broken_networks: set[str] = set()
        self.next_status: dict[str, Any] = {"State": "running"}
        self._numbers = count(1)

    async def list_services(self, label: str) -> list[Service]:
        name, _, value = label.partition("=")
        found = [each for each in self.services.values() if each["Spec"]["Labels"][name] == value]
        return decode_response(msgspec.json.encode(found), list[Service])

    async def inspect_service(self, name: str) -> Service:
        if name not in self.services:
            raise DockerNotFound("no such service")
        return decode_response(msgspec.json.encode(self.services[name]), Service)

    async def create_service(self, config: dict[str, Any]) -> str:
        name, number = config["Name"], next(self._numbers)
        if name in self.services:
            raise DockerConflict("name conflicts with an existing object")
        created = TIME.format(number)
        id = f"service{number}"
        self.services[name] = {"ID": id, "Spec": config, "CreatedAt": created}
        network = self.networks[config["TaskTemplate"]["Networks"][0]["Target"]]
        self.tasks[name] = {
            "ID": f"task{number}",
            "ServiceID": id,
            "Status": dict(self.next_status),
            "DesiredState": "running",
            "CreatedAt": created,
            "NodeID": "node1",
            "NetworksAttachments": [
                {"Network": {"ID": network["Id"]}, "Addresses": [f"10.0.0.{number}/28"]}
            ],
        }
        return id

    async def remove_service(self, id: str) -> None:
        for name in [name for name, each in self.services.items() if each["ID"] == id]:
            del self.services[name]
            self.tasks.pop(name, None)

    async def list_tasks(self, label: str = "", service: str = "") -> list[Task]:
        found = [each for each in self.tasks.values() if service in ("", each["ServiceID"])]
        return decode_response(msgspec.json.encode(found), list[Task])

    async def list_nodes(self) -> list[Node]:
        nodes = [{"ID": id, "Status": {"State": state}} for id, state in self.nodes.items()]
        return decode_response(msgspec.json.encode(nodes), list[Node])

    async def list_networks(self, label: str | None = None) -> list[Network]:
        name, _, value = (label or "").partition("=")
        found = [
            each for each in self.networks.values() if not name or each["Labels"].get(name) == value
        ]
        return decode_response(msgspec.json.encode(found), list[Network])

    async def inspect_network(self, name: str) -> Network:
        if name not in self.networks:
            raise DockerNotFound("no such network")
        return decode_response(msgspec.json.encode(self.networks[name]), Network)

    async def create_network(self, config: dict[str, Any]) -> str:
        name = config["Name"]
        if name in self.networks:
            raise DockerConflict("network with this name exists")
        self.networks[name] = {**config, "Id": f"{name}-{next(self._numbers)}"}
        return str(self.networks[name]["Id"])

    async def remove_network(self, id: str) -> None:
        (name,) = (name for name, each in self.networks.items() if each["Id"] == id)
        users = {each["Spec"]["TaskTemplate"]["Networks"][0]["Target"]
                 for each in self.services.values()}  # fmt: skip
        if name in users or any(name in each for each in self.attached.values()):
            raise DockerConflict("network is in use by task")
        del self.networks[name]

    async def inspect_container(self, name: str) -> Container:
        if name not in self.attached:
            raise DockerNotFound("no such container")
        networks = {each: {"NetworkID": self.networks[each]["Id"]} for each in self.attached[name]}
        return decode_response(
            msgspec.json.encode(
                {
                    "Id": name,
                    "Name": f"/{name}",
                    "Image": "image",
                    "State": {"Status": "running", "Running": True, "Paused": False},
                    "Config": {},
                    "NetworkSettings": {"Networks": networks},
                }
            ),
            Container,
        )

    async def connect_container(self, network: str, container: str) -> None:
        if network in self.broken_networks:
            raise DockerError("no address left")
        self.attached[container].add(network)

    async def disconnect_container(self, network: str, container: str) -> None:
        names = {each["Id"]: name for name, each in self.networks.items()}
        self.attached[container].discard(names[network])
