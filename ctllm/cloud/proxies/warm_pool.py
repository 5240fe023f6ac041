"""The warm pool: streaming proxies that run without a user, until the cloud assigns them to one.

A proxy that waits has what every proxy has, and nothing of a user. To assign it, the spawner gives
it the id of the user's proxy, by which later runs of the cloud find it. Then the proxy gets a
signed token, which it accepts once. A token is only signed for an id that the proxy has already, so
no proxy is ever assigned to two users.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from twisted.internet.defer import TimeoutError
from twisted.logger import Logger

from ctllm.auth.assignments import ASSIGNMENT_PATH
from ctllm.cloud.metrics import Metrics
from ctllm.cloud.proxies.health import fetch_health, wait_until_healthy
from ctllm.cloud.proxies.info import ProxyInfo, proxy_info
from ctllm.cloud.proxies.states import Backoff
from ctllm.cloud.spawners.interfaces import (
    NameInUse,
    ProxyInstance,
    ResourceUsage,
    Spawner,
    new_waiting_id,
)
from ctllm.errors import CtllmError, ProxyUnavailable
from ctllm.http.client.connection_pool import ConnectionPool
from ctllm.http.client.fetch import fetch
from ctllm.http.header_policy import ASSERTION, response_from_proxy
from ctllm.http.message.head import RequestHead
from ctllm.reactor.deferred_tools import run_with_timeout
from ctllm.reactor.interfaces import Clock, Endpoint

#: Seconds for an assignment. After them, the user's proxy is started instead.
ASSIGN_TIMEOUT = 5.0
#: Seconds for the response of a proxy that waits, which has nothing else to do.
RESPONSE_TIMEOUT = 2.0
_MAX_RESPONSE_BYTES = 64 * 1024
_METRIC_LABEL = "waiting"


class WaitingState(Enum):
    """The state of a proxy in the pool."""

    STARTING = "starting"
    WAITING = "waiting"
    ASSIGNING = "assigning"
    REMOVING = "removing"
    GONE = "gone"  # from the pool: it belongs to a user, or is removed


class WaitingEvent(Enum):
    """What happens to a proxy in the pool."""

    READY = "ready"  # it responds
    TAKEN = "taken"
    RETURNED = "returned"  # the user has a proxy after all; this one knows nothing of it
    ASSIGNED = "assigned"
    DISCARDED = "discarded"  # it exited, is outdated or too many, or may know a user
    REMOVED = "removed"


TRANSITIONS: Mapping[tuple[WaitingState, WaitingEvent], WaitingState] = MappingProxyType(
    {
        (WaitingState.STARTING, WaitingEvent.READY): WaitingState.WAITING,
        (WaitingState.STARTING, WaitingEvent.DISCARDED): WaitingState.REMOVING,
        (WaitingState.WAITING, WaitingEvent.TAKEN): WaitingState.ASSIGNING,
        (WaitingState.WAITING, WaitingEvent.DISCARDED): WaitingState.REMOVING,
        (WaitingState.ASSIGNING, WaitingEvent.RETURNED): WaitingState.WAITING,
        (WaitingState.ASSIGNING, WaitingEvent.ASSIGNED): WaitingState.GONE,
        (WaitingState.ASSIGNING, WaitingEvent.DISCARDED): WaitingState.REMOVING,
        (WaitingState.REMOVING, WaitingEvent.REMOVED): WaitingState.GONE,
    }
)
"""An event without a transition is ignored."""


@dataclass(slots=True)
class WaitingProxy:
    """A proxy in the pool. `since` is in epoch seconds. Once it waits, it has the rest."""

    id: str
    since: float
    state: WaitingState = WaitingState.STARTING
    connections: ConnectionPool | None = None
    is_direct: bool = False


@dataclass(frozen=True, slots=True)
class WarmProxy:
    """A proxy that was assigned: connections to it, and whether a reverse proxy may use it."""

    instance: ProxyInstance
    connections: ConnectionPool
    is_direct: bool


class WarmPool:
    """Keeps as many proxies waiting as `target` returns, and assigns them.

    `start_timeout` is in seconds. `sign_assignment` returns the token for a waiting id and the id
    of a user's proxy. A proxy is only started while `may_start` returns True, so that no user waits
    for the start of a proxy for nobody. `now` returns epoch seconds.
    """

    _log = Logger()

    def __init__(
        self,
        spawner: Spawner,
        clock: Clock,
        start_timeout: float,
        endpoint_for: Callable[[ProxyInstance], Endpoint],
        sign_assignment: Callable[[str, str], str],
        target: Callable[[], int],
        may_start: Callable[[], bool],
        metrics: Metrics,
        now: Callable[[], float],
    ) -> None:
        self._spawner = spawner
        self._clock = clock
        self._start_timeout = start_timeout
        self._endpoint_for = endpoint_for
        self._sign_assignment = sign_assignment
        self._target = target
        self._may_start = may_start
        self._metrics = metrics
        self._now = now
        self._proxies: dict[str, WaitingProxy] = {}
        self._backoff = Backoff()
        self._is_open = True

    # -- assignment

    async def assign(self, proxy_id: str) -> WarmProxy | None:
        """Assign a proxy that waits to a user; return None if the user's must be started.

        If the call is cancelled, the spawner may have the user's proxy.
        """
        proxy = self._take(proxy_id)
        if proxy is None:
            return None
        try:
            assigning = self._assign(proxy, proxy_id)
            warm = await run_with_timeout(self._clock, ASSIGN_TIMEOUT, assigning)
        except NameInUse:
            self._apply_event(proxy, WaitingEvent.RETURNED)
            return None
        except (CtllmError, TimeoutError) as error:
            reason = error.message if isinstance(error, CtllmError) else "it takes too long"
            self._log.warn("Cannot assign {proxy}: {reason}", proxy=proxy.id, reason=reason)
            self._apply_event(proxy, WaitingEvent.DISCARDED)
            return None
        except BaseException:
            self._apply_event(proxy, WaitingEvent.DISCARDED)
            raise
        self._apply_event(proxy, WaitingEvent.ASSIGNED)
        return warm

    async def tell(self, connections: ConnectionPool, instance: ProxyInstance) -> bool:
        """Send a proxy that has a user's id its assignment; return False if it had one before.

        Raises CtllmError if it does not accept it.
        """
        token = self._sign_assignment(instance.waiting_id, instance.id).encode()
        head = RequestHead(
            b"POST", ASSIGNMENT_PATH, ((ASSERTION, token), (b"Content-Length", b"0"))
        )
        status, _ = await fetch(
            connections, head, self._clock, RESPONSE_TIMEOUT, _MAX_RESPONSE_BYTES
        )
        if status not in (204, 409):
            raise ProxyUnavailable(f"It responded to its assignment with status {status}.")
        return status == 204

    def _take(self, proxy_id: str) -> WaitingProxy | None:
        for proxy in self._proxies.values():  # the oldest first
            is_waiting = proxy.state is WaitingState.WAITING
            if is_waiting and self._spawner.can_assign(proxy.id, proxy_id):
                self._apply_event(proxy, WaitingEvent.TAKEN)
                return proxy
        return None

    async def _assign(self, proxy: WaitingProxy, proxy_id: str) -> WarmProxy:
        connections = proxy.connections
        assert connections is not None
        instance = await self._spawner.assign(proxy.id, proxy_id)
        try:
            if not await self.tell(connections, instance):
                raise ProxyUnavailable("It had a user already.")
        except CtllmError:
            await self._spawner.remove(proxy_id)
            raise
        proxy.connections = None  # they are the user's
        return WarmProxy(instance, connections, proxy.is_direct)

    # -- maintenance

    async def maintain(self) -> None:
        """Start what is missing and remove what is too many, one after the other."""
        while self._is_open and (proxy := self._next()) is not None:
            if proxy.state is WaitingState.REMOVING:
                await self._remove(proxy)
            else:
                await self._start(proxy)

    def _next(self) -> WaitingProxy | None:
        """Return the next proxy to remove or to start, if any."""
        proxies = self._proxies.values()
        kept = [each for each in proxies if each.state is not WaitingState.REMOVING]
        surplus = len(kept) - self._target()
        for proxy in kept[: max(0, surplus)]:
            if proxy.state is not WaitingState.ASSIGNING:
                self._apply_event(proxy, WaitingEvent.DISCARDED)
        for state in (WaitingState.REMOVING, WaitingState.STARTING):
            if found := next((each for each in proxies if each.state is state), None):
                return found
        may_start = self._may_start() and not self._backoff.remaining(self._clock.seconds())
        return self._add(new_waiting_id()) if surplus < 0 and may_start else None

    async def _remove(self, proxy: WaitingProxy) -> None:
        try:
            await self._spawner.remove(proxy.id)
        except CtllmError as error:
            # The spawner removes what is left, or the pool adopts it again, when it is listed.
            self._log.warn("Cannot remove {proxy}: {why}", proxy=proxy.id, why=error.message)
        self._apply_event(proxy, WaitingEvent.REMOVED)

    def _add(self, waiting_id: str) -> WaitingProxy:
        proxy = self._proxies[waiting_id] = WaitingProxy(waiting_id, self._now())
        self._metrics.proxy_state_changed(None, _METRIC_LABEL)
        return proxy

    async def _start(self, proxy: WaitingProxy) -> None:
        """Start a proxy, or adopt it if it runs."""
        try:
            await run_with_timeout(self._clock, self._start_timeout, self._launch(proxy))
        except (CtllmError, TimeoutError) as error:
            reason = error.message if isinstance(error, CtllmError) else "it takes too long"
            self._log.warn("Cannot start a proxy for the pool: {reason}", reason=reason)
            self._backoff.record_failure(self._clock.seconds(), 0)
            self._apply_event(proxy, WaitingEvent.DISCARDED)
        else:
            self._backoff = Backoff()
            self._apply_event(proxy, WaitingEvent.READY)

    async def _launch(self, proxy: WaitingProxy) -> None:
        instance = await self._spawner.ensure_running(proxy.id)
        proxy.connections = connections = ConnectionPool(
            self._endpoint_for(instance),
            self._clock,
            "your streaming proxy",
            ProxyUnavailable,
            filter_head=response_from_proxy,
        )
        health = await wait_until_healthy(connections, self._clock)
        proxy.is_direct = health.direct is not None
        await self._spawner.start_completed(proxy.id)

    # -- what happens to proxies that wait

    @property
    def waiting_ids(self) -> Set[str]:
        """The proxies that wait."""
        proxies = self._proxies.values()
        return {each.id for each in proxies if each.state is WaitingState.WAITING}

    async def reconcile(self, known: Set[str], found: Set[str]) -> None:
        """Adopt proxies that wait unknown, and discard those that ended, hang or are outdated.

        `found` are the waiting proxies that run. `known` waited when they were looked for.
        """
        for waiting_id in found - self._proxies.keys():
            # Since the list was made, it may have been assigned.
            if await self._spawner.inspect(waiting_id) is not None:
                self._add(waiting_id)
        for waiting_id in known | found:
            if waiting_id not in found or self._spawner.is_outdated(waiting_id):
                self.discard(waiting_id)
        for proxy in list(self._proxies.values()):
            await self._check(proxy)

    async def _check(self, proxy: WaitingProxy) -> None:
        """Discard a proxy that waits, but does not respond."""
        if proxy.connections is not None and proxy.state is WaitingState.WAITING:
            health = await fetch_health(proxy.connections, self._clock, RESPONSE_TIMEOUT)
            if health is None:
                self.discard(proxy.id)

    def discard(self, waiting_id: str) -> None:
        """Do not assign a proxy, if it starts or waits; it is removed soon."""
        proxy = self._proxies.get(waiting_id)
        if proxy is not None and proxy.state is not WaitingState.ASSIGNING:
            self._apply_event(proxy, WaitingEvent.DISCARDED)

    async def remove(self, waiting_id: str) -> None:
        """Remove a proxy that waits, and wait until it is removed."""
        proxy = self._proxies.get(waiting_id)
        self.discard(waiting_id)
        if proxy is not None and proxy.state is WaitingState.REMOVING:
            await self._remove(proxy)

    def describe(self, usages: Mapping[str, ResourceUsage]) -> list[ProxyInfo]:
        """Return what the admin API reports about the proxies in the pool."""
        return [
            proxy_info(
                each.id, each.state.value, self._now() - each.since, None, usages.get(each.id)
            )
            for each in self._proxies.values()
        ]

    def close(self) -> None:
        """Close the connections. The proxies are the spawner's to stop."""
        self._is_open = False
        for proxy in self._proxies.values():
            _close_connections(proxy)

    def _apply_event(self, proxy: WaitingProxy, event: WaitingEvent) -> None:
        state = TRANSITIONS.get((proxy.state, event))
        if state is None:
            return
        proxy.state = state
        if state in (WaitingState.REMOVING, WaitingState.GONE):
            _close_connections(proxy)
        if state is WaitingState.GONE:
            del self._proxies[proxy.id]
            self._metrics.proxy_state_changed(_METRIC_LABEL, None)


def _close_connections(proxy: WaitingProxy) -> None:
    connections, proxy.connections = proxy.connections, None
    if connections is not None:
        connections.close()
