"""The supervisor of one user's streaming proxy."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any, TypeAlias, cast

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from ctllm.cloud.audit import AuditLog
from ctllm.cloud.metrics import Metrics
from ctllm.cloud.proxies.direct_counts import DirectCounter
from ctllm.cloud.proxies.health import (
    HEALTH_TIMEOUT,
    POLL_DELAY_RATIO,
    Health,
    fetch_health,
    wait_until_healthy,
)
from ctllm.cloud.proxies.limiters import RemovalLimiter, ReplacementLimiter, StartLimiter
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
from ctllm.cloud.proxies.warm_pool import WarmPool
from ctllm.cloud.spawners.composite import select_spawner, survives_restart
from ctllm.cloud.spawners.interfaces import ProxyInstance, Spawner
from ctllm.config import Cloud
from ctllm.errors import CtllmError, ProxyUnavailable, ServiceUnavailable
from ctllm.http.client.connection_pool import ConnectionPool
from ctllm.http.header_policy import response_from_proxy
from ctllm.reactor.deferred_tools import Waiters, run_with_timeout, sleep
from ctllm.reactor.interfaces import Clock, Endpoint, Timer

#: A proxy is unresponsive after so many failed health checks in a row.
MAX_MISSED_CHECKS = 3
#: Seconds between a failed health check and the next one.
RECHECK_DELAY = 5.0
#: Seconds. A failed check does not count if this process itself was delayed for longer.
MAX_OWN_DELAY = 1.0
#: Seconds within which whoever was given the connections to a proxy has sent a request.
REQUEST_DELAY = 5.0
#: Seconds that requests wait for the desktops of the last proxy, and between two checks for them at
#: first: later ones are rarer, as in `health`.
DESKTOP_TIMEOUT, DESKTOP_POLL_INTERVAL = 10.0, 0.1
#: Seconds. Bounds of the `Retry-After` for clients whose proxy did not get a slot to start.
MIN_RETRY_AFTER, MAX_RETRY_AFTER = 2, 120
#: Seconds. The same while the last proxy is still being removed.
REMOVAL_RETRY_AFTER = 10
#: Seconds for which a proxy keeps its place among those that wait to be started, after the last
#: request for it. A desktop comes back at most 10 s after the `Retry-After`.
QUEUE_RETENTION = MAX_RETRY_AFTER + 30.0
#: Seconds between two looks whether anybody has come for a proxy in the queue.
QUEUE_CHECK_INTERVAL = 20.0

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
    warm_pool: WarmPool
    replacement_limiter: ReplacementLimiter
    removal_limiter: RemovalLimiter
    audit: AuditLog
    metrics: Metrics
    now: Callable[[], float]
    revocation_time: Callable[[str], float]


class Origin(Enum):
    """How a proxy came to run."""

    STARTED = "started"
    ASSIGNED = "assigned"  # it waited for a user
    ADOPTED = "adopted"  # it ran before the cloud did


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
        #: The address for a reverse proxy; empty if the proxy does not run, or is of a version
        #: that only the cloud may send requests to.
        self.direct_address = ""
        self._is_remote = False  # whether the proxy is on another machine
        self._direct_counter = DirectCounter(context.metrics)
        self._context = context
        self._on_discard = on_discard
        self._backoff = Backoff()
        self._started_at = self._last_requested = context.clock.seconds()
        self.origin = Origin.STARTED
        self._events: deque[Event] = deque()
        self._task: Deferred[Event | None] | None = None
        self._start_waiters: Waiters[ConnectionPool] = Waiters()
        self._stop_waiters: Waiters[None] = Waiters()
        self._acquiring: Deferred[Callable[[], None]] | None = None  # while it is in the queue
        self._connected_desktops = 0  # at the last health check
        self._missing_desktops = 0  # that were connected to the proxy which this one replaces
        self._desktop_waiters: Waiters[None] = Waiters()

    # -- requests of the manager

    async def ensure_running(self, max_wait: float) -> ConnectionPool:
        """Return connections to the proxy; start it first if it does not run.

        It waits for `max_wait` seconds at most while others start first, or what was there before
        is removed. Raises ProxyUnavailable if it does not start, and ServiceUnavailable if it has
        waited for so long.
        """
        self._last_requested = self._context.clock.seconds()
        if self.state is State.RUNNING and self.pool is not None:
            return self.pool
        if self.state is State.FAILED and self._backoff_remaining():
            self._context.audit.record(
                "proxy.start_refused", self.id, "backoff", self.cause.description
            )
            raise self._unavailable_error()
        while True:
            started = self._start_waiters.wait()
            self.handle_event(EventType.REQUESTED, Cause("requested"))
            try:
                return await started.addTimeout(max_wait, cast(IReactorTime, self._context.clock))
            except TimeoutError:
                if self._acquiring is not None:
                    raise self._queue_error(self._acquiring, max_wait) from None
                if self.state is not State.STARTING:  # that has a timeout of its own
                    raise _removal_error() from None

    async def wait_for_desktops(self) -> None:
        """Wait until the desktops of a proxy that was replaced, or died, are at the new one.

        It takes a fraction of a second, and at most `DESKTOP_TIMEOUT`.
        """
        if self._missing_desktops:
            await self._desktop_waiters.wait()

    def adopt(self) -> None:
        """Supervise a proxy that runs already. It counts as idle until it is requested."""
        self._last_requested = -math.inf
        self.handle_event(EventType.REQUESTED, Cause("adopted"))

    async def stop(self, cause: Cause) -> None:
        """Stop the proxy and wait until it is removed. It is not started again by itself."""
        self._missing_desktops = 0
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
        self._count_missing_desktops(old, event.type)
        self._record_transition(old, event)
        self._start_task(STATE_TASKS[new](self))

    def _count_missing_desktops(self, old: State, event: EventType) -> None:
        """Have the next proxy wait for the desktops of one that died: they come back at once."""
        match old, event:
            case State.RUNNING, EventType.FAILED:
                self._missing_desktops = self._connected_desktops
            case _, EventType.FAILED | EventType.FAILURE_EXPIRED | EventType.QUEUE_TIMED_OUT:
                self._missing_desktops = 0

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
        if self.origin is Origin.ADOPTED:
            audit.record("proxy.adopted", self.id)
            metrics.proxy_adopted()
            return
        is_assigned = self.origin is Origin.ASSIGNED
        reason = "assigned" if is_assigned else ""
        audit.record("proxy.started", self.id, reason, milliseconds=round(duration * 1000))
        metrics.proxy_started(duration)
        if is_assigned:
            metrics.proxy_assigned()

    # -- the tasks of the states; each returns the event that ends its state

    async def _start(self) -> Event:
        """Take a proxy that waits, or start one once the start limiter has a slot for it."""
        if await self._take_waiting():
            return Event(EventType.READY)
        release = await self._wait_for_slot()
        try:
            return await self._start_in_slot(release)
        finally:
            release()

    async def _wait_for_slot(self) -> Callable[[], None]:
        """Wait for a slot of the start limiter.

        The place in the queue is kept for requests that were refused. If it were lost, whoever
        comes back would be last again, and slots would be idle while everybody waits to come back.
        """
        clock = self._context.clock
        acquiring = self._acquiring = self._context.start_limiter.acquire()
        timer: Timer

        def check() -> None:
            nonlocal timer
            timer = clock.callLater(QUEUE_CHECK_INTERVAL, check)
            if clock.seconds() - self._last_requested > QUEUE_RETENTION and not self._start_waiters:
                self.handle_event(EventType.QUEUE_TIMED_OUT, Cause("queue_timeout"))

        timer = clock.callLater(QUEUE_CHECK_INTERVAL, check)
        try:
            return await acquiring
        finally:
            self._acquiring = None
            timer.cancel()

    def _queue_error(
        self, acquiring: Deferred[Callable[[], None]], max_wait: float
    ) -> ServiceUnavailable:
        """Return the error for a request that has waited in the queue for `max_wait` seconds.

        Whoever comes back waits for as long again. So it is told to come back early enough to be
        waiting when its turn comes, also if that is somewhat earlier than expected, or later.
        """
        self._context.audit.record("proxy.start_refused", self.id, "queue_timeout")
        self._context.metrics.proxy_start_failed("queue_timeout")
        expected_wait = self._context.start_limiter.expected_wait(acquiring)
        early = expected_wait - round(max_wait / 2)
        retry_after = min(MAX_RETRY_AFTER, max(MIN_RETRY_AFTER, early))
        return ServiceUnavailable(
            "The streaming proxies of other users are being started first. Yours is expected to "
            f"run in {expected_wait} s: try again in {retry_after} s, to wait for it.",
            retry_after=retry_after,
        )

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

    async def _take_waiting(self) -> bool:
        """Return whether a proxy that waited for a user is this one now."""
        context = self._context
        self._started_at = context.clock.seconds()
        select_spawner(context.spawner, self.id, self.spawner_name)
        warm = await context.warm_pool.assign(self.id)
        if warm is None:
            return False
        self.origin, self.pool = Origin.ASSIGNED, warm.connections
        self.direct_address = warm.instance.address if warm.is_direct else ""
        self._direct_counter.start(None)
        return True

    async def _launch(self, release: Callable[[], None]) -> None:
        context = self._context
        select_spawner(context.spawner, self.id, self.spawner_name)
        instance = await context.spawner.ensure_running(self.id)
        if instance.adopted and instance.started_at <= context.revocation_time(self.id):
            await context.spawner.remove(self.id)
            instance = await context.spawner.ensure_running(self.id)
        self.origin = Origin.ADOPTED if instance.adopted else Origin.STARTED
        self._is_remote = instance.is_remote
        if instance.adopted:
            release()  # it runs already: waiting for its response needs no processor time
        self.pool = ConnectionPool(
            context.endpoint_for(instance),
            context.clock,
            "your streaming proxy",
            ProxyUnavailable,
            filter_head=response_from_proxy,
        )
        health = await wait_until_healthy(self.pool, context.clock)
        self.direct_address = instance.address if health.direct is not None else ""
        self._direct_counter.start(health.direct if instance.adopted else None)
        await context.spawner.start_completed(self.id)
        if instance.waiting_id:
            # It was started again, or the last run of the cloud ended before the proxy was told.
            await context.warm_pool.tell(self.pool, instance)

    async def _monitor(self) -> Event:
        """Check the proxy's health until it is idle for too long or no longer responds."""
        assert self.pool is not None
        self._connected_desktops = 0
        context, missed, idle = self._context, 0, 0.0
        idle_timeout = context.settings.proxy_idle_timeout_seconds
        self._start_waiters.succeed(self.pool)
        await self._await_desktops(self.pool)
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
            self._connected_desktops = health.desktops
            self._direct_counter.update(health.direct)
            # Whoever requested the proxy a moment ago may not have connected to it yet.
            idle = min(health.idle_seconds, context.clock.seconds() - self._last_requested)
            missed = 0
            if idle >= idle_timeout:
                cause = Cause("idle", f"was idle for {idle:.0f} seconds")
                return Event(EventType.STOP_REQUESTED, cause)
            if self._may_be_replaced(health, asked_at):
                self._missing_desktops = health.desktops
                return Event(EventType.STOP_REQUESTED, Cause("outdated", "ran another image"))
        return Event(EventType.FAILED, Cause("unresponsive", "no longer responded"))

    def _may_be_replaced(self, health: Health, asked_at: float) -> bool:
        """Return whether the proxy runs another version than a new one would, and has no request.

        Its desktops do not keep it: they connect to the new one at once.
        """
        context = self._context
        return (
            not health.is_busy
            and self._last_requested < asked_at - REQUEST_DELAY
            and context.spawner.is_outdated(self.id)
            and context.replacement_limiter.try_acquire()
        )

    async def _await_desktops(self, pool: ConnectionPool) -> None:
        """Have new requests wait for the desktops of the proxy that was here before."""
        clock = self._context.clock
        began = clock.seconds()
        try:
            while self._missing_desktops and (waited := clock.seconds() - began) < DESKTOP_TIMEOUT:
                health = await fetch_health(pool, clock, DESKTOP_TIMEOUT)
                if health is not None and health.desktops >= self._missing_desktops:
                    break
                delay = max(DESKTOP_POLL_INTERVAL, POLL_DELAY_RATIO * waited)
                await sleep(clock, min(delay, DESKTOP_TIMEOUT - waited))
        finally:
            self._missing_desktops = 0
            self._desktop_waiters.succeed(None)

    async def _remove(self) -> Event:
        """Close the connections and have the spawner remove the proxy."""
        return await self._remove_with(self._remove_in_slot)

    async def _clean_up(self) -> Event:
        """Close the connections. Keep what the next start can use, unless it may be to blame."""
        is_reusable = self.cause.reason == "exited" and not self._backoff.is_repeated
        clean_up = self._context.spawner.clean_up
        return await self._remove_with(clean_up if is_reusable else self._remove_in_slot)

    async def _remove_in_slot(self, proxy_id: str) -> None:
        """Have the spawner remove the proxy when few others are being removed."""
        async with self._context.removal_limiter.slot(self.cause.reason == "revoked"):
            await self._context.spawner.remove(proxy_id)

    async def _remove_with(self, remove: Callable[[str], Coroutine[Any, Any, None]]) -> Event:
        pool = self._close_pool()
        self._start_waiters.fail(self._unavailable_error())
        try:
            await remove(self.id)
            if pool is not None and self._is_remote:
                pool.abort()  # nothing else does, if the machine is gone
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
        """Discard this supervisor, unless the proxy was requested, or is replaced for desktops."""
        self._stop_waiters.succeed(None)
        if self._start_waiters or self._missing_desktops:
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

    def _close_pool(self) -> ConnectionPool | None:
        """Close the idle connections, and return what has the others."""
        self.direct_address = ""
        self._direct_counter.stop()
        pool, self.pool = self.pool, None
        if pool is not None:
            pool.close()
        return pool


def _removal_error() -> ServiceUnavailable:
    return ServiceUnavailable(
        "Your streaming proxy has ended, and is still being removed. Try again in "
        f"{REMOVAL_RETRY_AFTER} s.",
        retry_after=REMOVAL_RETRY_AFTER,
    )


def _metric_label(state: State) -> str | None:
    return None if state in (State.ABSENT, State.CLOSED) else state.value


STATE_TASKS: Mapping[State, Callable[[ProxySupervisor], StateTask]] = MappingProxyType(
    {
        State.ABSENT: ProxySupervisor._become_absent,
        State.STARTING: ProxySupervisor._start,
        State.RUNNING: ProxySupervisor._monitor,
        State.STOPPING: ProxySupervisor._remove,
        State.CLEANING_UP: ProxySupervisor._clean_up,
        State.FAILED: ProxySupervisor._hold_failure,
        State.CLOSED: ProxySupervisor._close,
    }
)
"""What a supervisor does in each state."""
