"""The runtime for servers: each streaming proxy is a container, closed to all but the cloud.

Docker's state is the only memory: containers and networks are known by their labels, so whatever
happens to the cloud, the next one finds what runs. Events shorten the wait for a death; when they
are lost, `list`, which is asked ever again, finds the same.
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
from ctllm.cloud.spawners.interfaces import ProxyInstance, ResourceUsage, no_matter
from ctllm.cloud.spawners.resource_usage import container_usage
from ctllm.config import Proxy
from ctllm.errors import CtllmError, ProxyUnavailable
from ctllm.reactor.interfaces import Clock
from ctllm.reactor.services import MultiService

#: Seconds between asking a proxy to end and making it end.
STOP_TIMEOUT = 5
#: How many containers' use is asked of the engine at once; each answer may take it a second.
MAX_CONCURRENT_STATS = 32


class DockerSpawner(MultiService):
    """A `Runtime`, for the cloud with these `marks`; `image` is started for each proxy.

    Containers are reached by the first of `attachments`; the others remove what is left of those
    that were. `now` gives epoch seconds.
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
        self.on_exit: Callable[[str, str], None] = no_matter
        self._docker, self._image, self._labels, self._settings = docker, image, labels, settings
        self._connectivity, self._connectivities = connectivities[0], connectivities
        self._locks: WeakValueDictionary[str, DeferredLock] = WeakValueDictionary()
        self._problems: dict[str, str] = {}
        self._stats_slots = DeferredSemaphore(MAX_CONCURRENT_STATS)
        self._exit_watcher = ExitWatcher(docker, clock, labels.selector, now, self._notify_exit)
        self._exit_watcher.setServiceParent(self)

    @property
    def problem(self) -> str:
        """What is wrong with the engine, the image, or the last start; empty when nothing is."""
        return next(iter(self._problems.values()), "")

    def startService(self) -> None:
        """Begin; BadConfiguration when this host has no place for it."""
        self._connectivity.check_host()
        super().startService()

    # -- asked by the cloud

    async def ensure_running(self, proxy_id: str) -> ProxyInstance:
        """Start the container of the proxy, unless it runs; CtllmError says what is wrong."""
        async with self._lock(proxy_id):
            with self._recording_problem("start"):
                container = await self._find_container(proxy_id)
                adopted = container is not None and self._is_usable(proxy_id, container)
                if container is None or not adopted:
                    await self._remove_resources(proxy_id)
                    container = await self._start_container(proxy_id)
                instance = self._started_instance(proxy_id, container, adopted)
                if not instance.endpoint:
                    raise ProxyUnavailable("Its container ended, or is not what was started.")
            self._problems.clear()
            self._exit_watcher.watch(proxy_id, RunningContainer(container.id, container.state.pid))
            return instance

    async def remove(self, proxy_id: str) -> None:
        """End the container and remove it and all that is its, as far as that is ours."""
        self._exit_watcher.unwatch(proxy_id)
        async with self._lock(proxy_id):
            await self._remove_resources(proxy_id)

    async def inspect(self, proxy_id: str) -> ProxyInstance | None:
        """Give the proxy, if it runs."""
        container = await self._find_container(proxy_id)
        if container is None or not self._is_usable(proxy_id, container):
            return None
        self._exit_watcher.watch(proxy_id, RunningContainer(container.id, container.state.pid))
        return self._started_instance(proxy_id, container, adopted=True)

    async def list(self) -> Sequence[ProxyInstance]:
        """Give all proxies that run, and remove what is left of others."""
        with self._recording_problem("engine"):
            listed = {
                each.name: each
                for each in await self._docker.list_containers(self._labels.selector)
                if self._is_owned(each)
            }
            proxy_ids = set(listed)
            for each in self._connectivities:
                proxy_ids |= await each.list_provisioned()
        with suppress(DockerError), self._recording_problem("image"):
            await self._docker.inspect_image(self._image)
        usable = [name for name, each in listed.items() if self._is_usable_summary(each)]
        for proxy_id in proxy_ids - set(usable):
            await self._remove_leftovers(proxy_id)
        return [
            self._make_instance(name, listed[name], listed[name].created, True) for name in usable
        ]

    async def resource_usage(self) -> Mapping[str, ResourceUsage]:
        """What each that runs uses; who ended meanwhile is left out."""
        containers = dict(self._exit_watcher.watched)
        requests = [
            Deferred.fromCoroutine(self._container_usage(each)) for each in containers.values()
        ]
        usages = zip(containers, await gatherResults(requests, consumeErrors=True), strict=True)
        return {proxy_id: use for proxy_id, use in usages if use is not None}

    async def _container_usage(self, container: RunningContainer) -> ResourceUsage | None:
        usage = container_usage(container.pid, container.id)
        if usage is None:  # an engine elsewhere, or groups that we cannot see
            with suppress(DockerError):
                async with self._stats_slots:
                    stats = await self._docker.container_stats(container.id)
                usage = ResourceUsage(stats.memory_bytes, stats.cpu_seconds)
        return usage

    # -- how

    def _notify_exit(self, proxy_id: str, reason: str) -> None:
        self.on_exit(proxy_id, reason)

    def _lock(self, proxy_id: str) -> DeferredLock:
        """What is done to one proxy is done in turn; different ones never wait for each other."""
        return self._locks.setdefault(proxy_id, DeferredLock())

    @contextmanager
    def _recording_problem(self, subject: str) -> Iterator[None]:
        """Remember what is wrong until that goes well again."""
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
        """Whether it runs and believes us; ProxyUnavailable if it is somebody else's."""
        if not self._labels.is_owned(container.labels):
            raise ProxyUnavailable(
                f"A container that is not this cloud's has the name {proxy_id}; remove it, and try "
                "again."
            )
        state = container.state
        running = state.running and not state.paused and state.status == "running"
        is_reachable = bool(self._connectivity.endpoint(proxy_id, container))
        return running and is_reachable and self._labels.is_current(container.labels)

    def _is_owned(self, summary: ContainerSummary) -> bool:
        labels = summary.labels or {}
        return self._labels.is_owned(labels) and labels.get(PROXY_LABEL) == summary.name

    def _is_usable_summary(self, summary: ContainerSummary) -> bool:
        is_reachable = bool(self._connectivity.endpoint(summary.name, summary))
        return (
            summary.state == "running"
            and is_reachable
            and self._labels.is_current(summary.labels or {})
        )

    async def _start_container(self, proxy_id: str) -> Container:
        connectivity = await self._connectivity.provision(proxy_id)
        config = container_config(self._image, self._labels, proxy_id, self._settings, connectivity)
        container_id = await self._docker.create_container(proxy_id, config)
        await self._docker.start_container(container_id)
        container = await self._docker.inspect_container(container_id)
        if not container.state.running:
            output = (await self._docker.container_logs(container_id, 1))[-200:]
            raise ProxyUnavailable(
                f"Its container ended at once: {output or container.state.error}"
            )
        await self._connectivity.container_started(proxy_id)
        return container

    async def _remove_resources(self, proxy_id: str) -> None:
        """Remove what there is of a proxy, if it is ours."""
        container = await self._find_container(proxy_id)
        if container is not None and self._labels.is_owned(container.labels):
            if container.state.status == "running":
                # It tells its desktops, which then look for the next one at once.
                await self._docker.stop_container(container.id, STOP_TIMEOUT)
            await self._docker.remove_container(container.id)
        for each in self._connectivities:
            await each.deprovision(proxy_id)

    async def _remove_leftovers(self, proxy_id: str) -> None:
        """Remove what is left of a proxy, unless somebody is at it or it runs after all."""
        lock = self._lock(proxy_id)
        if lock.locked:
            return
        async with lock:
            try:
                container = await self._find_container(proxy_id)
                if container is None or not self._is_usable(proxy_id, container):
                    self._log.info("what is left of {proxy} is removed", proxy=proxy_id)
                    await self._remove_resources(proxy_id)
            except ProxyUnavailable as error:
                self._log.warn("{proxy} stays: {why}", proxy=proxy_id, why=error.message)

    def _started_instance(
        self, proxy_id: str, container: Container, adopted: bool
    ) -> ProxyInstance:
        started = container.state.started_at
        return self._make_instance(
            proxy_id, container, started.timestamp() if started else 0.0, adopted
        )

    def _make_instance(
        self, proxy_id: str, container: Container | ContainerSummary, started: float, adopted: bool
    ) -> ProxyInstance:
        endpoint = self._connectivity.endpoint(proxy_id, container)
        socket = self._connectivity.proxy_socket(proxy_id, container)
        return ProxyInstance(proxy_id, endpoint, started, adopted, socket)
