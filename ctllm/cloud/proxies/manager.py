"""The manager of all users' streaming proxies."""

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
from ctllm.cloud.proxies.health import HEALTH_TIMEOUT, fetch_health
from ctllm.cloud.proxies.info import ProxyInfo, proxy_info
from ctllm.cloud.proxies.limiters import RemovalLimiter, ReplacementLimiter, StartLimiter
from ctllm.cloud.proxies.states import ACTIVE_STATES, Cause, EventType, State
from ctllm.cloud.proxies.supervisor import Origin, ProxySupervisor, SupervisorContext
from ctllm.cloud.proxies.warm_pool import WarmPool
from ctllm.cloud.spawners.interfaces import (
    ProxyInstance,
    ResourceUsage,
    Spawner,
    is_waiting_id,
)
from ctllm.cloud.spawners.peer_verification import proxy_endpoint
from ctllm.config import Cloud
from ctllm.errors import CtllmError, ProxyUnavailable, ServiceUnavailable
from ctllm.http.client.connection_pool import ConnectionPool
from ctllm.reactor.failures import trap
from ctllm.reactor.interfaces import Clock, Endpoint
from ctllm.reactor.periodic import PeriodicService
from ctllm.reactor.services import MultiService, Service

#: Seconds. `Retry-After` for clients and for desktops while the cloud drains. Desktops obey it, and
#: the next cloud needs them soon.
REQUEST_RETRY_AFTER, DESKTOP_RETRY_AFTER = 60, 10

#: Seconds of a client's timeout that are left for the start itself when its turn comes; and the
#: least that it waits in the queue, however short its timeout is.
START_RESERVE, MIN_QUEUE_WAIT = 10.0, 1.0

#: Seconds between two looks whether enough proxies wait for users.
WARM_INTERVAL = 1.0

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

REVOKED_DESCRIPTION = "was stopped because the access of its user was revoked"


@dataclass(frozen=True, slots=True)
class ProxyStatus:
    """The state of a user's proxy. `since` is in epoch seconds, `error` a sentence for the user.

    `spawner` is the name of the spawner that starts it, or None where there is no proxy.
    """

    state: StatusName
    since: float | None = None
    error: str | None = None
    spawner: str | None = None


