"""Every user's streaming proxy: started when it is needed, within the limits, and looked after."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.logger import Logger
from twisted.python.failure import Failure

from ctllm.cloud.audit import AuditLog
from ctllm.cloud.metrics import Metrics
from ctllm.cloud.proxies.health import ask_health
from ctllm.cloud.proxies.info import ProxyInfo, proxy_info
from ctllm.cloud.proxies.start_limiter import Turns
from ctllm.cloud.proxies.states import ALIVE, Cause, Event, State
from ctllm.cloud.proxies.supervisor import Means, ProxySupervisor
from ctllm.cloud.spawners.interfaces import Instance, Spawner, Usage
from ctllm.cloud.spawners.peer_verification import endpoint_to
from ctllm.config import Cloud
from ctllm.errors import CtllmError, ProxyUnavailable, ServiceUnavailable
from ctllm.http.client.connection_pool import ConnectionPool
from ctllm.reactor.failures import trap
from ctllm.reactor.interfaces import Endpoint
from ctllm.reactor.periodic import PeriodicService
from ctllm.reactor.services import MultiService, Service

#: Seconds that a desktop is asked to stay away while the cloud drains. It obeys, and the next cloud
#: needs it soon.
DESKTOP_RETRY = 10

Word = Literal["absent", "starting", "running", "failed"]

_WORDS: dict[State, Word] = {
    State.ABSENT: "absent",
    State.STARTING: "starting",
    State.RUNNING: "running",
    State.LEAVING: "absent",
    State.BREAKING: "failed",
    State.FAILED: "failed",
    State.CLOSED: "absent",
}


#: What is said of a proxy whose user was revoked.
REVOKED = "was ended, as its user was signed out"


@dataclass(frozen=True, slots=True)
class ProxyStatus:
    """How a user's proxy is; `since` epoch seconds, `error` a sentence for its user."""

    state: Word
    since: float | None = None
    error: str | None = None


