"""A client of the Docker Engine API, as far as streaming proxies need it.

`DockerClient` supports all versions of the API (https://docs.docker.com/engine/api/) from
`MIN_API_VERSION` on. It validates every response, and raises a `DockerError` for each failure.
"""

from ctllm.cloud.docker_api.client import MIN_API_VERSION, DockerClient
from ctllm.cloud.docker_api.errors import (
    DiskFull,
    DockerConflict,
    DockerError,
    DockerNotFound,
    DockerTooNew,
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
from ctllm.cloud.docker_api.swarm_client import SwarmClient
from ctllm.cloud.docker_api.swarm_models import Node, Service, Task
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
    "DockerTooNew",
    "DockerTooOld",
    "DockerTransport",
    "DockerUnavailable",
    "Image",
    "ImageNotFound",
    "Network",
    "Node",
    "Service",
    "SubnetOverlap",
    "SwarmClient",
    "Task",
    "create_transport",
]
