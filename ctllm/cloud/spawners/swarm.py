"""A spawner that runs each streaming proxy as a service of a Docker swarm, on any of its nodes.

The swarm stores all state: services and networks are found by their labels, so the next run of the
cloud finds what runs. Each service has one task, which the swarm does not replace: the cloud does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from ctllm.cloud.spawners.task_watcher import TaskWatcher, why_ended
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
            docker, clock, labels.selector, self._exit_observers.notify, self._attach_all
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
            tasks, nodes = await run_together(
                self._docker.list_tasks(label=self._labels.selector), self._docker.list_nodes()
            )
            networks = await self._networks.list()
        ready = {each.id for each in nodes if each.is_ready}
        newest = {each.service_id: each for each in sorted(tasks, key=lambda task: task.created_at)}
        found: dict[str, ProxyInstance] = {}
        for service in filter(self._is_usable, services):
            task, network_id = newest.get(service.id), networks.get(service.name, "")
            if task is not None and not why_ended(task, ready) and task.address(network_id):
                found[service.name] = self._make_instance(service, task, network_id, True)
        self._outdated = frozenset(
            each.name for each in services if each.name in found and self._has_other_labels(each)
        )
        with suppress(CtllmError), self._problems.recording("containers"):
            await self._networks.attach(found)
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

    async def _attach_all(self) -> None:
        """Attach the server's containers again, which may have been replaced by new ones."""
        await self._networks.attach(self._watcher.proxy_ids)

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
        task, nodes = await run_together(self._newest_task(service), self._docker.list_nodes())
        network_id = await self._networks.find_id(proxy_id)
        ended = why_ended(task, {each.id for each in nodes if each.is_ready})
        if task is None or ended or not self._is_usable(service) or not task.address(network_id):
            return None
        return self._make_instance(service, task, network_id, adopted=True)

    async def _find_service(self, proxy_id: str) -> Service | None:
        with suppress(DockerNotFound):
            return await self._docker.inspect_service(proxy_id)
        return None

    async def _newest_task(self, service: Service) -> Task | None:
        tasks = await self._docker.list_tasks(service=service.id)
        return max(tasks, key=lambda task: task.created_at, default=None)

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
            task = await self._newest_task(service)
            state = "new" if task is None else task.status.state
            if task is not None and state == "running":
                return task
            if task is not None and state == "pending" and task.status.err:
                raise ServiceUnavailable(
                    f"No node of the swarm takes another streaming proxy: {task.status.err}.",
                    retry_after=60,
                )
            if task is not None and state not in _STARTING:
                raise ProxyUnavailable(f"Its task is {state}: {task.status.err}")
            await sleep(self._clock, START_POLL_INTERVAL)

    def _make_instance(
        self, service: Service, task: Task, network_id: str, adopted: bool
    ) -> ProxyInstance:
        endpoint = f"tcp:{task.address(network_id)}:{PROXY_PORT}"
        self._watcher.watch(service.name, task.id)
        started_at = task.created_at.timestamp()
        return ProxyInstance(service.name, endpoint, started_at, adopted, is_remote=True)

    def _is_usable(self, service: Service) -> bool:
        """Return whether this is a proxy of this cloud that accepts its assertions."""
        labels, name = service.labels, service.name
        is_named = is_proxy_id(name) and labels.get(PROXY_LABEL) == name
        return is_named and self._labels.is_current(labels)

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
