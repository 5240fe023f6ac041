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

from ctllm.cloud.docker_api import Container, DockerClient, EngineRefused, Listed, Missing
from ctllm.cloud.spawners.connectivity import Attachment
from ctllm.cloud.spawners.container_spec import PROXY, Marks, container
from ctllm.cloud.spawners.exit_watcher import Deaths, Living
from ctllm.cloud.spawners.interfaces import Instance, Usage, no_matter
from ctllm.cloud.spawners.resource_usage import of_container
from ctllm.config import Proxy
from ctllm.errors import CtllmError, ProxyUnavailable
from ctllm.reactor.interfaces import Clock
from ctllm.reactor.services import MultiService

#: Seconds between asking a proxy to end and making it end.
PATIENCE = 5
#: How many containers' use is asked of the engine at once; each answer may take it a second.
STATS = 32


class DockerSpawner(MultiService):
    """A `Runtime`, for the cloud with these `marks`; `image` is started for each proxy.

    Containers are reached by the first of `attachments`; the others remove what is left of those
    that were. `now` gives epoch seconds.
    """

    outlives = True
    _log = Logger()

    def __init__(
        self,
        engine: DockerClient,
        clock: Clock,
        image: str,
        marks: Marks,
        settings: Proxy,
        attachments: Sequence[Attachment],
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self.on_exit: Callable[[str, str], None] = no_matter
        self._engine, self._image, self._marks, self._settings = engine, image, marks, settings
        self._attachment, self._attachments = attachments[0], attachments
        self._turns: WeakValueDictionary[str, DeferredLock] = WeakValueDictionary()
        self._troubles: dict[str, str] = {}
        self._asking = DeferredSemaphore(STATS)
        self._deaths = Deaths(engine, clock, marks.ours, now, self._died)
        self._deaths.setServiceParent(self)

    @property
    def trouble(self) -> str:
        """What is wrong with the engine, the image, or the last start; empty when nothing is."""
        return next(iter(self._troubles.values()), "")

    def startService(self) -> None:
        """Begin; BadConfiguration when this host has no place for it."""
        self._attachment.open()
        super().startService()

    # -- asked by the cloud

    async def ensure(self, proxy_id: str) -> Instance:
        """Start the container of the proxy, unless it runs; CtllmError says what is wrong."""
        async with self._turn(proxy_id):
            with self._noting("start"):
                found = await self._look(proxy_id)
                adopted = found is not None and self._is_sound(proxy_id, found)
                if found is None or not adopted:
                    await self._clear(proxy_id)
                    found = await self._start(proxy_id)
                instance = self._instance(proxy_id, found, adopted)
                if not instance.endpoint:
                    raise ProxyUnavailable("Its container ended, or is not what was started.")
            self._troubles.clear()
            self._deaths.born(proxy_id, Living(found.id, found.state.pid))
            return instance

    async def remove(self, proxy_id: str) -> None:
        """End the container and remove it and all that is its, as far as that is ours."""
        self._deaths.forget(proxy_id)
        async with self._turn(proxy_id):
            await self._clear(proxy_id)

    async def inspect(self, proxy_id: str) -> Instance | None:
        """Give the proxy, if it runs."""
        found = await self._look(proxy_id)
        if found is None or not self._is_sound(proxy_id, found):
            return None
        self._deaths.born(proxy_id, Living(found.id, found.state.pid))
        return self._instance(proxy_id, found, adopted=True)

    async def list(self) -> Sequence[Instance]:
        """Give all proxies that run, and remove what is left of others."""
        with self._noting("engine"):
            listed = {
                each.name: each
                for each in await self._engine.containers(self._marks.ours)
                if self._is_honest(each)
            }
            left = set(listed)
            for each in self._attachments:
                left |= await each.left()
        with suppress(EngineRefused), self._noting("image"):
            await self._engine.image(self._image)
        sound = [name for name, each in listed.items() if self._fits(each)]
        for proxy_id in left - set(sound):
            await self._sweep(proxy_id)
        return [self._reached(name, listed[name], listed[name].created, True) for name in sound]

    async def usage(self) -> Mapping[str, Usage]:
        """What each that runs uses; who ended meanwhile is left out."""
        living = dict(self._deaths.living)
        asking = [Deferred.fromCoroutine(self._use(each)) for each in living.values()]
        used = zip(living, await gatherResults(asking, consumeErrors=True), strict=True)
        return {proxy_id: use for proxy_id, use in used if use is not None}

    async def _use(self, living: Living) -> Usage | None:
        use = of_container(living.pid, living.container)
        if use is None:  # an engine elsewhere, or groups that we cannot see
            with suppress(EngineRefused):
                async with self._asking:
                    told = await self._engine.stats(living.container)
                use = Usage(told.memory, told.cpu)
        return use

    # -- how

    def _died(self, proxy_id: str, reason: str) -> None:
        self.on_exit(proxy_id, reason)

    def _turn(self, proxy_id: str) -> DeferredLock:
        """What is done to one proxy is done in turn; different ones never wait for each other."""
        return self._turns.setdefault(proxy_id, DeferredLock())

    @contextmanager
    def _noting(self, what: str) -> Iterator[None]:
        """Remember what is wrong until that goes well again."""
        try:
            yield
        except CtllmError as error:
            self._troubles[what] = error.message
            raise
        self._troubles.pop(what, None)

    async def _look(self, proxy_id: str) -> Container | None:
        with suppress(Missing):
            return await self._engine.container(proxy_id)
        return None

    def _is_sound(self, proxy_id: str, found: Container) -> bool:
        """Whether it runs and believes us; ProxyUnavailable if it is somebody else's."""
        if not self._marks.own(found.labels):
            raise ProxyUnavailable(
                f"A container that is not this cloud's has the name {proxy_id}; remove it, and try "
                "again."
            )
        state = found.state
        running = state.running and not state.paused and state.status == "running"
        reached = bool(self._attachment.endpoint(proxy_id, found))
        return running and reached and self._marks.fit(found.labels)

    def _is_honest(self, listed: Listed) -> bool:
        labels = listed.labels or {}
        return self._marks.own(labels) and labels.get(PROXY) == listed.name

    def _fits(self, listed: Listed) -> bool:
        reached = bool(self._attachment.endpoint(listed.name, listed))
        return listed.state == "running" and reached and self._marks.fit(listed.labels or {})

    async def _start(self, proxy_id: str) -> Container:
        attached = await self._attachment.make(proxy_id)
        body = container(self._image, self._marks, proxy_id, self._settings, attached)
        made = await self._engine.create_container(proxy_id, body)
        await self._engine.start_container(made)
        found = await self._engine.container(made)
        if not found.state.running:
            said = (await self._engine.last_words(made, 1))[-200:]
            raise ProxyUnavailable(f"Its container ended at once: {said or found.state.error}")
        await self._attachment.ready(proxy_id)
        return found

    async def _clear(self, proxy_id: str) -> None:
        """Remove what there is of a proxy, if it is ours."""
        found = await self._look(proxy_id)
        if found is not None and self._marks.own(found.labels):
            if found.state.status == "running":
                # It tells its desktops, which then look for the next one at once.
                await self._engine.stop_container(found.id, PATIENCE)
            await self._engine.remove_container(found.id)
        for each in self._attachments:
            await each.clear(proxy_id)

    async def _sweep(self, proxy_id: str) -> None:
        """Remove what is left of a proxy, unless somebody is at it or it runs after all."""
        turn = self._turn(proxy_id)
        if turn.locked:
            return
        async with turn:
            try:
                found = await self._look(proxy_id)
                if found is None or not self._is_sound(proxy_id, found):
                    self._log.info("what is left of {proxy} is removed", proxy=proxy_id)
                    await self._clear(proxy_id)
            except ProxyUnavailable as error:
                self._log.warn("{proxy} stays: {why}", proxy=proxy_id, why=error.message)

    def _instance(self, proxy_id: str, found: Container, adopted: bool) -> Instance:
        started = found.state.started_at
        return self._reached(proxy_id, found, started.timestamp() if started else 0.0, adopted)

    def _reached(
        self, proxy_id: str, found: Container | Listed, started: float, adopted: bool
    ) -> Instance:
        endpoint = self._attachment.endpoint(proxy_id, found)
        socket = self._attachment.socket(proxy_id, found)
        return Instance(proxy_id, endpoint, started, adopted, socket)
