"""The runtime for servers: each streaming proxy is a container on a network of its own.

Docker's state is the only memory: containers and networks are known by their labels, so whatever
happens to the cloud, the next one finds what runs. Events shorten the wait for a death; when they
are lost, `list`, which is asked ever again, finds the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import IPv4Network
from weakref import WeakValueDictionary

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.logger import Logger
from twisted.python.failure import Failure

from ctllm.cloud.engine import (
    Container,
    Engine,
    EngineRefused,
    Happened,
    Listed,
    Missing,
    NoSubnet,
)
from ctllm.cloud.runtimes import Instance, no_matter
from ctllm.cloud.runtimes.containers import (
    CONTAINER,
    PORT,
    PROXY,
    Marks,
    container,
    network,
    network_name,
)
from ctllm.cloud.runtimes.subnets import Subnets
from ctllm.cloud.waiting import sleep
from ctllm.config import Proxy
from ctllm.errors import ProxyUnavailable
from ctllm.http.faces import Clock

#: Subnets that are tried: Docker refuses one which another of its users has taken meanwhile.
TRIES = 8
#: Seconds until events are listened for again, once they have ended.
AGAIN = 5.0
#: Seconds between asking a proxy to end and making it end.
PATIENCE = 5
_DEATHS = ("die", "oom", "pause", "destroy")


class DockerRuntime(Service):
    """A `Runtime`, for the cloud with these `marks`; `image` is started for each proxy."""

    outlives = True
    _log = Logger()

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        image: str,
        marks: Marks,
        settings: Proxy,
        pool: IPv4Network,
    ) -> None:
        self.on_exit: Callable[[str, str], None] = no_matter
        self._engine, self._clock = engine, clock
        self._image, self._marks, self._settings = image, marks, settings
        self._subnets = Subnets(pool)
        self._running: dict[str, str] = {}  # a proxy's id to its container's
        self._starved: set[str] = set()  # containers that wanted more memory than they may have
        self._turns: WeakValueDictionary[str, DeferredLock] = WeakValueDictionary()
        self._hearing: Deferred[None] | None = None

    def startService(self) -> None:
        """Listen for deaths."""
        super().startService()
        self._hearing = Deferred.fromCoroutine(self._hear())
        self._hearing.addErrback(_cancelled)

    def stopService(self) -> None:
        """Leave all as it is; the next cloud adopts it."""
        super().stopService()
        if self._hearing is not None:
            self._hearing.cancel()

    # -- asked by the cloud

    async def ensure(self, proxy_id: str) -> Instance:
        """Start the container of the proxy, unless it runs; EngineRefused says what is wrong."""
        async with self._turn(proxy_id):
            found = await self._look(proxy_id)
            if found is not None and self._is_sound(proxy_id, found):
                return self._known(proxy_id, found, adopted=True)
            await self._clear(proxy_id)
            return self._known(proxy_id, await self._start(proxy_id), adopted=False)

    async def remove(self, proxy_id: str) -> None:
        """End the container and remove it and its network, as far as they are ours."""
        self._starved.discard(self._running.pop(proxy_id, ""))
        async with self._turn(proxy_id):
            await self._clear(proxy_id)

    async def inspect(self, proxy_id: str) -> Instance | None:
        """Give the proxy, if it runs."""
        found = await self._look(proxy_id)
        if found is None or not self._is_sound(proxy_id, found):
            return None
        return self._instance(proxy_id, found, adopted=True)

    async def list(self) -> Sequence[Instance]:
        """Give all proxies that run, and remove what is left of others."""
        listed = {
            each.name: each
            for each in await self._engine.containers(self._marks.ours)
            if self._is_honest(each)
        }
        networks = await self._engine.networks(self._marks.ours)
        sound = [name for name, each in listed.items() if self._fits(each)]
        owners = {(each.labels or {}).get(PROXY, ""): each.name for each in networks}
        left = {id for id, name in owners.items() if name == network_name(id)} | listed.keys()
        for proxy_id in left - set(sound):
            await self._sweep(proxy_id)
        return [
            Instance(name, _endpoint(listed[name].address(network_name(name))),
                     listed[name].created, adopted=True)
            for name in sound
        ]  # fmt: skip

    # -- how

    def _turn(self, proxy_id: str) -> DeferredLock:
        """What is done to one proxy is done in turn; different ones never wait for each other."""
        return self._turns.setdefault(proxy_id, DeferredLock())

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
        return (
            running
            and self._marks.fit(found.labels)
            and bool(found.address(network_name(proxy_id)))
        )

    def _is_honest(self, listed: Listed) -> bool:
        labels = listed.labels or {}
        return self._marks.own(labels) and labels.get(PROXY) == listed.name

    def _fits(self, listed: Listed) -> bool:
        return listed.state == "running" and self._marks.fit(listed.labels or {})

    async def _start(self, proxy_id: str) -> Container:
        await self._make_network(proxy_id)
        place = {"NetworkMode": network_name(proxy_id)}
        listening = ("--port", str(PORT), "--host", "0.0.0.0")  # noqa: S104 - of its own network
        body = container(self._image, self._marks, proxy_id, self._settings, listening, place)
        made = await self._engine.create_container(proxy_id, body)
        await self._engine.start_container(made)
        found = await self._engine.container(made)
        if not found.state.running:
            said = (await self._engine.last_words(made, 1))[-200:]
            raise ProxyUnavailable(f"Its container ended at once: {said or found.state.error}")
        return found

    async def _make_network(self, proxy_id: str) -> None:
        for left in reversed(range(TRIES)):
            taken = [one for each in await self._engine.networks() for one in each.subnets]
            subnet = self._subnets.take(taken)
            try:
                await self._engine.create_network(network(self._marks, proxy_id, subnet))
            except NoSubnet:
                if not left:
                    raise
            else:
                return
            finally:
                self._subnets.release(subnet)

    async def _clear(self, proxy_id: str) -> None:
        """Remove what there is of a proxy, if it is ours."""
        found = await self._look(proxy_id)
        if found is not None and self._marks.own(found.labels):
            if found.state.status == "running":
                # It tells its desktops, which then look for the next one at once.
                await self._engine.stop_container(found.id, PATIENCE)
            await self._engine.remove_container(found.id)
        with suppress(Missing):
            theirs = await self._engine.network(network_name(proxy_id))
            if self._marks.own(theirs.labels or {}):
                await self._engine.remove_network(theirs.id)

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

    def _known(self, proxy_id: str, found: Container, adopted: bool) -> Instance:
        instance = self._instance(proxy_id, found, adopted)
        self._running[proxy_id] = found.id
        return instance

    def _instance(self, proxy_id: str, found: Container, adopted: bool) -> Instance:
        started = found.state.started_at
        endpoint = _endpoint(found.address(network_name(proxy_id)))
        return Instance(proxy_id, endpoint, started.timestamp() if started else 0.0, adopted)

    # -- deaths

    async def _hear(self) -> None:
        filters = {"type": ["container"], "event": [*_DEATHS], "label": [self._marks.ours]}
        said = ""
        while True:
            try:
                await self._engine.events(filters, self._heard)
            except CancelledError:
                raise
            except EngineRefused as error:
                if error.message != said:
                    self._log.warn("{why}", why=error.message)
                said = error.message
            except Exception:
                self._log.failure("hearing of deaths met a fault")
            await sleep(self._clock, AGAIN)

    def _heard(self, happened: Happened) -> None:
        proxy_id, made = happened.attributes.get(PROXY, ""), happened.actor.id
        if not proxy_id.startswith(CONTAINER) or self._running.get(proxy_id) != made:
            return
        if happened.action == "oom":
            self._starved.add(made)
            return
        del self._running[proxy_id]
        reason = self._why(happened, made)
        # Not from within the engine's answer: what follows asks the engine.
        self._clock.callLater(0, self.on_exit, proxy_id, reason)

    def _why(self, happened: Happened, made: str) -> str:
        if made in self._starved:
            self._starved.discard(made)
            return "it wanted more memory than it may have"
        if happened.action == "pause":
            return "its container was paused"
        if happened.action == "destroy":
            return "its container was removed"
        return f"its container exited with {happened.attributes.get('exitCode', 'no word')}"


def _cancelled(reason: Failure) -> None:
    reason.trap(CancelledError)


def _endpoint(address: str) -> str:
    return f"tcp:host={address}:port={PORT}"
