"""The interface of spawners, which start and stop streaming proxies."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import Protocol, TypeAlias

from ctllm.errors import ProxyUnavailable

ExitObserver: TypeAlias = Callable[[str, str], None]
"""Called with the id of a proxy that exited unrequested, and with the reason."""


#: What the ids of proxies begin with. The rest is the hash of the user.
ID_PREFIX = "ctllm-proxy-"
#: The ids of proxies that wait for a user. The ids of users' proxies have hex digits alone.
_WAITING_ID = re.compile(ID_PREFIX + "w[0-9a-f]{31}")
_PROXY_ID = re.compile(ID_PREFIX + "[0-9a-f]{32}")


def new_waiting_id() -> str:
    """Return the id of a new proxy that waits for a user."""
    return f"{ID_PREFIX}w{token_hex(16)[1:]}"


def is_waiting_id(proxy_id: str) -> bool:
    """Return whether this is the id of a proxy that was started for nobody."""
    return _WAITING_ID.fullmatch(proxy_id) is not None


def is_proxy_id(proxy_id: str) -> bool:
    """Return whether this is the id of a user's proxy."""
    return _PROXY_ID.fullmatch(proxy_id) is not None


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
    `adopted` is True if an earlier run of the cloud started the proxy. `waiting_id` is the id with
    which it was started, if it waited for a user, and `is_remote` is True if it may be on another
    machine, whose end closes no connection. Connect by `peer_verification.proxy_endpoint`,
    which verifies the listener of a `socket`.
    """

    id: str
    endpoint: str
    started_at: float
    adopted: bool = False
    socket: ProxySocket | None = None
    waiting_id: str = ""
    is_remote: bool = False

    @property
    def address(self) -> str:
        """The address of the proxy for a reverse proxy: `unix:/PATH` or `HOST:PORT`."""
        if self.socket is not None:
            return f"unix:{self.socket.path}"
        return self.endpoint.removeprefix("tcp:")


@dataclass(frozen=True, slots=True)
class ResourceUsage:
    """The memory that a proxy uses, and its processor time since its start."""

    memory_bytes: int
    cpu_seconds: float


class NameInUse(ProxyUnavailable):
    """There is a proxy with this id already."""


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

        If the call is cancelled, `remove` removes what was started. A proxy with a waiting id has
        no user: it waits for its assignment.
        """

    async def start_completed(self, proxy_id: str) -> None:
        """End what only the start of the proxy may do: it responds, and nobody uses it yet.

        Raises CtllmError if that fails.
        """

    def can_assign(self, waiting_id: str, proxy_id: str) -> bool:
        """Return whether the proxy of a user may be one that waits with this id."""

    async def assign(self, waiting_id: str, proxy_id: str) -> ProxyInstance:
        """Give a proxy that waits the id of a user's proxy, before the proxy itself knows of it.

        Raises NameInUse if there is another with that id, and CtllmError if the waiting one cannot
        be used, or not safely. It is found by its new id from then on, by later runs of the cloud,
        too.
        """

    async def remove(self, proxy_id: str) -> None:
        """Stop the proxy and remove all that belongs to it, if it exists."""

    async def clean_up(self, proxy_id: str) -> None:
        """Remove what is left of a proxy that exited, except what its next start may use soon."""

    async def inspect(self, proxy_id: str) -> ProxyInstance | None:
        """Return the proxy, or None if it does not exist or is being removed."""

    async def list(self) -> Sequence[ProxyInstance]:
        """Return all proxies that `inspect` would return."""

    def is_outdated(self, proxy_id: str) -> bool:
        """Return whether a proxy that `list` found runs another version than a new one would.

        It is False for a proxy that cannot be replaced now.
        """

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
