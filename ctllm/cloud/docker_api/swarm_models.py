"""The objects of Docker's swarm mode, as far as they are used here. See also `models`."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct, field

from ctllm.cloud.docker_api.models import Pascal


class _ServiceSpec(Pascal, frozen=True):
    name: str
    labels: dict[str, str] | None = None


class Service(Pascal, frozen=True):
    """A service."""

    id: str = field(name="ID")
    spec: _ServiceSpec
    created_at: datetime

    @property
    def name(self) -> str:
        """The service's name."""
        return self.spec.name

    @property
    def labels(self) -> dict[str, str]:
        """The service's labels."""
        return self.spec.labels or {}


class CreatedService(Struct, frozen=True):
    """The response to a request that creates a service."""

    id: str = field(name="ID")


class _NetworkReference(Struct, frozen=True):
    id: str = field(name="ID")


class _Attachment(Pascal, frozen=True):
    network: _NetworkReference
    addresses: list[str] | None = None  # each with the length of its prefix


class _ContainerStatus(Pascal, frozen=True):
    exit_code: int = 0


class TaskStatus(Pascal, frozen=True):
    """The state of a task, such as pending, running, failed or orphaned, and an error, if any."""

    state: str
    err: str = ""
    message: str = ""
    container_status: _ContainerStatus = _ContainerStatus()


class Task(Pascal, frozen=True):
    """A task: one container of a service, on one node.

    `desired_state` is what the swarm wants it to be. `node_id` is empty until it has a node.
    """

    id: str = field(name="ID")
    service_id: str = field(name="ServiceID")
    status: TaskStatus
    desired_state: str
    created_at: datetime
    node_id: str = field(name="NodeID", default="")
    networks_attachments: list[_Attachment] | None = None

    def address(self, network_id: str) -> str:
        """Return the task's address in a network, or an empty string."""
        for each in self.networks_attachments or []:
            if each.network.id == network_id and each.addresses:
                return each.addresses[0].partition("/")[0]
        return ""


class _NodeStatus(Pascal, frozen=True):
    state: str


class Node(Pascal, frozen=True):
    """A node of the swarm."""

    id: str = field(name="ID")
    status: _NodeStatus

    @property
    def is_ready(self) -> bool:
        """Whether the swarm hears from the node."""
        return self.status.state == "ready"
