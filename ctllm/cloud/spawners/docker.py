"""A spawner that runs each streaming proxy as a Docker container.

Docker stores all state: containers and networks are found by their labels, so the next run of the
cloud finds what runs. Events report exits early; if they are lost, the next `list` finds the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.logger import Logger

from ctllm.cloud.docker_api import (
    Container,
    ContainerSummary,
    DockerClient,
    DockerConflict,
    DockerError,
    DockerNotFound,
)
from ctllm.cloud.spawners.connectivity import Connectivity
from ctllm.cloud.spawners.container_spec import (
    NANO_CPUS,
    PROXY_LABEL,
    RESTART_NANO_CPUS,
    SETTINGS_LABEL,
    CloudLabels,
    container_config,
    created_as,
    settings_id,
)
from ctllm.cloud.spawners.exit_watcher import ExitWatcher, RunningContainer
from ctllm.cloud.spawners.interfaces import (
    ExitObserver,
    ExitObservers,
    NameInUse,
    ProxyInstance,
    ResourceUsage,
    is_proxy_id,
    is_waiting_id,
)
from ctllm.cloud.spawners.problems import Problems
from ctllm.cloud.spawners.resource_usage import container_usage
from ctllm.config import Proxy
from ctllm.errors import CtllmError, ProxyUnavailable
from ctllm.reactor.deferred_tools import run_together
from ctllm.reactor.interfaces import Clock
from ctllm.reactor.keyed_locks import KeyedLocks
from ctllm.reactor.services import MultiService

#: Seconds between SIGTERM and SIGKILL.
STOP_TIMEOUT = 5
#: Concurrent requests for statistics; Docker may take a second for each.
MAX_CONCURRENT_STATS = 32
#: Seconds for which a container that exited is kept, for the next start to start it again.
EXITED_RETENTION = 300.0


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
        self._locks, self._problems = KeyedLocks(), Problems()
        self._outdated: frozenset[str] = frozenset()  # ids of containers
        self._unlimited: set[str] = set()  # proxies whose processor time has no limit yet
        self._now = now
        self._kept_until: dict[str, float] = {}  # of proxies whose container exited
        self._stats_slots = DeferredSemaphore(MAX_CONCURRENT_STATS)
        self._exit_watcher = ExitWatcher(
            docker, clock, labels.selector, now, self._exit_observers.notify
        )
        self._exit_watcher.setServiceParent(self)

    @property
    def problem(self) -> str:
        """What is wrong with Docker, image, firewall or the last start, or an empty string."""
        return self._problems.first

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
        async with self._locks[proxy_id]:
            with self._problems.recording("start"):
                container = await self._find_container(proxy_id)
                adopted = container is not None and self._is_usable(proxy_id, container)
                if container is None or not adopted:
                    container = await self._start_again(proxy_id, container)
                self._kept_until.pop(proxy_id, None)
                if container.host_config.nano_cpus != NANO_CPUS:
                    self._unlimited.add(proxy_id)
                instance = self._started_instance(proxy_id, container, adopted)
                if not instance.endpoint:
                    raise ProxyUnavailable("Its container exited, or was replaced by another one.")
            self._problems.clear()
            self._watch(proxy_id, container)
            return instance

    async def start_completed(self, proxy_id: str) -> None:
        """Limit the processor time of the proxy. Raises DockerError if that fails."""
        if proxy_id in self._unlimited:
            await self._docker.limit_processors(proxy_id, NANO_CPUS)
            self._unlimited.discard(proxy_id)

    def can_assign(self, waiting_id: str, proxy_id: str) -> bool:
        """Return whether the waiting container runs, and the user has none, as far as is known."""
        watched = self._exit_watcher.watched
        has_none = proxy_id not in watched and proxy_id not in self._kept_until
        return waiting_id in watched and has_none

    async def assign(self, waiting_id: str, proxy_id: str) -> ProxyInstance:
        """Rename a waiting container. Its name is what assigns it: Docker keeps names unique.

        Raises NameInUse, and ProxyUnavailable if it is outdated or not isolated from this host.
        """
        async with self._locks[proxy_id], self._locks[waiting_id]:
            container, _ = await run_together(
                self._inspect_waiting(waiting_id), self._connectivity.verify_isolation()
            )
            try:
                await self._docker.rename_container(container.id, proxy_id)
            except DockerConflict as error:
                raise NameInUse(error.message) from error
            self._exit_watcher.rename(waiting_id, proxy_id)
            return self._started_instance(proxy_id, container, adopted=False)

    async def _inspect_waiting(self, waiting_id: str) -> Container:
        """Return a waiting container; raises ProxyUnavailable unless a new one would be equal."""
        container, image = await run_together(
            self._docker.inspect_container(waiting_id), self._docker.inspect_image(self._image)
        )
        is_outdated = container.image != image.id or self._has_other_settings(container.labels)
        if is_outdated or not self._is_usable(waiting_id, container):
            raise ProxyUnavailable("The container that waited is outdated, or does not run.")
        return container

    async def remove(self, proxy_id: str) -> None:
        """Stop the proxy's container and remove all that belongs to it, if anything exists."""
        self._exit_watcher.unwatch(proxy_id)
        self._unlimited.discard(proxy_id)
        async with self._locks[proxy_id]:
            self._kept_until.pop(proxy_id, None)
            await self._remove_resources(proxy_id)

    async def clean_up(self, proxy_id: str) -> None:
        """Keep the proxy's container and network for the next start, if it exited; else remove all.

        To start it again takes half as long, and leaves Docker's rules of the network alone.
        """
        self._exit_watcher.unwatch(proxy_id)
        self._unlimited.discard(proxy_id)
        async with self._locks[proxy_id]:
            container = await self._find_container(proxy_id)
            if container is not None and self._has_exited(container):
                self._kept_until[proxy_id] = self._now() + EXITED_RETENTION
            else:
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
        with self._problems.recording("docker"):
            listed = {
                each.name: each
                for each in await self._docker.list_containers(self._labels.selector)
                if self._is_owned(each)
            }
            proxy_ids = set(listed)
            for connectivity in self._connectivities:
                proxy_ids |= await connectivity.list_provisioned()
        image_id = ""
        with suppress(DockerError), self._problems.recording("image"):
            image_id = (await self._docker.inspect_image(self._image)).id
        with suppress(ProxyUnavailable), self._problems.recording("firewall"):
            await self._connectivity.verify_isolation()
        usable = [name for name, each in listed.items() if self._is_usable_summary(each)]
        self._outdated = frozenset(
            listed[name].id for name in usable if self._is_outdated_summary(listed[name], image_id)
        )
        in_use = {created_as(each.labels or {}, name) for name, each in listed.items()}
        for proxy_id in proxy_ids - set(usable) - (in_use - listed.keys()):
            if self._kept_until.get(proxy_id, 0.0) <= self._now():
                await self._remove_leftovers(proxy_id)
        return [
            self._make_instance(name, listed[name], listed[name].created, True) for name in usable
        ]

    def is_outdated(self, proxy_id: str) -> bool:
        """Return whether the container's image is not the one that `image` names now.

        It is False while something keeps containers from starting.
        """
        container = self._exit_watcher.watched.get(proxy_id)
        return container is not None and container.id in self._outdated and not self._problems

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
        resources = created_as(container.labels, proxy_id)
        is_reachable = bool(self._connectivity.endpoint(resources, container))
        return is_running and is_reachable and self._labels.is_current(container.labels)

    def _has_other_settings(self, labels: Mapping[str, str]) -> bool:
        return labels.get(SETTINGS_LABEL) != settings_id(self._image, self._settings)

    def _is_outdated_summary(self, summary: ContainerSummary, image_id: str) -> bool:
        """Return whether a container has another image, or waits with other settings."""
        is_waiting = is_waiting_id(summary.name)
        has_other_settings = is_waiting and self._has_other_settings(summary.labels or {})
        return summary.image_id not in ("", image_id) or has_other_settings

    def _is_owned(self, summary: ContainerSummary) -> bool:
        labels, name = summary.labels or {}, summary.name
        is_assigned = is_proxy_id(name) and is_waiting_id(labels.get(PROXY_LABEL, ""))
        return self._labels.is_owned(labels) and (is_assigned or labels.get(PROXY_LABEL) == name)

    def _is_usable_summary(self, summary: ContainerSummary) -> bool:
        is_running = summary.state == "running"
        labels = summary.labels or {}
        resources = created_as(labels, summary.name)
        is_reachable = bool(self._connectivity.endpoint(resources, summary))
        return is_running and is_reachable and self._labels.is_current(labels)

    async def _start_again(self, proxy_id: str, exited: Container | None) -> Container:
        """Start the container that exited again; or a new one, if that cannot be, or fails."""
        if exited is not None and self._has_exited(exited):
            resources = created_as(exited.labels, proxy_id)
            try:
                if await self._make_ready(resources, exited):
                    return await self._run_container(exited.id, resources)
            except CtllmError as error:
                reason = error.message
                self._log.warn("Replacing {proxy}: {reason}", proxy=proxy_id, reason=reason)
        await self._remove_resources(proxy_id)
        return await self._start_container(proxy_id)

    def _has_exited(self, container: Container) -> bool:
        """Return whether a container of this cloud ran once, and its process has ended."""
        labels = container.labels
        return container.state.status == "exited" and self._labels.is_current(labels)

    async def _make_ready(self, resources: str, exited: Container) -> bool:
        """Return whether a container that exited is as a new one would be, and may start."""
        image, is_provisioned = await run_together(
            self._docker.inspect_image(self._image),
            self._connectivity.provision_again(resources, exited),
        )
        is_outdated = exited.image != image.id or self._has_other_settings(exited.labels)
        if is_outdated or not is_provisioned:
            return False
        await self._docker.limit_processors(exited.id, RESTART_NANO_CPUS)
        return True

    async def _start_container(self, proxy_id: str) -> Container:
        connectivity = await self._connectivity.prepare(proxy_id)
        config = container_config(self._image, self._labels, proxy_id, self._settings, connectivity)
        container_id, _ = await run_together(
            self._docker.create_container(proxy_id, config), self._connectivity.provision(proxy_id)
        )
        return await self._run_container(container_id, proxy_id)

    async def _run_container(self, container_id: str, resources: str) -> Container:
        """Start a container for which everything is provisioned with the id `resources`."""
        await self._docker.start_container(container_id)
        container = await self._docker.inspect_container(container_id)
        if not container.state.running:
            output = (await self._docker.container_logs(container_id, 1))[-200:]
            raise ProxyUnavailable(
                f"Its container exited at once: {output or container.state.error}"
            )
        await self._connectivity.container_started(resources)
        return container

    async def _remove_resources(self, proxy_id: str) -> None:
        """Remove the proxy's container, if it belongs to this cloud, and what was provisioned."""
        container, resources = await self._find_container(proxy_id), {proxy_id}
        if container is None and await self._is_assigned(proxy_id):
            return
        if container is not None and self._labels.is_owned(container.labels):
            resources.add(created_as(container.labels, proxy_id))
            if container.state.status == "running":
                # On SIGTERM the proxy notifies its desktops, which reconnect at once.
                await self._docker.stop_container(container.id, STOP_TIMEOUT)
            await self._docker.remove_container(container.id)
        for connectivity in self._connectivities:
            for each in resources:
                await connectivity.deprovision(each)

    async def _is_assigned(self, proxy_id: str) -> bool:
        """Return whether a container that waited has the name of a user's proxy now."""
        if not is_waiting_id(proxy_id):
            return False
        created = await self._docker.list_containers(f"{PROXY_LABEL}={proxy_id}")
        return any(self._is_owned(each) for each in created)

    async def _remove_leftovers(self, proxy_id: str) -> None:
        """Remove what is left of a proxy, unless it is in use or its container runs after all."""
        lock = self._locks[proxy_id]
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
        resources = created_as(container.labels or {}, proxy_id)
        endpoint = self._connectivity.endpoint(resources, container)
        socket = self._connectivity.proxy_socket(resources, container)
        waiting_id = resources if is_waiting_id(resources) else ""
        return ProxyInstance(proxy_id, endpoint, started_at, adopted, socket, waiting_id)
