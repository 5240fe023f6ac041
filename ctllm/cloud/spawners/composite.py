"""A spawner for clouds whose tiers differ in how proxies run: as processes or as containers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from twisted.logger import Logger

from ctllm.cloud.spawners.interfaces import (
    ExitObserver,
    ProxyInstance,
    ResourceUsage,
    Spawner,
)
from ctllm.errors import CtllmError
from ctllm.reactor.services import MultiService, Service


class CompositeSpawner(MultiService):
    """Starts each proxy with one of `spawners`, by name: that which `select` chose last.

    Without a choice, a proxy runs where it runs already, else with `default`. Whatever one spawner
    has of a proxy that runs with another is removed.
    """

    proxies_survive_restart = True
    _log = Logger()

    def __init__(self, spawners: Mapping[str, Spawner], default: str) -> None:
        super().__init__()
        self._spawners = MappingProxyType(dict(spawners))
        self._default = default
        self._selected: dict[str, str] = {}  # of proxies that run, or shall
        self._located: dict[str, str] = {}  # where a proxy runs, as far as is known
        for spawner in spawners.values():
            if isinstance(spawner, Service):
                spawner.setServiceParent(self)

    @property
    def problem(self) -> str:
        """What keeps the proxies of one spawner from starting, or an empty string."""
        return next((each.problem for each in self._spawners.values() if each.problem), "")

    def select(self, proxy_id: str, name: str) -> None:
        """Use the spawner `name` at the next start of a proxy; an empty name changes nothing."""
        if name in self._spawners:
            self._selected[proxy_id] = name

    def survives_restart(self, proxy_id: str) -> bool:
        """Whether a proxy runs on when the cloud stops."""
        name = self._located.get(proxy_id, self._default)
        return self._spawners[name].proxies_survive_restart

    def add_exit_observer(self, observer: ExitObserver) -> None:
        """Call `observer` for each proxy that exits, unless `remove` stopped it."""
        for name, spawner in self._spawners.items():
            spawner.add_exit_observer(_ExitOf(self._located, name, observer))

    async def ensure_running(self, proxy_id: str) -> ProxyInstance:
        """Start the proxy, unless it runs. Raises CtllmError if that fails."""
        name = self._selected.get(proxy_id) or await self._locate(proxy_id) or self._default
        older = self._located.get(proxy_id, name)
        if older != name:
            await self._remove_from(older, proxy_id)
        self._located[proxy_id] = name
        return await self._spawners[name].ensure_running(proxy_id)

    async def start_completed(self, proxy_id: str) -> None:
        """Tell the spawner of the proxy that it responds. Raises CtllmError if that fails."""
        await self._spawners[self._located.get(proxy_id, self._default)].start_completed(proxy_id)

    def can_assign(self, waiting_id: str, proxy_id: str) -> bool:
        """Return whether the waiting proxy runs where that of the user shall."""
        wanted = self._selected.get(proxy_id) or self._located.get(proxy_id) or self._default
        runs_there = self._located.get(waiting_id) == wanted
        return runs_there and self._spawners[wanted].can_assign(waiting_id, proxy_id)

    async def assign(self, waiting_id: str, proxy_id: str) -> ProxyInstance:
        """Give a waiting proxy the id of a user's. Raises CtllmError."""
        name = self._located[waiting_id]
        instance = await self._spawners[name].assign(waiting_id, proxy_id)
        self._located.pop(waiting_id, None)
        self._located[proxy_id] = name
        return instance

    async def remove(self, proxy_id: str) -> None:
        """Stop the proxy and remove all that belongs to it, if it exists."""
        self._selected.pop(proxy_id, None)
        name = self._located.pop(proxy_id, None)
        for each in self._spawners if name is None else (name,):
            await self._spawners[each].remove(proxy_id)

    async def clean_up(self, proxy_id: str) -> None:
        """Remove what is left of a proxy that exited, except what its next start may use soon."""
        name = self._located.get(proxy_id)
        for each in self._spawners if name is None else (name,):
            await self._spawners[each].clean_up(proxy_id)

    async def inspect(self, proxy_id: str) -> ProxyInstance | None:
        """Return the proxy, or None if it does not exist or is being removed."""
        name = await self._locate(proxy_id)
        return None if name is None else await self._spawners[name].inspect(proxy_id)

    async def list(self) -> Sequence[ProxyInstance]:
        """Return all proxies that `inspect` would return; remove those that run twice."""
        listed: dict[str, ProxyInstance] = {}
        for name, spawner in self._spawners.items():
            for instance in await spawner.list():
                if self._located.setdefault(instance.id, name) == name:
                    listed[instance.id] = instance
                else:
                    await self._remove_from(name, instance.id)
        return [*listed.values()]

    def is_outdated(self, proxy_id: str) -> bool:
        """Return whether a proxy runs another version than a new one would."""
        name = self._located.get(proxy_id)
        return name is not None and self._spawners[name].is_outdated(proxy_id)

    async def resource_usage(self) -> Mapping[str, ResourceUsage]:
        """Return the resources that each proxy uses, where the system reports them."""
        usages: dict[str, ResourceUsage] = {}
        for spawner in self._spawners.values():
            usages.update(await spawner.resource_usage())
        return usages

    async def resource_usage_of(self, proxy_id: str) -> ResourceUsage | None:
        """Return the resources that one proxy uses, if it is known where it runs."""
        name = self._located.get(proxy_id)
        return None if name is None else await self._spawners[name].resource_usage_of(proxy_id)

    async def _locate(self, proxy_id: str) -> str | None:
        """Return the name of the spawner that has the proxy; raises CtllmError."""
        known = self._located.get(proxy_id)
        if known is not None:
            return known
        for name, spawner in self._spawners.items():
            if await spawner.inspect(proxy_id) is not None:
                # A start may have begun meanwhile.
                return self._located.setdefault(proxy_id, name)
        return None

    async def _remove_from(self, name: str, proxy_id: str) -> None:
        """Remove what a spawner has of a proxy that runs with another; `list` tries it again."""
        try:
            await self._spawners[name].remove(proxy_id)
        except CtllmError as error:
            self._log.warn(
                "Cannot remove {proxy}, which now runs with another spawner: {reason}",
                proxy=proxy_id,
                reason=error.message,
            )


def select_spawner(spawner: Spawner, proxy_id: str, name: str) -> None:
    """Have `spawner` use the one with this name at the next start of a proxy, if it has several."""
    if isinstance(spawner, CompositeSpawner):
        spawner.select(proxy_id, name)


def survives_restart(spawner: Spawner, proxy_id: str) -> bool:
    """Return whether a proxy of `spawner` runs on when the cloud stops."""
    if isinstance(spawner, CompositeSpawner):
        return spawner.survives_restart(proxy_id)
    return spawner.proxies_survive_restart


class _ExitOf:
    """An exit observer of one spawner: passes on exits of proxies that run with it."""

    def __init__(self, located: dict[str, str], name: str, observer: ExitObserver) -> None:
        self._located = located
        self._name = name
        self._observer = observer

    def __call__(self, proxy_id: str, reason: str) -> None:
        if self._located.get(proxy_id, self._name) == self._name:
            self._observer(proxy_id, reason)
