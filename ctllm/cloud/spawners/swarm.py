"""A spawner that runs each streaming proxy as a service of a Docker swarm, on any of its nodes.

The swarm stores all state: services and networks are found by their labels, so the next run of the
cloud finds what runs. Each service has one task, which the swarm does not replace: the cloud does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress

from ctllm.cloud.docker_api import DockerConflict, DockerNotFound, Service, SwarmClient, Task
from ctllm.cloud.spawners.container_spec import PROXY_LABEL, PROXY_PORT, CloudLabels
from ctllm.cloud.spawners.interfaces import (
    ExitObserver,
    ExitObservers,
    NameInUse,
    ProxyInstance,
    ResourceUsage,
    is_proxy_id,
)
from ctllm.cloud.spawners.problems import Problems
from ctllm.cloud.spawners.swarm_networks import SwarmNetworks
from ctllm.cloud.spawners.swarm_spec import service_config, service_labels
from ctllm.cloud.spawners.task_watcher import TaskWatcher, read_tasks, why_ended
from ctllm.config import Proxy
from ctllm.errors import CtllmError, ProxyUnavailable, ServiceUnavailable
from ctllm.reactor.deferred_tools import run_together, sleep
from ctllm.reactor.interfaces import Clock
from ctllm.reactor.keyed_locks import KeyedLocks
from ctllm.reactor.services import MultiService

#: Seconds between two looks at a task that starts, and at a network that is in use.
START_POLL_INTERVAL, REMOVE_POLL_INTERVAL = 0.1, 0.5
#: How often the removal of a network is tried again while the swarm uses it.
MAX_REMOVALS = 40
#: The states of a task before it runs.
_STARTING = frozenset(
    ("new", "allocated", "pending", "assigned", "accepted", "preparing", "ready", "starting")
)


class SwarmSpawner(MultiService):
    """A `Spawner` of services that run `image` and have the labels of this cloud.

    `constraints` select the nodes.
    """

    proxies_survive_restart = True

    def __init__(
        self,
        docker: SwarmClient,
        clock: Clock,
        image: str,
        labels: CloudLabels,
        settings: Proxy,
        networks: SwarmNetworks,
        constraints: Sequence[str],
    ) -> None:
        super().__init__()
        self._docker, self._clock, self._image = docker, clock, image
        self._labels, self._settings = labels, settings
        self._networks, self._constraints = networks, constraints
        self._exit_observers = ExitObservers()
        self._locks, self._problems = KeyedLocks(), Problems()
        self._outdated: frozenset[str] = frozenset()
        self._watcher = TaskWatcher(
            docker, clock, labels.selector, self._exit_observers.notify, self._attach_watched
        )
        self._watcher.setServiceParent(self)

    @property
    def problem(self) -> str:
        """What is wrong with the swarm or the last start, or an empty string."""
        return self._problems.first

    def add_exit_observer(self, observer: ExitObserver) -> None:
        """Call `observer` for each proxy that exits, unless `remove` stopped it."""
        self._exit_observers.add(observer)

    # -- requests of the manager

    async def ensure_running(self, proxy_id: str) -> ProxyInstance:
        """Start the proxy's service, unless it runs. Raises CtllmError if that fails."""
        async with self._locks[proxy_id]:
            with self._problems.recording("start"):
                instance = await self._find(proxy_id)
                if instance is None:
                    await self._remove_resources(proxy_id)
                    instance = await self._start(proxy_id)
            self._problems.clear()
            return instance

    async def start_completed(self, proxy_id: str) -> None:
        """Do nothing: a service has its limits from the start."""

    def can_assign(self, waiting_id: str, proxy_id: str) -> bool:
        """Return False: a service cannot be renamed, so none waits for a user."""
        return False

    async def assign(self, waiting_id: str, proxy_id: str) -> ProxyInstance:
        """Raise NameInUse."""
        raise NameInUse("The services of a swarm cannot be renamed.")

    async def remove(self, proxy_id: str) -> None:
        """Remove the proxy's service and network, if they exist."""
        self._watcher.unwatch(proxy_id)
        async with self._locks[proxy_id]:
            await self._remove_resources(proxy_id)

    async def clean_up(self, proxy_id: str) -> None:
        """Remove the proxy's service and network. Its next start may be on another node."""
        await self.remove(proxy_id)

    async def inspect(self, proxy_id: str) -> ProxyInstance | None:
        """Return the proxy, if its task runs."""
        return await self._find(proxy_id)

    async def list(self) -> Sequence[ProxyInstance]:
        """Return all proxies whose tasks run, and remove what is left of others."""
        with self._problems.recording("swarm"):
            services = await self._docker.list_services(self._labels.selector)
            tasks, ready = await read_tasks(self._docker, label=self._labels.selector)
            networks = await self._networks.list()
        found: dict[str, ProxyInstance] = {}
        for service in services:
            own = [each for each in tasks if each.service_id == service.id]
            network_id = networks.get(service.name, "")
            if instance := self._adopt(service, _newest(own), network_id, ready):
                found[service.name] = instance
        self._outdated = frozenset(
            each.name for each in services if each.name in found and self._has_other_labels(each)
        )
        with suppress(CtllmError):
            await self._attach(found)
        for proxy_id in ({each.name for each in services} | set(networks)) - set(found):
            await self._remove_leftovers(proxy_id)
        return [*found.values()]

    def is_outdated(self, proxy_id: str) -> bool:
        """Return whether the service has another image or other settings than a new one would."""
        return proxy_id in self._outdated and not self._problems

    async def resource_usage(self) -> Mapping[str, ResourceUsage]:
        """Return nothing: a manager of a swarm does not know what tasks on other nodes use."""
        return {}

    async def resource_usage_of(self, proxy_id: str) -> ResourceUsage | None:
        """Return None, as `resource_usage` says."""
        return None

    # -- helpers

    async def _attach_watched(self) -> None:
        """Attach the server's containers again, which may have been replaced by new ones."""
        await self._attach(self._watcher.proxy_ids)

    async def _attach(self, proxy_ids: Collection[str]) -> None:
        with self._problems.recording("containers"):
            await self._networks.attach(proxy_ids)

    async def _find(self, proxy_id: str) -> ProxyInstance | None:
        """Return the proxy, if it runs on a node that responds and can be reached."""
        service = await self._find_service(proxy_id)
        if service is None:
            return None
        if not self._labels.is_owned(service.labels):
            raise ProxyUnavailable(
                f"The name {proxy_id} is used by a service that is not of this cloud. Remove that "
                "service."
            )
        tasks, ready = await read_tasks(self._docker, service=service.id)
        network_id = await self._networks.find_id(proxy_id)
        return self._adopt(service, _newest(tasks), network_id, ready)

    def _adopt(
        self, service: Service, task: Task | None, network_id: str, ready_nodes: frozenset[str]
    ) -> ProxyInstance | None:
        """Return the proxy of a service, if it runs, can be reached, and accepts our assertions."""
        labels, name = service.labels, service.name
        is_named = is_proxy_id(name) and labels.get(PROXY_LABEL) == name
        if task is None or not is_named or not self._labels.is_current(labels):
            return None
        if why_ended(task, ready_nodes) or not task.address(network_id):
            return None
        return self._make_instance(service, task, network_id, adopted=True)

    async def _find_service(self, proxy_id: str) -> Service | None:
        with suppress(DockerNotFound):
            return await self._docker.inspect_service(proxy_id)
        return None

    async def _start(self, proxy_id: str) -> ProxyInstance:
        network_id = await self._networks.create(proxy_id)
        config = service_config(
            self._image, self._labels, proxy_id, self._settings, self._constraints
        )
        await self._docker.create_service(config)
        service, _ = await run_together(
            self._docker.inspect_service(proxy_id), self._networks.attach([proxy_id])
        )
        task = await self._wait_until_running(service)
        return self._make_instance(service, task, network_id, adopted=False)

    async def _wait_until_running(self, service: Service) -> Task:
        """Return the service's task when it runs. Raises CtllmError if it cannot."""
        while True:
            task = _newest(await self._docker.list_tasks(service=service.id))
            if task is not None and _has_started(task):
                return task
            await sleep(self._clock, START_POLL_INTERVAL)

    def _make_instance(
        self, service: Service, task: Task, network_id: str, adopted: bool
    ) -> ProxyInstance:
        endpoint = f"tcp:{task.address(network_id)}:{PROXY_PORT}"
        self._watcher.watch(service.name, task.id)
        started_at = task.created_at.timestamp()
        return ProxyInstance(service.name, endpoint, started_at, adopted, is_remote=True)

    def _has_other_labels(self, service: Service) -> bool:
        wanted = service_labels(self._image, self._labels, service.name, self._settings)
        return service.labels != wanted

    async def _remove_resources(self, proxy_id: str) -> None:
        """Remove the proxy's service, if it belongs to this cloud, and its network."""
        service = await self._find_service(proxy_id)
        if service is not None and self._labels.is_owned(service.labels):
            await self._docker.remove_service(service.id)
        for attempts_left in reversed(range(MAX_REMOVALS)):
            try:
                await self._networks.remove(proxy_id)
            except DockerConflict:  # its task or an attachment has not ended
                if not attempts_left:
                    raise
                await sleep(self._clock, REMOVE_POLL_INTERVAL)
            else:
                return

    async def _remove_leftovers(self, proxy_id: str) -> None:
        """Remove what is left of a proxy, unless it is in use or its task runs after all."""
        lock = self._locks[proxy_id]
        if lock.locked:
            return
        async with lock:
            # Else a service that is not of this cloud has the name, and only the network is ours.
            with suppress(ProxyUnavailable):
                if await self._find(proxy_id) is not None:
                    return
            await self._remove_resources(proxy_id)


def _newest(tasks: Iterable[Task]) -> Task | None:
    return max(tasks, key=lambda task: task.created_at, default=None)


def _has_started(task: Task) -> bool:
    """Return whether a new task runs. Raises CtllmError if it will not."""
    state, error = task.status.state, task.status.err
    if state == "pending" and error:
        raise ServiceUnavailable(
            f"No node of the swarm takes another streaming proxy: {error}.", retry_after=60
        )
    if state != "running" and state not in _STARTING:
        raise ProxyUnavailable(f"Its task is {state}: {error}")
    return state == "running"
