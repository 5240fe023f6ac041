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
from ctllm.cloud.proxies.health import fetch_health
from ctllm.cloud.proxies.info import ProxyInfo, proxy_info
from ctllm.cloud.proxies.start_limiter import StartLimiter
from ctllm.cloud.proxies.states import ACTIVE_STATES, Cause, EventType, State
from ctllm.cloud.proxies.supervisor import ProxySupervisor, SupervisorContext
from ctllm.cloud.spawners.interfaces import ProxyInstance, ResourceUsage, Spawner
from ctllm.cloud.spawners.peer_verification import proxy_endpoint
from ctllm.config import Cloud
from ctllm.errors import CtllmError, ProxyUnavailable, ServiceUnavailable
from ctllm.http.client.connection_pool import ConnectionPool
from ctllm.reactor.failures import trap
from ctllm.reactor.interfaces import Endpoint
from ctllm.reactor.periodic import PeriodicService
from ctllm.reactor.services import MultiService, Service

#: Seconds that a desktop is asked to stay away while the cloud drains. It obeys, and the next cloud
#: needs it soon.
DESKTOP_RETRY_AFTER = 10

StatusName = Literal["absent", "starting", "running", "failed"]

_STATUS_NAMES: dict[State, StatusName] = {
    State.ABSENT: "absent",
    State.STARTING: "starting",
    State.RUNNING: "running",
    State.STOPPING: "absent",
    State.CLEANING_UP: "failed",
    State.FAILED: "failed",
    State.CLOSED: "absent",
}


#: What is said of a proxy whose user was revoked.
REVOKED_DESCRIPTION = "was ended, as its user was signed out"