class ProxyManager(MultiService):
    """The streaming proxies that `runtime` runs; a runtime that is a service stops with this one.

    Where proxies outlive the cloud, those that run are adopted, at the start and ever again: what
    the runtime has is the truth, and what is known here only a copy of it.

    `reactor` keeps time and, unless `connect` is given, connects to proxies (`endpoint_to`);
    `now` gives epoch seconds; `not_before` is as in `Means`.
    """

    _log = Logger()

    def __init__(
        self,
        runtime: Spawner,
        reactor: Any,
        settings: Cloud,
        audit: AuditLog,
        metrics: Metrics,
        connect: Callable[[Instance], Endpoint] | None = None,
        now: Callable[[], float] = time.time,
        not_before: Callable[[str], float] = lambda proxy_id: -math.inf,
    ) -> None:
        super().__init__()
        self.draining = False  # whether nothing new may begin
        connect = connect or (lambda instance: endpoint_to(reactor, instance, self._died))
        turns = Turns(reactor, settings.max_concurrent_starts)
        self._means = Means(
            runtime, reactor, settings, connect, turns, audit, metrics, now, not_before
        )
        self._lives: dict[str, ProxySupervisor] = {}
        self._looking: Deferred[None] | None = None
        runtime.on_exit = self._died
        if isinstance(runtime, Service):
            runtime.setServiceParent(self)
        if runtime.outlives:
            PeriodicService(
                settings.reconcile_interval_seconds, self._look, reactor, "looking for proxies"
            ).setServiceParent(self)

    @property
    def count(self) -> int:
        """How many there are, those that start or end included."""
        return sum(life.state in ALIVE for life in self._lives.values())

    def stopService(self) -> Deferred[Any] | None:
        """Look after none any more; fires when the runtime, too, has stopped."""
        lives, self._lives = list(self._lives.values()), {}
        if self._looking is not None:
            self._looking.cancel()
        stopping = super().stopService()
        for life in lives:
            life.happen(Event.CLOSED, Cause("shutdown"))
        return stopping

    @property
    def trouble(self) -> str:
        """A sentence about what keeps proxies from being started; empty when nothing does."""
        return self._means.runtime.trouble

    async def ensure(self, proxy_id: str, begins: bool = True) -> ConnectionPool:
        """Give the way to a proxy that runs, started if need be. To be asked for each exchange.

        `begins` is False for what belongs to exchanges that began before: tunnels, resumption.
        Raises Overloaded where a limit is reached, ProxyUnavailable where it does not start, both
        with a sentence for its user and `retry_after`. Cancelling stops waiting, not the start.
        """
        life = self._lives.get(proxy_id)
        if self.draining and (begins or life is None or life.state is not State.RUNNING):
            self._means.audit.record("proxy.start_refused", proxy_id, "draining")
            raise ServiceUnavailable(
                "This cloud is about to be stopped for maintenance. Try again in a few minutes.",
                retry_after=60 if begins else DESKTOP_RETRY,
            )
        if life is None or life.state is State.FAILED:
            self._admit(proxy_id)
        if life is None:
            life = self._lives[proxy_id] = ProxySupervisor(proxy_id, self._means, self._forget)
        return await life.ensure()

    def _look(self) -> None:
        """Reconcile, unless the last time is still under way: a runtime may take long to answer."""
        if self._looking is None:
            looking = self._looking = Deferred.fromCoroutine(self.reconcile())
            looking.addErrback(self._not_seen)
            looking.addBoth(self._looked)

    def _not_seen(self, reason: Failure) -> None:
        trap(reason, CtllmError, CancelledError)
        if isinstance(reason.value, CtllmError):
            self._log.warn("proxies cannot be looked for: {why}", why=reason.value.message)

    def _looked(self, result: Failure | None) -> None:
        self._looking = None
        if isinstance(result, Failure):
            self._log.failure("looking for proxies met a fault", result)

    async def reconcile(self) -> None:
        """Adopt what runs and is not known here; give up what is known to run and does not."""
        running = [life for life in self._lives.values() if life.state is State.RUNNING]
        since = {life.id: life.since for life in running}
        found = {instance.id for instance in await self._means.runtime.list()}
        for proxy_id in found - self._lives.keys():
            # The list may be old: it may have been removed since, or be wanted now.
            there = await self._means.runtime.inspect(proxy_id)
            if there is None or proxy_id in self._lives:
                continue
            if there.started <= self._means.not_before(proxy_id):
                await self._means.runtime.remove(proxy_id)
                self._means.audit.record("proxy.stopped", proxy_id, "revoked", REVOKED)
                continue
            life = self._lives[proxy_id] = ProxySupervisor(proxy_id, self._means, self._forget)
            life.adopt()
        for life in running:
            # One that was replaced meanwhile runs since later; the list may not have it yet.
            if life.id not in found and life.since == since[life.id]:
                self._died(life.id, "it is not there any more")

    async def remove(self, proxy_id: str, reason: str) -> None:
        """End a proxy, if there is one, and wait until it has ended; `reason` is a few words."""
        life = self._lives.get(proxy_id)
        if life is not None:
            await life.leave(Cause("requested", reason))

    def revoke(self, proxy_id: str) -> None:
        """End a proxy, if there is one, because its user was revoked."""
        life = self._lives.get(proxy_id)
        if life is not None:
            life.happen(Event.TOLD, Cause("revoked", REVOKED))

    def status(self, proxy_id: str) -> ProxyStatus:
        """Say how a proxy is, without asking it."""
        life = self._lives.get(proxy_id)
        if life is None:
            return ProxyStatus("absent")
        word = _WORDS[life.state]
        error = f"Your streaming proxy {life.cause.said}." if word == "failed" else None
        return ProxyStatus(word, None if word == "absent" else life.since, error)

    async def health(self, proxy_id: str) -> dict[str, Any] | None:
        """Ask a proxy how it is: exchanges, desktops, idle_seconds; None if it does not say."""
        life = self._lives.get(proxy_id)
        if life is None or life.state is not State.RUNNING or life.origin is None:
            return None
        health = await ask_health(life.origin, self._means.clock)
        return None if health is None else msgspec.structs.asdict(health)

    async def usage(self) -> Mapping[str, Usage]:
        """What each uses."""
        return await self._means.runtime.usage()

    async def list_proxies(self) -> list[ProxyInfo]:
        """All there are, each asked how it is."""
        used = await self.usage()
        lives = [life for life in self._lives.values() if life.state is not State.ABSENT]
        asking = [Deferred.fromCoroutine(self._row(life, used.get(life.id))) for life in lives]
        return list(await gatherResults(asking, consumeErrors=True))

    async def _row(self, life: ProxySupervisor, used: Usage | None) -> ProxyInfo:
        asked = life.origin if life.state is State.RUNNING else None
        health = None if asked is None else await ask_health(asked, self._means.clock)
        return proxy_info(life.id, life.state.value, self._means.now() - life.since, health, used)

    def _admit(self, proxy_id: str) -> None:
        """Raise unless one more may be started."""
        if not self.running:
            raise ProxyUnavailable("The cloud is stopping.")
        limit = self._means.settings.max_proxies
        if self.count >= limit:
            self._means.audit.record(
                "proxy.start_refused", proxy_id, "at_capacity", f"there are {limit} proxies"
            )
            self._means.metrics.proxy_start_failed("at_capacity")
            raise ServiceUnavailable(
                "This cloud has as many users at once as it takes. Try again in a few minutes.",
                retry_after=60,
            )

    def _died(self, proxy_id: str, reason: str) -> None:
        life = self._lives.get(proxy_id)
        if life is not None:
            life.happen(Event.BROKE, Cause("exited", f"ended unexpectedly: {reason}"))

    def _forget(self, life: ProxySupervisor) -> None:
        if self._lives.get(life.id) is life:
            del self._lives[life.id]
