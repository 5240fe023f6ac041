"""The objects of the Docker Engine API, as far as they are used here.

Decoding is strict: a missing field or a field of the wrong type is an error. Unknown fields are
ignored, because each version of the API adds some.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TypeVar

from msgspec import Struct, field

from ctllm.cloud.docker_api.errors import DockerError
from ctllm.common.json_decoder import InvalidJson, decode_json

T = TypeVar("T")


class Pascal(Struct, frozen=True, rename="pascal"):
    """A struct whose JSON keys are in PascalCase."""


class EndpointSettings(Struct, frozen=True):
    """A container's endpoint in one network. The address is empty unless the container runs."""

    address: str = field(name="IPAddress", default="")
    network_id: str = field(name="NetworkID", default="")


class _NetworkSettings(Pascal, frozen=True):
    networks: dict[str, EndpointSettings] | None = None


class ContainerState(Pascal, frozen=True):
    """The state of a container.

    `status` is created, running, paused, restarting, removing, exited or dead.
    """

    status: str
    running: bool
    paused: bool
    oom_killed: bool = field(name="OOMKilled", default=False)
    exit_code: int = 0
    error: str = ""
    pid: int = 0
    started_at: datetime | None = None


class _Mount(Pascal, frozen=True):
    source: str = ""


class _HostConfig(Pascal, frozen=True):
    nano_cpus: int = 0
    mounts: list[_Mount] | None = None


class _Config(Pascal, frozen=True):
    labels: dict[str, str] | None = None


class Container(Pascal, frozen=True):
    """A container, as `docker inspect` shows it. `image` is the image's id."""

    id: str
    name: str
    image: str
    state: ContainerState
    config: _Config
    network_settings: _NetworkSettings
    host_config: _HostConfig = _HostConfig()

    @property
    def labels(self) -> dict[str, str]:
        """The container's labels."""
        return self.config.labels or {}

    @property
    def networks(self) -> Mapping[str, EndpointSettings]:
        """The container's networks, by name."""
        return self.network_settings.networks or {}

    @property
    def mounted_directories(self) -> list[str]:
        """The directories and files of Docker's host that are mounted in the container."""
        return [each.source for each in self.host_config.mounts or []]

    def address(self, network: str) -> str:
        """Return the container's address in a network, or an empty string."""
        return (self.network_settings.networks or {}).get(network, EndpointSettings()).address


class ContainerSummary(Pascal, frozen=True):
    """A container, as `docker ps` shows it.

    `created` is in epoch seconds, `state` is as `ContainerState.status`.
    """

    id: str
    names: list[str]
    state: str
    created: int
    labels: dict[str, str] | None = None
    network_settings: _NetworkSettings = _NetworkSettings()
    image_id: str = field(name="ImageID", default="")

    @property
    def name(self) -> str:
        """The container's name, without the leading slash."""
        return self.names[0].removeprefix("/") if self.names else ""

    def address(self, network: str) -> str:
        """Return the container's address in a network, or an empty string."""
        return (self.network_settings.networks or {}).get(network, EndpointSettings()).address


class _Subnet(Pascal, frozen=True):
    subnet: str = ""


class _Ipam(Pascal, frozen=True):
    config: list[_Subnet] | None = None


class Network(Pascal, frozen=True):
    """A network."""

    id: str
    name: str
    internal: bool
    ipam: _Ipam = field(name="IPAM")
    labels: dict[str, str] | None = None
    options: dict[str, str] | None = None
    containers: dict[str, object] | None = None  # those that run, by id; not in a list of networks

    @property
    def subnets(self) -> list[str]:
        """The network's subnets, such as ``10.128.0.0/28``."""
        return [each.subnet for each in self.ipam.config or [] if each.subnet]


class Image(Pascal, frozen=True):
    """An image. `size` is in bytes."""

    id: str
    size: int


class _MemoryStats(Struct, frozen=True):
    usage: int = 0
    stats: dict[str, int] = field(default_factory=dict)


class _CpuUsage(Struct, frozen=True):
    total_usage: int = 0


class _CpuStats(Struct, frozen=True):
    cpu_usage: _CpuUsage = field(default_factory=_CpuUsage)


class ContainerStats(Struct, frozen=True):
    """The resources that a container uses."""

    memory_stats: _MemoryStats = field(default_factory=_MemoryStats)
    cpu_stats: _CpuStats = field(default_factory=_CpuStats)

    @property
    def memory_bytes(self) -> int:
        """The memory, without files that the kernel can drop at any time."""
        stats = self.memory_stats.stats
        reclaimable = stats.get("total_inactive_file", stats.get("inactive_file", 0))
        return max(0, self.memory_stats.usage - reclaimable)

    @property
    def cpu_seconds(self) -> float:
        """The processor time since the start."""
        return self.cpu_stats.cpu_usage.total_usage / 1e9


class CreateResponse(Pascal, frozen=True):
    """The response to a request that creates a container or a network."""

    id: str


class _Actor(Struct, frozen=True):
    id: str = field(name="ID", default="")
    attributes: dict[str, str] = field(name="Attributes", default_factory=dict)


class DockerEvent(Struct, frozen=True):
    """An event. The attributes of a container's events include its name and labels."""

    type: str = field(name="Type", default="")
    action: str = field(name="Action", default="")
    actor: _Actor = field(name="Actor", default_factory=_Actor)

    @property
    def attributes(self) -> dict[str, str]:
        """The attributes of the object that the event is about."""
        return self.actor.attributes


def decode_response(body: bytes, type: type[T]) -> T:
    """Decode the body of a response. Raises DockerError if it is invalid."""
    try:
        return decode_json(body, type)
    except InvalidJson as error:
        raise DockerError(f"Docker sent an invalid response: {error}") from error