class ProxyManager(MultiService):
    """Starts the proxies of users on request, within the limits, and supervises them.

    Where proxies survive a restart of the cloud, the manager compares what it knows with what the
    spawner has, at the start and periodically, and adopts proxies that it did not start. A spawner
    that is a service starts and stops with the manager.

    `sign_assignment` returns the token that gives a waiting proxy (its id) to a user's proxy id.
    `reactor` keeps time and connects to proxies, unless `endpoint_for` is given. `now` and
    `revocation_time` are as in `SupervisorContext`.
    """

    _log = Logger()

    def __init__(
        self,
        spawner: Spawner,
        reactor: Clock,
        settings: Cloud,
        audit: AuditLog,
        metrics: Metrics,
        sign_assignment: Callable[[str, str], str],
        endpoint_for: Callable[[ProxyInstance], Endpoint] | None = None,
        now: Callable[[], float] = time.time,
        revocation_time: Callable[[str], float] = lambda proxy_id: -math.inf,
    ) -> None:
        super().__init__()
        #: Whether requests that would start something new are refused.
        self.draining = False
        endpoint_for = endpoint_for or (
            lambda instance: proxy_endpoint(reactor, instance, self._proxy_exited)
        )
        start_limiter = StartLimiter(reactor, settings.max_concurrent_starts)
        self._warm_pool = WarmPool(
            spawner,
            reactor,
            settings.proxy_start_timeout_seconds,
            endpoint_for,
            sign_assignment,
            self._warm_target,
            lambda: start_limiter.is_idle,
            metrics,
            now,
        )
        self._context = SupervisorContext(
            spawner=spawner,
            clock=reactor,
            settings=settings,
            endpoint_for=endpoint_for,
            start_limiter=start_limiter,
            warm_pool=self._warm_pool,
            replacement_limiter=ReplacementLimiter(reactor),
            removal_limiter=RemovalLimiter(),
            audit=audit,
            metrics=metrics,
            now=now,
            revocation_time=revocation_time,
        )
        self._supervisors: dict[str, ProxySupervisor] = {}
        self._has_reconciled = False
        self._reconciliation: Deferred[None] | None = None
        spawner.add_exit_observer(self._proxy_exited)
        if isinstance(spawner, Service):
            spawner.setServiceParent(self)
        if spawner.proxies_survive_restart:
            PeriodicService(
                settings.reconcile_interval_seconds,
                self._start_reconciliation,
                reactor,
                "reconciling proxies",
            ).setServiceParent(self)
        PeriodicService(
            WARM_INTERVAL, self._warm_pool.maintain, reactor, "Keeping streaming proxies waiting"
        ).setServiceParent(self)

    @property
    def active_count(self) -> int:
        """The number of proxies, including those that start or stop."""
        supervisors = self._supervisors.values()
        return sum(supervisor.state in ACTIVE_STATES for supervisor in supervisors)

    @property
    def max_proxies(self) -> int:
        """The maximum number of proxies."""
        return self._context.settings.max_proxies

    @property
    def may_have_adopted(self) -> bool:
        """Whether there are proxies that ran before the cloud did, or that is not known yet."""
        if not self._context.spawner.proxies_survive_restart:
            return False
        supervisors = self._supervisors.values()
        return not self._has_reconciled or any(
            each.state is State.STARTING or each.origin is Origin.ADOPTED for each in supervisors
        )

    def stopService(self) -> Deferred[Any] | None:
        """Stop supervising, and stop the spawner if it is a service."""
        supervisors, self._supervisors = list(self._supervisors.values()), {}
        if self._reconciliation is not None:
            self._reconciliation.cancel()
        stopping = super().stopService()
        self._warm_pool.close()
        for supervisor in supervisors:
            supervisor.handle_event(EventType.CLOUD_STOPPED, Cause("shutdown"))
        return stopping

    @property
    def problem(self) -> str:
        """A sentence about what keeps proxies from starting, or an empty string."""
        return self._context.spawner.problem

    async def ensure_running(
        self,
        proxy_id: str,
        is_new_request: bool = True,
        spawner: str = "",
        timeout: float = math.inf,
    ) -> ConnectionPool:
        """Return connections to a proxy; start it first if it does not run.

        `is_new_request` is False for tunnels and for resumed responses, which are allowed while
        the cloud drains. `spawner` is the name of the one that shall start it, if there are
        several. `timeout` is for how many seconds the client waits for a response: it is refused
        before that if others start first.

        Raises ServiceUnavailable if a limit is reached and ProxyUnavailable if the proxy does not
        start, both with a sentence for the user and `retry_after`. Cancelling does not cancel the
        start.
        """
        supervisor = self._supervisors.get(proxy_id)
        if self.draining and (
            is_new_request or supervisor is None or supervisor.state is not State.RUNNING
        ):
            self._context.audit.record("proxy.start_refused", proxy_id, "draining")
            raise ServiceUnavailable(
                "This cloud is about to be stopped for maintenance. Try again in a few minutes.",
                retry_after=REQUEST_RETRY_AFTER if is_new_request else DESKTOP_RETRY_AFTER,
            )
        if supervisor is None or supervisor.state is State.FAILED:
            self._check_capacity(proxy_id)
        if supervisor is None:
            supervisor = self._add_supervisor(proxy_id)
        supervisor.spawner_name = spawner or supervisor.spawner_name
        max_wait = min(
            self._context.settings.start_queue_timeout_seconds,
            max(MIN_QUEUE_WAIT, timeout - START_RESERVE),
        )
        pool = await supervisor.ensure_running(max_wait)
        if is_new_request:
            await supervisor.wait_for_desktops()
        return pool

    def direct_address(self, proxy_id: str) -> str:
        """Return the address at which a reverse proxy may reach a proxy itself, or nothing."""
        supervisor = self._supervisors.get(proxy_id)
        is_running = supervisor is not None and supervisor.state is State.RUNNING
        return supervisor.direct_address if supervisor is not None and is_running else ""

    def direct_proxies(self) -> Mapping[str, ConnectionPool]:
        """Return connections to the proxies that a reverse proxy may reach itself, by their ids."""
        found = {proxy_id: self.direct_connections(proxy_id) for proxy_id in self._supervisors}
        return {proxy_id: pool for proxy_id, pool in found.items() if pool is not None}

    def direct_connections(self, proxy_id: str) -> ConnectionPool | None:
        """Return connections to a proxy that a reverse proxy may reach itself, else None."""
        is_direct = bool(self.direct_address(proxy_id))
        return self._supervisors[proxy_id].pool if is_direct else None

    async def reconcile(self) -> None:
        """Adopt proxies that run unknown, and mark those as failed that no longer run."""
        supervisors = self._supervisors.values()
        running = [each for each in supervisors if each.state is State.RUNNING]
        since = {supervisor.id: supervisor.since for supervisor in running}
        waiting = self._warm_pool.waiting_ids
        listed = {instance.id for instance in await self._context.spawner.list()}
        found = {proxy_id for proxy_id in listed if not is_waiting_id(proxy_id)}
        await self._warm_pool.reconcile(waiting, listed - found)
        for proxy_id in found - self._supervisors.keys():
            # Since the list was made, the proxy may have been removed or requested.
            instance = await self._context.spawner.inspect(proxy_id)
            if instance is None or proxy_id in self._supervisors:
                continue
            if instance.started_at <= self._context.revocation_time(proxy_id):
                await self._context.spawner.remove(proxy_id)
                self._context.audit.record(
                    "proxy.stopped", proxy_id, "revoked", REVOKED_DESCRIPTION
                )
                continue
            self._add_supervisor(proxy_id).adopt()
        for supervisor in running:
            # A proxy that was replaced since the list was made may not be in it.
            if supervisor.id not in found and supervisor.since == since[supervisor.id]:
                self._proxy_exited(supervisor.id, "it no longer exists")

    async def remove(self, proxy_id: str, description: str) -> None:
        """Stop a proxy, if it exists, and wait until it is removed.

        `description` completes a sentence whose subject is the proxy.
        """
        if is_waiting_id(proxy_id):
            await self._warm_pool.remove(proxy_id)
        supervisor = self._supervisors.get(proxy_id)
        if supervisor is not None:
            await supervisor.stop(Cause("requested", description))

    def revoke(self, proxy_id: str) -> None:
        """Stop a proxy, if it exists, because the access of its user was revoked."""
        supervisor = self._supervisors.get(proxy_id)
        if supervisor is not None:
            supervisor.handle_event(EventType.STOP_REQUESTED, Cause("revoked", REVOKED_DESCRIPTION))

    def status(self, proxy_id: str) -> ProxyStatus:
        """Return the state of a proxy as it is known here."""
        supervisor = self._supervisors.get(proxy_id)
        if supervisor is None:
            return ProxyStatus("absent")
        state = _STATUS_NAMES[supervisor.state]
        error = (
            f"Your streaming proxy {supervisor.cause.description}." if state == "failed" else None
        )
        if state == "absent":
            return ProxyStatus(state)
        spawner = supervisor.spawner_name or self._context.settings.spawner
        return ProxyStatus(state, supervisor.since, error, spawner)

    async def health(self, proxy_id: str) -> dict[str, Any] | None:
        """Return the JSON object that a proxy's health check responds, or None if it fails."""
        supervisor = self._supervisors.get(proxy_id)
        if supervisor is None or supervisor.state is not State.RUNNING or supervisor.pool is None:
            return None
        health = await fetch_health(supervisor.pool, self._context.clock)
        if health is None:
            return None
        fields: dict[str, Any] = msgspec.to_builtins(health)
        del fields["direct"]  # only the cloud itself needs it
        return fields

    async def resource_usage(self) -> Mapping[str, ResourceUsage]:
        """Return the resources that each proxy uses, by its id."""
        return await self._context.spawner.resource_usage()

    async def memory_bytes(self, proxy_id: str) -> int | None:
        """Return the memory that a proxy uses, or None if that is not known."""
        usage = await self._context.spawner.resource_usage_of(proxy_id)
        return None if usage is None else usage.memory_bytes

    async def list_proxies(self, timeout: float = HEALTH_TIMEOUT) -> list[ProxyInfo]:
        """Return all proxies, with the response of each to a health check within `timeout`."""
        usages = await self.resource_usage()
        inspections = [
            Deferred.fromCoroutine(self._inspect(supervisor, usages.get(supervisor.id), timeout))
            for supervisor in self._supervisors.values()
            if supervisor.state is not State.ABSENT
        ]
        infos = list(await gatherResults(inspections, consumeErrors=True))
        return infos + self._warm_pool.describe(usages)

    async def _inspect(
        self, supervisor: ProxySupervisor, usage: ResourceUsage | None, timeout: float
    ) -> ProxyInfo:
        pool = supervisor.pool if supervisor.state is State.RUNNING else None
        health = None if pool is None else await fetch_health(pool, self._context.clock, timeout)
        age = self._context.now() - supervisor.since
        return proxy_info(supervisor.id, supervisor.state.value, age, health, usage)

    def _start_reconciliation(self) -> None:
        """Reconcile, unless the previous reconciliation still waits for the spawner."""
        if self._reconciliation is None:
            reconciliation = self._reconciliation = Deferred.fromCoroutine(self.reconcile())
            reconciliation.addErrback(self._reconciliation_failed)
            reconciliation.addBoth(self._reconciliation_finished)

    def _reconciliation_failed(self, reason: Failure) -> None:
        trap(reason, CtllmError, CancelledError)
        if isinstance(reason.value, CtllmError):
            self._log.warn("Cannot list the proxies: {reason}", reason=reason.value.message)

    def _reconciliation_finished(self, result: Failure | None) -> None:
        self._reconciliation = None
        self._has_reconciled = True
        if isinstance(result, Failure):
            self._log.failure("Error while reconciling proxies", result)

    def _check_capacity(self, proxy_id: str) -> None:
        """Raise an error unless one more proxy may start."""
        if not self.running:
            raise ProxyUnavailable("The cloud is stopping.")
        limit = self._context.settings.max_proxies
        if self.active_count >= limit:
            self._context.audit.record(
                "proxy.start_refused", proxy_id, "at_capacity", f"there are {limit} proxies"
            )
            self._context.metrics.proxy_start_failed("at_capacity")
            raise ServiceUnavailable(
                "This cloud is at its maximum number of users. Try again in a few minutes.",
                retry_after=REQUEST_RETRY_AFTER,
            )

    def _warm_target(self) -> int:
        """Return how many proxies shall wait: the places that users leave, and none while draining.

        Proxies of an earlier run are adopted first.
        """
        is_early = self._context.spawner.proxies_survive_restart and not self._has_reconciled
        if self.draining or is_early:
            return 0
        settings = self._context.settings
        return max(0, min(settings.proxy_warm, settings.max_proxies - self.active_count))

    def _proxy_exited(self, proxy_id: str, reason: str) -> None:
        self._warm_pool.discard(proxy_id)
        supervisor = self._supervisors.get(proxy_id)
        if supervisor is not None:
            supervisor.handle_event(
                EventType.FAILED, Cause("exited", f"exited unexpectedly: {reason}")
            )

    def _add_supervisor(self, proxy_id: str) -> ProxySupervisor:
        supervisor = ProxySupervisor(proxy_id, self._context, self._discard)
        self._supervisors[proxy_id] = supervisor
        return supervisor

    def _discard(self, supervisor: ProxySupervisor) -> None:
        if self._supervisors.get(supervisor.id) is supervisor:
            del self._supervisors[supervisor.id]
