"""A spawner that runs each streaming proxy as a Docker container.

Docker stores all state: containers and networks are found by their labels, so the next run of the
cloud finds what runs. Events report exits early; if they are lost, the next `list` finds the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from weakref import WeakValueDictionary

from twisted.internet.defer import Deferred, DeferredLock, DeferredSemaphore, gatherResults
from twisted.logger import Logger

from ctllm.cloud.docker_api import (
    Container,
    ContainerSummary,
    DockerClient,
    DockerError,
    DockerNotFound,
)
from ctllm.cloud.spawners.connectivity import Connectivity
from ctllm.cloud.spawners.container_spec import PROXY_LABEL, CloudLabels, container_config
from ctllm.cloud.spawners.exit_watcher import ExitWatcher, RunningContainer
from ctllm.cloud.spawners.interfaces import (
    ExitObserver,
    ExitObservers,
    ProxyInstance,
    ResourceUsage,
)
from ctllm.cloud.spawners.resource_usage import container_usage
from ctllm.config import Proxy
from ctllm.errors import CtllmError, ProxyUnavailable
from ctllm.reactor.interfaces import Clock
from ctllm.reactor.services import MultiService

#: Seconds between SIGTERM and SIGKILL.
STOP_TIMEOUT = 5
#: Concurrent requests for statistics; Docker may take a second for each.
MAX_CONCURRENT_STATS = 32


class DockerSpawner(MultiService):
    """A `Spawner` of containers that run `image` and have the labels of this cloud.

    New containers are reached by the first of `connectivities`. The others only remove what
    earlier runs of the cloud provisioned. `now` returns epoch seconds.
    """

    proxies_survive_restart = True
    _log = Logger()

    def __init__(
        self,
        docker: DockerClient,
        clock: Clock,
        image: str,
        labels: CloudLabels,
        settings: Proxy,
        connectivities: Sequence[Connectivity],
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self._docker, self._image, self._labels, self._settings = docker, image, labels, settings
        self._connectivity, self._connectivities = connectivities[0], connectivities
        self._exit_observers = ExitObservers()
        self._locks: WeakValueDictionary[str, DeferredLock] = WeakValueDictionary()
        self._problems: dict[str, str] = {}
        self._stats_slots = DeferredSemaphore(MAX_CONCURRENT_STATS)
        self._exit_watcher = ExitWatcher(
            docker, clock, labels.selector, now, self._exit_observers.notify
        )
        self._exit_watcher.setServiceParent(self)

    @property
    def problem(self) -> str:
        """What is wrong with Docker, the image or the last start, or an empty string."""
        return next(iter(self._problems.values()), "")

    def add_exit_observer(self, observer: ExitObserver) -> None:
        """Call `observer` for each proxy that exits, unless `remove` stopped it."""
        self._exit_observers.add(observer)

    def startService(self) -> None:
        """Start watching containers. Raises BadConfiguration if this host lacks what they need."""
        self._connectivity.check_host()
        super().startService()

    # -- requests of the manager

    async def ensure_running(self, proxy_id: str) -> ProxyInstance:
        """Start the proxy's container, unless it runs. Raises CtllmError if that fails."""
        async with self._lock(proxy_id):
            with self._recording_problem("start"):
                container = await self._find_container(proxy_id)
                adopted = container is not None and self._is_usable(proxy_id, container)
                if container is None or not adopted:
                    await self._remove_resources(proxy_id)
                    container = await self._start_container(proxy_id)
                instance = self._started_instance(proxy_id, container, adopted)
                if not instance.endpoint:
                    raise ProxyUnavailable("Its container exited, or was replaced by another one.")
            self._problems.clear()
            self._watch(proxy_id, container)
            return instance

    async def remove(self, proxy_id: str) -> None:
        """Stop the proxy's container and remove all that belongs to it, if anything exists."""
        self._exit_watcher.unwatch(proxy_id)
        async with self._lock(proxy_id):
            await self._remove_resources(proxy_id)

    async def inspect(self, proxy_id: str) -> ProxyInstance | None:
        """Return the proxy, if its container runs."""
        container = await self._find_container(proxy_id)
        if container is None or not self._is_usable(proxy_id, container):
            return None
        self._watch(proxy_id, container)
        return self._started_instance(proxy_id, container, adopted=True)

    async def list(self) -> Sequence[ProxyInstance]:
        """Return all proxies whose containers run, and remove what is left of others."""
        with self._recording_problem("docker"):
            listed = {
                each.name: each
                for each in await self._docker.list_containers(self._labels.selector)
                if self._is_owned(each)
            }
            proxy_ids = set(listed)
            for connectivity in self._connectivities:
                proxy_ids |= await connectivity.list_provisioned()
        with suppress(DockerError), self._recording_problem("image"):
            await self._docker.inspect_image(self._image)
        usable = [name for name, each in listed.items() if self._is_usable_summary(each)]
        for proxy_id in proxy_ids - set(usable):
            await self._remove_leftovers(proxy_id)
        return [
            self._make_instance(name, listed[name], listed[name].created, True) for name in usable
        ]

    async def resource_usage(self) -> Mapping[str, ResourceUsage]:
        """Return what each running container uses."""
        containers = dict(self._exit_watcher.watched)
        requests = [
            Deferred.fromCoroutine(self._container_usage(each)) for each in containers.values()
        ]
        usages = zip(containers, await gatherResults(requests, consumeErrors=True), strict=True)
        return {proxy_id: usage for proxy_id, usage in usages if usage is not None}

    async def resource_usage_of(self, proxy_id: str) -> ResourceUsage | None:
        """Return what the container of one proxy uses, if it runs."""
        container = self._exit_watcher.watched.get(proxy_id)
        return None if container is None else await self._container_usage(container)

    # -- helpers

    async def _container_usage(self, container: RunningContainer) -> ResourceUsage | None:
        usage = container_usage(container.pid, container.id)
        if usage is None:  # Docker runs on another host, or its control groups are not visible
            with suppress(DockerError):
                async with self._stats_slots:
                    stats = await self._docker.container_stats(container.id)
                usage = ResourceUsage(stats.memory_bytes, stats.cpu_seconds)
        return usage

    def _watch(self, proxy_id: str, container: Container) -> None:
        self._exit_watcher.watch(proxy_id, RunningContainer(container.id, container.state.pid))

    def _lock(self, proxy_id: str) -> DeferredLock:
        """Return the lock that serialises the operations on one proxy."""
        return self._locks.setdefault(proxy_id, DeferredLock())

    @contextmanager
    def _recording_problem(self, subject: str) -> Iterator[None]:
        """Record an error of the block as the subject's problem until a later block succeeds."""
        try:
            yield
        except CtllmError as error:
            self._problems[subject] = error.message
            raise
        self._problems.pop(subject, None)

    async def _find_container(self, proxy_id: str) -> Container | None:
        with suppress(DockerNotFound):
            return await self._docker.inspect_container(proxy_id)
        return None

    def _is_usable(self, proxy_id: str, container: Container) -> bool:
        """Return whether the container runs, can be reached, and accepts our assertions.

        Raises ProxyUnavailable if it does not belong to this cloud.
        """
        if not self._labels.is_owned(container.labels):
            raise ProxyUnavailable(
                f"The name {proxy_id} is used by a container that is not of this cloud. Remove "
                "that container."
            )
        state = container.state
        is_running = state.running and not state.paused and state.status == "running"
        is_reachable = bool(self._connectivity.endpoint(proxy_id, container))
        return is_running and is_reachable and self._labels.is_current(container.labels)

    def _is_owned(self, summary: ContainerSummary) -> bool:
        labels = summary.labels or {}
        return self._labels.is_owned(labels) and labels.get(PROXY_LABEL) == summary.name

    def _is_usable_summary(self, summary: ContainerSummary) -> bool:
        is_running = summary.state == "running"
        is_reachable = bool(self._connectivity.endpoint(summary.name, summary))
        return is_running and is_reachable and self._labels.is_current(summary.labels or {})

    async def _start_container(self, proxy_id: str) -> Container:
        connectivity = await self._connectivity.provision(proxy_id)
        config = container_config(self._image, self._labels, proxy_id, self._settings, connectivity)
        container_id = await self._docker.create_container(proxy_id, config)
        await self._docker.start_container(container_id)
        container = await self._docker.inspect_container(container_id)
        if not container.state.running:
            output = (await self._docker.container_logs(container_id, 1))[-200:]
            raise ProxyUnavailable(
                f"Its container exited at once: {output or container.state.error}"
            )
        await self._connectivity.container_started(proxy_id)
        return container

    async def _remove_resources(self, proxy_id: str) -> None:
        """Remove the proxy's container, if it belongs to this cloud, and what was provisioned."""
        container = await self._find_container(proxy_id)
        if container is not None and self._labels.is_owned(container.labels):
            if container.state.status == "running":
                # On SIGTERM the proxy notifies its desktops, which reconnect at once.
                await self._docker.stop_container(container.id, STOP_TIMEOUT)
            await self._docker.remove_container(container.id)
        for connectivity in self._connectivities:
            await connectivity.deprovision(proxy_id)

    async def _remove_leftovers(self, proxy_id: str) -> None:
        """Remove what is left of a proxy, unless it is in use or its container runs after all."""
        lock = self._lock(proxy_id)
        if lock.locked:
            return
        async with lock:
            try:
                container = await self._find_container(proxy_id)
                if container is None or not self._is_usable(proxy_id, container):
                    self._log.info("Removing leftovers of {proxy}", proxy=proxy_id)
                    await self._remove_resources(proxy_id)
            except ProxyUnavailable as error:
                self._log.warn(
                    "Cannot remove leftovers of {proxy}: {reason}",
                    proxy=proxy_id,
                    reason=error.message,
                )

    def _started_instance(
        self, proxy_id: str, container: Container, adopted: bool
    ) -> ProxyInstance:
        started_at = container.state.started_at
        epoch_seconds = started_at.timestamp() if started_at else 0.0
        return self._make_instance(proxy_id, container, epoch_seconds, adopted)

    def _make_instance(
        self,
        proxy_id: str,
        container: Container | ContainerSummary,
        started_at: float,
        adopted: bool,
    ) -> ProxyInstance:
        endpoint = self._connectivity.endpoint(proxy_id, container)
        socket = self._connectivity.proxy_socket(proxy_id, container)
        return ProxyInstance(proxy_id, endpoint, started_at, adopted, socket)
