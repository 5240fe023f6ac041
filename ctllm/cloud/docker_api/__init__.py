"""A client for the Docker Engine API, of as much as streaming proxies need.

The API is described at https://docs.docker.com/engine/api/; `Engine` speaks any version of it from
`OLDEST` on. Everything that an engine says is checked here, and what goes wrong has a type.
"""

from ctllm.cloud.docker_api.client import MIN_API_VERSION, DockerClient
from ctllm.cloud.docker_api.errors import (
    DiskFull,
    DockerConflict,
    DockerError,
    DockerNotFound,
    DockerTooOld,
    DockerUnavailable,
    ImageNotFound,
    SubnetOverlap,
)
from ctllm.cloud.docker_api.models import (
    Container,
    ContainerStats,
    ContainerSummary,
    DockerEvent,
    Image,
    Network,
)
from ctllm.cloud.docker_api.transport import DockerTransport, create_transport

__all__ = [
    "MIN_API_VERSION",
    "Container",
    "ContainerStats",
    "ContainerSummary",
    "DiskFull",
    "DockerClient",
    "DockerConflict",
    "DockerError",
    "DockerEvent",
    "DockerNotFound",
    "DockerTooOld",
    "DockerTransport",
    "DockerUnavailable",
    "Image",
    "ImageNotFound",
    "Network",
    "SubnetOverlap",
    "create_transport",
]
