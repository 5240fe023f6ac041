"""What runs the streaming proxies: a face that child processes have, and Docker and Swarm later."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ProxySocket:
    """The UNIX socket of a proxy and who must listen there.

    `uid` and `pid` are the proxy's; in a container, `pid` is the first process of the container
    with the id `container`, or 0 where that is not known.
    """

    path: str
    uid: int
    pid: int
    container_id: str = ""


@dataclass(frozen=True, slots=True)
class ProxyInstance:
    """A proxy that was started: `endpoint` is a client endpoint string, `started` epoch seconds.

    Started is not ready: it answers at `endpoint` a little later. `adopted` is one that somebody
    else started, an earlier run of this cloud. Whoever connects to a proxy with a `socket` does so
    by `runtimes.peers.endpoint_to`, never by the endpoint string alone.
    """

    id: str
    endpoint: str
    started_at: float
    adopted: bool = False
    socket: ProxySocket | None = None


@dataclass(frozen=True, slots=True)
class ResourceUsage:
    """What a proxy uses: `memory` in bytes, `cpu` in seconds of processor time since its start."""

    memory_bytes: int
    cpu_seconds: float


class Spawner(Protocol):
    """Starts and ends proxies, each known by its id, and hears when one dies."""

    on_exit: Callable[[str, str], None]
    """Called with the id of a proxy that ended unasked, and why; never for what `remove` ended,
    nor from within a call of any method here.
    """

    @property
    def proxies_survive_restart(self) -> bool:
        """Whether proxies go on running when the cloud stops; if so, the next one adopts them."""

    @property
    def problem(self) -> str:
        """A sentence about what stands in the way of starting proxies, empty when nothing does."""

    async def ensure_running(self, proxy_id: str) -> ProxyInstance:
        """Start the proxy, unless it was; CtllmError when that cannot be.

        May be cancelled; what was begun until then is `remove`'s to end.
        """

    async def remove(self, proxy_id: str) -> None:
        """End the proxy and all that belongs to it, however far its start came; may be absent."""

    async def inspect(self, proxy_id: str) -> ProxyInstance | None:
        """Give the proxy, or None when there is none or it is being removed."""

    async def list(self) -> Sequence[ProxyInstance]:
        """Give all proxies that `inspect` would give."""

    async def resource_usage(self) -> Mapping[str, ResourceUsage]:
        """What each proxy uses, as far as the system tells."""


def no_matter(proxy_id: str, reason: str) -> None:
    """What a runtime calls for a death before anybody listens."""
