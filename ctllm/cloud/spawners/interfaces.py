"""The interface of spawners, which start and stop streaming proxies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

ExitObserver: TypeAlias = Callable[[str, str], None]
"""Called with the id of a proxy that exited unrequested, and with the reason."""


@dataclass(frozen=True, slots=True)
class ProxySocket:
    """The UNIX socket of a proxy, and the process that must listen on it.

    For a container, `pid` is the first process of the container `container_id`, or 0 if that is
    not known.
    """

    path: str
    uid: int
    pid: int
    container_id: str = ""


@dataclass(frozen=True, slots=True)
class ProxyInstance:
    """A proxy that was started. It may not accept connections yet.

    `endpoint` is the description of a client endpoint, `started_at` is in epoch seconds, and
    `adopted` is True if an earlier run of the cloud started the proxy. Connect by
    `peer_verification.proxy_endpoint`, which verifies the listener of a `socket`.
    """

    id: str
    endpoint: str
    started_at: float
    adopted: bool = False
    socket: ProxySocket | None = None


@dataclass(frozen=True, slots=True)
class ResourceUsage:
    """The memory that a proxy uses, and its processor time since its start."""

    memory_bytes: int
    cpu_seconds: float


class Spawner(Protocol):
    """Starts, stops and lists proxies, and reports those that exit."""

    @property
    def proxies_survive_restart(self) -> bool:
        """Whether proxies run on when the cloud stops; the next run of the cloud adopts them."""

    @property
    def problem(self) -> str:
        """A sentence about what keeps proxies from starting, or an empty string."""

    def add_exit_observer(self, observer: ExitObserver) -> None:
        """Call `observer` for each proxy that exits, unless `remove` stopped it.

        The observer is never called from within a method of the spawner.
        """

    async def ensure_running(self, proxy_id: str) -> ProxyInstance:
        """Start the proxy, unless it runs. Raises CtllmError if that fails.

        If the call is cancelled, `remove` removes what was started.
        """

    async def remove(self, proxy_id: str) -> None:
        """Stop the proxy and remove all that belongs to it, if it exists."""

    async def inspect(self, proxy_id: str) -> ProxyInstance | None:
        """Return the proxy, or None if it does not exist or is being removed."""

    async def list(self) -> Sequence[ProxyInstance]:
        """Return all proxies that `inspect` would return."""

    async def resource_usage(self) -> Mapping[str, ResourceUsage]:
        """Return the resources that each proxy uses, where the system reports them."""

    async def resource_usage_of(self, proxy_id: str) -> ResourceUsage | None:
        """Return the resources that one proxy uses, or None if that is not known."""


class ExitObservers:
    """The exit observers of a spawner."""

    def __init__(self) -> None:
        self._observers: list[ExitObserver] = []

    def add(self, observer: ExitObserver) -> None:
        """Add an observer; there is no way to remove it."""
        self._observers.append(observer)

    def notify(self, proxy_id: str, reason: str) -> None:
        """Call all observers."""
        for observer in self._observers:
            observer(proxy_id, reason)
