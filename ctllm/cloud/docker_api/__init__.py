"""A client for the Docker Engine API, of as much as streaming proxies need.

The API is described at https://docs.docker.com/engine/api/; `Engine` speaks any version of it from
`OLDEST` on. Everything that an engine says is checked here, and what goes wrong has a type.
"""

from ctllm.cloud.docker_api.client import OLDEST, DockerClient
from ctllm.cloud.docker_api.errors import (
    Conflict,
    EngineAbsent,
    EngineRefused,
    EngineTooOld,
    ImageMissing,
    Missing,
    NoRoom,
    NoSubnet,
)
from ctllm.cloud.docker_api.models import Container, Happened, Image, Listed, Network, Stats
from ctllm.cloud.docker_api.transport import Way, way_to

__all__ = [
    "OLDEST",
    "Conflict",
    "Container",
    "DockerClient",
    "EngineAbsent",
    "EngineRefused",
    "EngineTooOld",
    "Happened",
    "Image",
    "ImageMissing",
    "Listed",
    "Missing",
    "Network",
    "NoRoom",
    "NoSubnet",
    "Stats",
    "Way",
    "way_to",
]
