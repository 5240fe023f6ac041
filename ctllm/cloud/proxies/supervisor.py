"""The supervisor of one user's streaming proxy."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.logger import Logger
from twisted.python.failure import Failure

from ctllm.cloud.audit import AuditLog
from ctllm.cloud.metrics import Metrics
from ctllm.cloud.proxies.health import HEALTH_TIMEOUT, fetch_health, wait_until_healthy
from ctllm.cloud.proxies.start_limiter import StartLimiter
from ctllm.cloud.proxies.states import (
    ACTIVE_STATES,
    FAILURE_RETENTION,
    TRANSITIONS,
    Backoff,
    Cause,
    Event,
    EventType,
    State,
)
from ctllm.cloud.spawners.composite import select_spawner, survives_restart
from ctllm.cloud.spawners.interfaces import ProxyInstance, Spawner
from ctllm.config import Cloud
from ctllm.errors import CtllmError, ProxyUnavailable, ServiceUnavailable
from ctllm.http.client.connection_pool import ConnectionPool
from ctllm.http.header_policy import response_from_proxy
from ctllm.reactor.deferred_tools import Waiters, run_with_timeout, sleep
from ctllm.reactor.interfaces import Clock, Endpoint

#: A proxy is unresponsive after so many failed health checks in a row.
MAX_MISSED_CHECKS = 3
#: Seconds between a failed health check and the next one.
RECHECK_DELAY = 5.0
#: Seconds. A failed check does not count if this process itself was delayed for longer.
MAX_OWN_DELAY = 1.0
#: Seconds. Bounds of the `Retry-After` for clients whose proxy did not get a slot to start.
MIN_RETRY_AFTER, MAX_RETRY_AFTER = 10, 120
_QUEUE_TIMED_OUT_MESSAGE = (
    "Too many streaming proxies are being started right now. Try again in a moment."
)

StateTask: TypeAlias = Coroutine[Any, Any, "Event | None"]


@dataclass(frozen=True, slots=True)
class SupervisorContext:
    """What all supervisors share.

    `now` returns epoch seconds. `revocation_time` returns, for a proxy's id, the time of its
    user's last revocation in epoch seconds: a proxy that was started before then is replaced.
    """

    spawner: Spawner
    clock: Clock
    settings: Cloud
    endpoint_for: Callable[[ProxyInstance], Endpoint]
    start_limiter: StartLimiter
    audit: AuditLog
    metrics: Metrics
    now: Callable[[], float]
    revocation_time: Callable[[str], float]


class ProxySupervisor:
    """Starts, monitors and stops the proxy `id`.

    `since` is the time of the last transition, in epoch seconds. `pool` has connections to the
    proxy in the state RUNNING. `spawner_name` is that of the spawner which shall start it, where
    there are several. `on_discard` is called when the supervisor is of no more use.

    Events are queued and applied one at a time. Each state has one task, which is cancelled when
    the state changes, so neither a task nor a callback ever observes half a transition.
    """

    _log = Logger()

    def __init__(
        self, id: str, context: SupervisorContext, on_discard: Callable[[ProxySupervisor], None]
    ) -> None:
        self.id = id
        self.state = State.ABSENT
        self.since = context.now()
        self.cause = Cause("requested")
        self.pool: ConnectionPool | None = None
        self.spawner_name = ""
        self._context = context
        self._on_discard = on_discard
        self._backoff = Backoff()
        self._started_at = self._last_requested = context.clock.seconds()
        self._adopted = False
        self._events: deque[Event] = deque()
        self._task: Deferred[Event | None] | None = None
        self._start_waiters: Waiters[ConnectionPool] = Waiters()
        self._stop_waiters: Waiters[None] = Waiters()

    # -- requests of the manager

    async def ensure_running(self) -> ConnectionPool:
        """Return connections to the proxy; start it first if it does not run.

        Raises ProxyUnavailable if it does not start, ServiceUnavailable if others start first.
        """
        self._last_requested = self._context.clock.seconds()
        if self.state is State.RUNNING and self.pool is not None:
            return self.pool
        if self.state is State.FAILED and self._backoff_remaining():
            self._context.audit.record(
                "proxy.start_refused", self.id, "backoff", self.cause.description
            )
            raise self._unavailable_error()
        started = self._start_waiters.wait()
        self.handle_event(EventType.REQUESTED, Cause("requested"))
        return await started

    def adopt(self) -> None:
        """Supervise a proxy that runs already. It counts as idle until it is requested."""
        self._last_requested = -math.inf
        self.handle_event(EventType.REQUESTED, Cause("adopted"))

    async def stop(self, cause: Cause) -> None:
        """Stop the proxy and wait until it is removed."""
        if self.state in ACTIVE_STATES:
            stopped = self._stop_waiters.wait()
            self.handle_event(EventType.STOP_REQUESTED, cause)
            await stopped

    def handle_event(self, type: EventType, cause: Cause) -> None:
        """Apply an event. Ignore it if the current state has no transition for it."""
        self._events.append(Event(type, cause))
        if len(self._events) > 1:
            return  # this call is within the loop below, which takes it next
        while self._events:
            self._apply_event(self._events[0])
            self._events.popleft()

    # -- transitions

    def _apply_event(self, event: Event) -> None:
        old, new = self.state, TRANSITIONS.get((self.state, event.type))
        if new is None:
            return
        self._cancel_task()
        self.state, self.since = new, self._context.now()
        if event.type in (EventType.STOP_REQUESTED, EventType.FAILED):
            self.cause = event.cause
        self._record_transition(old, event)
        if event.type is EventType.QUEUE_TIMED_OUT:
            expected_wait = self._context.start_limiter.expected_wait
            retry_after = min(MAX_RETRY_AFTER, max(MIN_RETRY_AFTER, expected_wait))
            self._start_waiters.fail(
                ServiceUnavailable(_QUEUE_TIMED_OUT_MESSAGE, retry_after=retry_after)
            )
        self._start_task(STATE_TASKS[new](self))

    def _start_task(self, coroutine: StateTask) -> None:
        task = self._task = Deferred.fromCoroutine(coroutine)
        task.addCallback(self._task_finished, task)
        task.addErrback(self._task_failed, task)

    def _task_finished(self, event: Event | None, task: object) -> None:
        if task is self._task and event is not None:
            self.handle_event(event.type, event.cause)

    def _task_failed(self, reason: Failure, task: object) -> None:
        if task is not self._task and isinstance(reason.value, CancelledError):
            return
        self._log.failure("Error in the supervisor of proxy {proxy}", reason, proxy=self.id)
        if task is self._task:
            self.handle_event(
                EventType.FAILED,
                Cause("internal_error", "failed because of an internal error; the log has details"),
            )

    def _cancel_task(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()

    def _record_transition(self, old: State, event: Event) -> None:
        """Write the audit entry of a transition and update the metrics."""
        audit, metrics, cause = self._context.audit, self._context.metrics, event.cause
        metrics.proxy_state_changed(_metric_label(old), _metric_label(self.state))
        uptime = self._context.clock.seconds() - self._started_at
        match old, event.type:
            case State.STARTING, EventType.READY:
                self._record_start(uptime)
            case State.STARTING, EventType.FAILED:
                self._backoff.record_failure(self._context.clock.seconds(), 0)
                audit.record("proxy.start_failed", self.id, cause.reason, cause.description)
                metrics.proxy_start_failed(cause.reason)
            case State.STARTING, EventType.QUEUE_TIMED_OUT:
                audit.record("proxy.start_refused", self.id, cause.reason)
                metrics.proxy_start_failed(cause.reason)
            case State.RUNNING, EventType.FAILED:
                self._backoff.record_failure(self._context.clock.seconds(), uptime)
                audit.record("proxy.died", self.id, cause.reason, cause.description)
                metrics.proxy_terminated(cause.reason)
            case State.RUNNING, EventType.STOP_REQUESTED:
                metrics.proxy_terminated(cause.reason)
            case State.STOPPING, EventType.REMOVED:
                audit.record("proxy.stopped", self.id, self.cause.reason, self.cause.description)
            case State.STARTING | State.RUNNING | State.STOPPING, EventType.CLOUD_STOPPED:
                if not survives_restart(self._context.spawner, self.id):
                    audit.record("proxy.stopped", self.id, cause.reason)

    def _record_start(self, duration: float) -> None:
        audit, metrics = self._context.audit, self._context.metrics
        if self._adopted:
            audit.record("proxy.adopted", self.id)
            metrics.proxy_adopted()
        else:
            audit.record("proxy.started", self.id, milliseconds=round(duration * 1000))
            metrics.proxy_started(duration)

    # -- the tasks of the states; each returns the event that ends its state

    async def _start(self) -> Event:
        """Start the proxy once the start limiter has a slot for it."""
        context = self._context
        try:
            release = await run_with_timeout(
                context.clock,
                context.settings.proxy_start_timeout_seconds,
                context.start_limiter.acquire(),
            )
        except TimeoutError:
            return Event(EventType.QUEUE_TIMED_OUT, Cause("queue_timeout"))
        try:
            return await self._start_in_slot(release)
        finally:
            release()

    async def _start_in_slot(self, release: Callable[[], None]) -> Event:
        timeout = self._context.settings.proxy_start_timeout_seconds
        self._started_at = self._context.clock.seconds()
        try:
            await run_with_timeout(self._context.clock, timeout, self._launch(release))
        except TimeoutError:
            description = f"did not respond within {timeout} seconds of its start"
            return Event(EventType.FAILED, Cause("start_timeout", description))
        except CtllmError as error:
            description = f"could not be started: {error.message.rstrip('.')}"
            return Event(EventType.FAILED, Cause("spawner_error", description))
        return Event(EventType.READY)

    async def _launch(self, release: Callable[[], None]) -> None:
        context = self._context
        select_spawner(context.spawner, self.id, self.spawner_name)
        instance = await context.spawner.ensure_running(self.id)
        if instance.adopted and instance.started_at <= context.revocation_time(self.id):
            await context.spawner.remove(self.id)
            instance = await context.spawner.ensure_running(self.id)
        self._adopted = instance.adopted
        if instance.adopted:
            release()  # it runs already: waiting for its response needs no processor time
        self.pool = ConnectionPool(
            context.endpoint_for(instance),
            context.clock,
            "your streaming proxy",
            ProxyUnavailable,
            filter_head=response_from_proxy,
        )
        await wait_until_healthy(self.pool, context.clock)

    async def _monitor(self) -> Event:
        """Check the proxy's health until it is idle for too long or no longer responds."""
        assert self.pool is not None
        context, missed, idle = self._context, 0, 0.0
        idle_timeout = context.settings.proxy_idle_timeout_seconds
        self._start_waiters.succeed(self.pool)
        while missed < MAX_MISSED_CHECKS:
            until_idle_timeout = max(1.0, idle_timeout - idle)
            interval = context.settings.proxy_health_interval_seconds
            await sleep(
                context.clock,
                min(RECHECK_DELAY if missed else interval, interval, until_idle_timeout),
            )
            asked_at = context.clock.seconds()
            health = await fetch_health(self.pool, context.clock)
            if health is None:
                # If this process was delayed itself, the check shows nothing about the proxy.
                missed += context.clock.seconds() - asked_at < HEALTH_TIMEOUT + MAX_OWN_DELAY
                continue
            # Whoever requested the proxy a moment ago may not have connected to it yet.
            idle = min(health.idle_seconds, context.clock.seconds() - self._last_requested)
            missed = 0
            if idle >= idle_timeout:
                cause = Cause("idle", f"was idle for {idle:.0f} seconds")
                return Event(EventType.STOP_REQUESTED, cause)
        return Event(EventType.FAILED, Cause("unresponsive", "no longer responded"))

    async def _remove(self) -> Event:
        """Close the connections and have the spawner remove the proxy."""
        self._close_pool()
        self._start_waiters.fail(self._unavailable_error())
        try:
            await self._context.spawner.remove(self.id)
        except CancelledError:
            raise
        except Exception:
            # The spawner removes leftovers later. They do not keep the user from a new proxy.
            self._log.failure("Cannot remove proxy {proxy}", proxy=self.id)
        return Event(EventType.REMOVED)

    async def _hold_failure(self) -> Event:
        """Remember the failure, unless the proxy was requested since and may start again."""
        self._stop_waiters.succeed(None)
        if self._start_waiters and not self._backoff_remaining():
            return Event(EventType.REQUESTED)
        self._start_waiters.fail(self._unavailable_error())
        await sleep(self._context.clock, FAILURE_RETENTION)
        return Event(EventType.FAILURE_EXPIRED)

    async def _become_absent(self) -> Event | None:
        """Discard this supervisor, unless the proxy was requested while it stopped."""
        self._stop_waiters.succeed(None)
        if self._start_waiters:
            return Event(EventType.REQUESTED)
        self._on_discard(self)
        return None

    async def _close(self) -> None:
        """Close the connections. The proxy itself is the spawner's to stop."""
        self._close_pool()
        self._start_waiters.fail(ProxyUnavailable("The cloud is stopping."))
        self._stop_waiters.succeed(None)

    # -- helpers

    def _backoff_remaining(self) -> int:
        return self._backoff.remaining(self._context.clock.seconds())

    def _unavailable_error(self) -> ProxyUnavailable:
        delay = self._backoff_remaining()
        advice = f"Try again in {delay} s." if delay else "Try again."
        return ProxyUnavailable(
            f"Your streaming proxy {self.cause.description}. {advice}", retry_after=max(1, delay)
        )

    def _close_pool(self) -> None:
        pool, self.pool = self.pool, None
        if pool is not None:
            pool.close()


def _metric_label(state: State) -> str | None:
    return None if state in (State.ABSENT, State.CLOSED) else state.value


STATE_TASKS: Mapping[State, Callable[[ProxySupervisor], StateTask]] = MappingProxyType(
    {
        State.ABSENT: ProxySupervisor._become_absent,
        State.STARTING: ProxySupervisor._start,
        State.RUNNING: ProxySupervisor._monitor,
        State.STOPPING: ProxySupervisor._remove,
        State.CLEANING_UP: ProxySupervisor._remove,
        State.FAILED: ProxySupervisor._hold_failure,
        State.CLOSED: ProxySupervisor._close,
    }
)
"""What a supervisor does in each state."""