@dataclass(frozen=True, slots=True)
class ProxyStatus:
    """How a user's proxy is; `since` epoch seconds, `error` a sentence for its user."""

    state: StatusName
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
        spawner: Spawner,
        reactor: Any,
        settings: Cloud,
        audit: AuditLog,
        metrics: Metrics,
        endpoint_for: Callable[[ProxyInstance], Endpoint] | None = None,
        now: Callable[[], float] = time.time,
        revocation_time: Callable[[str], float] = lambda proxy_id: -math.inf,
    ) -> None:
        super().__init__()
        self.draining = False  # whether nothing new may begin
        endpoint_for = endpoint_for or (
            lambda instance: proxy_endpoint(reactor, instance, self._proxy_exited)
        )
        start_limiter = StartLimiter(reactor, settings.max_concurrent_starts)
        self._context = SupervisorContext(
            spawner,
            reactor,
            settings,
            endpoint_for,
            start_limiter,
            audit,
            metrics,
            now,
            revocation_time,
        )
        self._supervisors: dict[str, ProxySupervisor] = {}
        self._reconciliation: Deferred[None] | None = None
        spawner.on_exit = self._proxy_exited
        if isinstance(spawner, Service):
            spawner.setServiceParent(self)
        if spawner.proxies_survive_restart:
            PeriodicService(
                settings.reconcile_interval_seconds,
                self._start_reconciliation,
                reactor,
                "looking for proxies",
            ).setServiceParent(self)

    @property
    def active_count(self) -> int:
        """How many there are, those that start or end included."""
        return sum(life.state in ACTIVE_STATES for life in self._supervisors.values())

    def stopService(self) -> Deferred[Any] | None:
        """Look after none any more; fires when the runtime, too, has stopped."""
        supervisors, self._supervisors = list(self._supervisors.values()), {}
        if self._reconciliation is not None:
            self._reconciliation.cancel()
        stopping = super().stopService()
        for life in supervisors:
            life.handle_event(EventType.CLOUD_STOPPED, Cause("shutdown"))
        return stopping

    @property
    def problem(self) -> str:
        """A sentence about what keeps proxies from being started; empty when nothing does."""
        return self._context.spawner.problem

    async def ensure_running(self, proxy_id: str, is_new_request: bool = True) -> ConnectionPool:
        """Give the way to a proxy that runs, started if need be. To be asked for each exchange.

        `begins` is False for what belongs to exchanges that began before: tunnels, resumption.
        Raises Overloaded where a limit is reached, ProxyUnavailable where it does not start, both
        with a sentence for its user and `retry_after`. Cancelling stops waiting, not the start.
        """
        supervisor = self._supervisors.get(proxy_id)
        if self.draining and (
            is_new_request or supervisor is None or supervisor.state is not State.RUNNING
        ):
            self._context.audit.record("proxy.start_refused", proxy_id, "draining")
            raise ServiceUnavailable(
                "This cloud is about to be stopped for maintenance. Try again in a few minutes.",
                retry_after=60 if is_new_request else DESKTOP_RETRY_AFTER,
            )
        if supervisor is None or supervisor.state is State.FAILED:
            self._check_capacity(proxy_id)
        if supervisor is None:
            supervisor = self._supervisors[proxy_id] = ProxySupervisor(
                proxy_id, self._context, self._discard
            )
        return await supervisor.ensure_running()

    def _start_reconciliation(self) -> None:
        """Reconcile, unless the last time is still under way: a runtime may take long to answer."""
        if self._reconciliation is None:
            reconciliation = self._reconciliation = Deferred.fromCoroutine(self.reconcile())
            reconciliation.addErrback(self._reconciliation_failed)
            reconciliation.addBoth(self._reconciliation_finished)

    def _reconciliation_failed(self, reason: Failure) -> None:
        trap(reason, CtllmError, CancelledError)
        if isinstance(reason.value, CtllmError):
            self._log.warn("proxies cannot be looked for: {why}", why=reason.value.message)

    def _reconciliation_finished(self, result: Failure | None) -> None:
        self._reconciliation = None
        if isinstance(result, Failure):
            self._log.failure("looking for proxies met a fault", result)

    async def reconcile(self) -> None:
        """Adopt what runs and is not known here; give up what is known to run and does not."""
        running = [life for life in self._supervisors.values() if life.state is State.RUNNING]
        since = {life.id: life.since for life in running}
        found = {instance.id for instance in await self._context.spawner.list()}
        for proxy_id in found - self._supervisors.keys():
            # The list may be old: it may have been removed since, or be wanted now.
            instance = await self._context.spawner.inspect(proxy_id)
            if instance is None or proxy_id in self._supervisors:
                continue
            if instance.started_at <= self._context.revocation_time(proxy_id):
                await self._context.spawner.remove(proxy_id)
                self._context.audit.record(
                    "proxy.stopped", proxy_id, "revoked", REVOKED_DESCRIPTION
                )
                continue
            supervisor = self._supervisors[proxy_id] = ProxySupervisor(
                proxy_id, self._context, self._discard
            )
            supervisor.adopt()
        for supervisor in running:
            # One that was replaced meanwhile runs since later; the list may not have it yet.
            if supervisor.id not in found and supervisor.since == since[supervisor.id]:
                self._proxy_exited(supervisor.id, "it is not there any more")

    async def remove(self, proxy_id: str, reason: str) -> None:
        """End a proxy, if there is one, and wait until it has ended; `reason` is a few words."""
        supervisor = self._supervisors.get(proxy_id)
        if supervisor is not None:
            await supervisor.stop(Cause("requested", reason))

    def revoke(self, proxy_id: str) -> None:
        """End a proxy, if there is one, because its user was revoked."""
        supervisor = self._supervisors.get(proxy_id)
        if supervisor is not None:
            supervisor.handle_event(EventType.STOP_REQUESTED, Cause("revoked", REVOKED_DESCRIPTION))

    def status(self, proxy_id: str) -> ProxyStatus:
        """Say how a proxy is, without asking it."""
        supervisor = self._supervisors.get(proxy_id)
        if supervisor is None:
            return ProxyStatus("absent")
        state = _STATUS_NAMES[supervisor.state]
        error = (
            f"Your streaming proxy {supervisor.cause.description}." if state == "failed" else None
        )
        return ProxyStatus(state, None if state == "absent" else supervisor.since, error)

    async def health(self, proxy_id: str) -> dict[str, Any] | None:
        """Ask a proxy how it is: exchanges, desktops, idle_seconds; None if it does not say."""
        supervisor = self._supervisors.get(proxy_id)
        if supervisor is None or supervisor.state is not State.RUNNING or supervisor.pool is None:
            return None
        health = await fetch_health(supervisor.pool, self._context.clock)
        return None if health is None else msgspec.to_builtins(health)

    async def resource_usage(self) -> Mapping[str, ResourceUsage]:
        """What each uses."""
        return await self._context.spawner.resource_usage()

    async def list_proxies(self) -> list[ProxyInfo]:
        """All there are, each asked how it is."""
        used = await self.resource_usage()
        lives = [life for life in self._supervisors.values() if life.state is not State.ABSENT]
        asking = [Deferred.fromCoroutine(self._inspect(life, used.get(life.id))) for life in lives]
        return list(await gatherResults(asking, consumeErrors=True))

    async def _inspect(self, supervisor: ProxySupervisor, usage: ResourceUsage | None) -> ProxyInfo:
        pool = supervisor.pool if supervisor.state is State.RUNNING else None
        health = None if pool is None else await fetch_health(pool, self._context.clock)
        return proxy_info(
            supervisor.id,
            supervisor.state.value,
            self._context.now() - supervisor.since,
            health,
            usage,
        )

    def _check_capacity(self, proxy_id: str) -> None:
        """Raise unless one more may be started."""
        if not self.running:
            raise ProxyUnavailable("The cloud is stopping.")
        limit = self._context.settings.max_proxies
        if self.active_count >= limit:
            self._context.audit.record(
                "proxy.start_refused", proxy_id, "at_capacity", f"there are {limit} proxies"
            )
            self._context.metrics.proxy_start_failed("at_capacity")
            raise ServiceUnavailable(
                "This cloud has as many users at once as it takes. Try again in a few minutes.",
                retry_after=60,
            )

    def _proxy_exited(self, proxy_id: str, reason: str) -> None:
        supervisor = self._supervisors.get(proxy_id)
        if supervisor is not None:
            supervisor.handle_event(
                EventType.FAILED, Cause("exited", f"ended unexpectedly: {reason}")
            )

    def _discard(self, supervisor: ProxySupervisor) -> None:
        if self._supervisors.get(supervisor.id) is supervisor:
            del self._supervisors[supervisor.id]
