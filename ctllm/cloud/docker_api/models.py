"""What an engine tells of containers, networks, images and events, as far as it matters here.

Read strictly: what lacks a field or has one of another kind is refused, whoever sent it. Unknown
fields are passed over, for each version of the API has more of them.
"""

from __future__ import annotations

from datetime import datetime
from typing import TypeVar

from msgspec import Struct, field

from ctllm.cloud.docker_api.errors import DockerError
from ctllm.common.json_decoder import InvalidJson, decode_json

T = TypeVar("T")


class _Pascal(Struct, frozen=True, rename="pascal"):
    """Fields are named in PascalCase on the wire."""


class EndpointSettings(Struct, frozen=True):
    """A container's place in one network; the address is empty unless it runs."""

    address: str = field(name="IPAddress", default="")


class _NetworkSettings(_Pascal, frozen=True):
    networks: dict[str, EndpointSettings] | None = None


class ContainerState(_Pascal, frozen=True):
    """How a container is. `status` is created, running, paused, restarting, exited or dead."""

    status: str
    running: bool
    paused: bool
    oom_killed: bool = field(name="OOMKilled", default=False)
    exit_code: int = 0
    error: str = ""
    pid: int = 0
    started_at: datetime | None = None


class _Config(_Pascal, frozen=True):
    labels: dict[str, str] | None = None


class Container(_Pascal, frozen=True):
    """One container, as it was asked for; `image` is the image's id."""

    id: str
    name: str
    image: str
    state: ContainerState
    config: _Config
    network_settings: _NetworkSettings

    @property
    def labels(self) -> dict[str, str]:
        """Its labels."""
        return self.config.labels or {}

    def address(self, network: str) -> str:
        """Its address in the network of that name; empty when it has none."""
        return (self.network_settings.networks or {}).get(network, EndpointSettings()).address


class ContainerSummary(_Pascal, frozen=True):
    """One container of a list; `created` is epoch seconds, `state` as in `State.status`."""

    id: str
    names: list[str]
    state: str
    created: int
    labels: dict[str, str] | None = None
    network_settings: _NetworkSettings = _NetworkSettings()

    @property
    def name(self) -> str:
        """Its own name, without the slash."""
        return self.names[0].removeprefix("/") if self.names else ""

    def address(self, network: str) -> str:
        """Its address in the network of that name; empty when it has none."""
        return (self.network_settings.networks or {}).get(network, EndpointSettings()).address


class _Subnet(_Pascal, frozen=True):
    subnet: str = ""


class _Ipam(_Pascal, frozen=True):
    config: list[_Subnet] | None = None


class Network(_Pascal, frozen=True):
    """One network."""

    id: str
    name: str
    internal: bool
    ipam: _Ipam = field(name="IPAM")
    labels: dict[str, str] | None = None

    @property
    def subnets(self) -> list[str]:
        """Its subnets, as in 10.128.0.0/28."""
        return [each.subnet for each in self.ipam.config or [] if each.subnet]


class Image(_Pascal, frozen=True):
    """One image; `size` in bytes."""

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
    """What a container uses."""

    memory_stats: _MemoryStats = field(default_factory=_MemoryStats)
    cpu_stats: _CpuStats = field(default_factory=_CpuStats)

    @property
    def memory_bytes(self) -> int:
        """Bytes, without the files that could be dropped from memory at any time."""
        stats = self.memory_stats.stats
        reclaimable = stats.get("total_inactive_file", stats.get("inactive_file", 0))
        return max(0, self.memory_stats.usage - reclaimable)

    @property
    def cpu_seconds(self) -> float:
        """Seconds of processor time so far."""
        return self.cpu_stats.cpu_usage.total_usage / 1e9


class CreateResponse(_Pascal, frozen=True):
    """What was made."""

    id: str


class _Actor(Struct, frozen=True):
    id: str = field(name="ID", default="")
    attributes: dict[str, str] = field(name="Attributes", default_factory=dict)


class DockerEvent(Struct, frozen=True):
    """An event; `attributes` of a container's have its name and labels."""

    type: str = field(name="Type", default="")
    action: str = field(name="Action", default="")
    actor: _Actor = field(name="Actor", default_factory=_Actor)

    @property
    def attributes(self) -> dict[str, str]:
        """What is known of what it happened to."""
        return self.actor.attributes


def decode_response(body: bytes, type: type[T]) -> T:
    """The value in an answer; EngineRefused where there is none."""
    try:
        return decode_json(body, type)
    except InvalidJson as error:
        raise DockerError(f"What answers as Docker makes no sense: {error}") from error
