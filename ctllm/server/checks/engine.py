"""Reads what a Docker engine says, on its UNIX socket, with a deadline for each request.

The paths have no version of the API: an engine then answers in its own, and these few fields are in
every one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, TypeVar
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Meta

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.server.checks.connection import (
    Deadline,
    ProbeError,
    Response,
    connect_unix,
    exchange,
)

_PROJECT_LABEL, _SERVICE_LABEL = "com.docker.compose.project", "com.docker.compose.service"

T = TypeVar("T")
Name = Annotated[str, Meta(max_length=1000)]


class Version(msgspec.Struct, frozen=True, rename="pascal"):
    """The version of the engine and of its API."""

    version: Name
    api_version: Name


class FirewallBackend(msgspec.Struct, frozen=True, rename="pascal"):
    """What the engine sets rules of the firewall with: `iptables`, `nftables`."""

    driver: Name = "iptables"


class Info(msgspec.Struct, frozen=True, rename="pascal"):
    """Where the engine keeps its data, and how it runs."""

    docker_root_dir: Name = ""
    #: Engines before 29 do not say it, and use iptables.
    firewall_backend: FirewallBackend | None = None
    security_options: list[str] = []


class HostConfig(msgspec.Struct, frozen=True, rename="pascal"):
    """The network of a container."""

    network_mode: Name = ""


class Summary(msgspec.Struct, frozen=True, rename="pascal"):
    """A container in a list."""

    id: Name
    names: list[Name] = []
    labels: dict[str, str] = {}
    host_config: HostConfig = HostConfig()


class Health(msgspec.Struct, frozen=True, rename="pascal"):
    """The result of the health check of a container."""

    status: Name


class ContainerState(msgspec.Struct, frozen=True, rename="pascal"):
    """Whether a container runs, how it ended, and its health."""

    status: Name
    exit_code: int = 0
    health: Health | None = None


class ContainerConfig(msgspec.Struct, frozen=True, rename="pascal"):
    """The image of a container, as it was named."""

    image: Name = ""


class PublishedAddress(msgspec.Struct, frozen=True):
    """Where a port of a container is published on the machine."""

    address: Name = msgspec.field(name="HostIp", default="")
    port: Name = msgspec.field(name="HostPort", default="")


class AttachedNetwork(msgspec.Struct, frozen=True):
    """The address of a container in a network; without one while it does not run."""

    address: Name = msgspec.field(name="IPAddress", default="")
    prefix_length: int = msgspec.field(name="IPPrefixLen", default=0)


class NetworkSettings(msgspec.Struct, frozen=True, rename="pascal"):
    """The published ports by port and protocol (`443/tcp`), and the networks by name."""

    ports: dict[str, list[PublishedAddress] | None] = {}
    networks: dict[str, AttachedNetwork] = {}


class Container(msgspec.Struct, frozen=True, rename="pascal"):
    """A container."""

    state: ContainerState
    config: ContainerConfig
    restart_count: int = 0
    network_settings: NetworkSettings = NetworkSettings()


class Engine:
    """An engine. Every method raises ProbeError."""

    def __init__(self, socket: Path, timeout: float) -> None:
        self.socket = socket
        self._timeout = timeout

    def version(self) -> Version:
        """Return the version of the engine."""
        return self._read("/version", Version)

    def info(self) -> Info:
        """Return what the engine says of itself."""
        return self._read("/info", Info)

    def has_image(self, name: str) -> bool:
        """Whether an image exists."""
        return self._get(f"/images/{quote(name, safe='')}/json").status == 200

    def list_containers(self, label: str) -> list[Summary]:
        """Return all containers with a label (`name` or `name=value`), also those that exited."""
        query = urlencode({"all": "1", "filters": json.dumps({"label": [label]})})
        return self._read(f"/containers/json?{query}", list[Summary])

    def list_project(self, project: str) -> dict[str, str]:
        """Return the id of the container of each service of a project of Docker Compose."""
        found = self.list_containers(f"{_PROJECT_LABEL}={project}")
        return {each.labels.get(_SERVICE_LABEL, ""): each.id for each in found}

    def inspect(self, id: str) -> Container:
        """Return a container."""
        return self._read(f"/containers/{quote(id, safe='')}/json", Container)

    def _get(self, target: str) -> Response:
        deadline = Deadline(self._timeout)
        try:
            with connect_unix(self.socket, deadline) as connection:
                return exchange(connection, "docker", target, deadline)
        except ProbeError as error:
            raise ProbeError(f"Docker at {self.socket}: {error}") from error

    def _read(self, target: str, kind: type[T]) -> T:
        response = self._get(target)
        if response.status != 200:
            raise ProbeError(f"Docker at {self.socket} has answered with {response.status}")
        try:
            return decode_json(response.body, kind)
        except InvalidJson as error:
            raise ProbeError(f"what is at {self.socket} is not Docker: {error}") from error
