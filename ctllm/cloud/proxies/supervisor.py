"""One user's streaming proxy from absent to absent: what is done in each state of its life."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

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
from ctllm.cloud.spawners.interfaces import ProxyInstance, Spawner
from ctllm.config import Cloud
from ctllm.errors import CtllmError, ProxyUnavailable, ServiceUnavailable
from ctllm.http.client.connection_pool import ConnectionPool
from ctllm.http.header_policy import response_from_proxy
from ctllm.reactor.deferred_tools import Waiters, run_with_timeout, sleep
from ctllm.reactor.interfaces import Clock, Endpoint

#: Unanswered questions for its health, in a row, after which a proxy hangs.
MAX_MISSED_CHECKS = 3
#: Seconds until it is asked again after it did not answer.
RECHECK_DELAY = 5.0
#: Seconds by which this process may be late itself, so that a missing answer still counts.
MAX_OWN_DELAY = 1.0
#: Seconds after which those are told to come again for whom there was no turn to start.
MIN_RETRY_AFTER, MAX_RETRY_AFTER = 10, 120
_QUEUE_TIMED_OUT_MESSAGE = (
    "Too many streaming proxies are being started right now. Try again in a moment."
)


@dataclass(frozen=True, slots=True)
class SupervisorContext:
    """What all lives share. `turns` bounds how many start at once, `now` gives epoch seconds.

    `not_before` gives, for a proxy's id, the time (epoch s) of its user's revocation: a proxy that
    was started before then is replaced.
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
    """The proxy `id`. In each state but `RUNNING`, `origin` is of no use; `since` epoch seconds.

    Events are taken one after another, and each state has one task, which ends with the state:
    so nothing that happens within a task or a callback finds a life half-way between states.
    """

    _log = Logger()

    def __init__(
        self, id: str, context: SupervisorContext, on_discard: Callable[[ProxySupervisor], None]
    ) -> None:
        self.id = id
        self.state = State.ABSENT
        self.since = context.now()
        self.cause = Cause("wanted")
        self.pool: ConnectionPool | None = None
        self._context = context
        self._on_discard = on_discard
        self._backoff = Backoff()
        self._started_at = self._last_requested = context.clock.seconds()
        self._adopted = False
        self._events: deque[Event] = deque()
        self._task: Deferred[Event | None] | None = None
        self._start_waiters: Waiters[ConnectionPool] = Waiters()
        self._stop_waiters: Waiters[None] = Waiters()

    # -- asked from outside

    async def ensure_running(self) -> ConnectionPool:
        """Give its origin, once it runs; ProxyUnavailable or Overloaded when it does not."""
        self._last_requested = self._context.clock.seconds()
        if self.state is State.RUNNING and self.pool is not None:
            return self.pool
        if self.state is State.FAILED and self._backoff_remaining():
            self._context.audit.record(
                "proxy.start_refused", self.id, "backoff", self.cause.description
            )
            raise self._unavailable_error()
        started = self._start_waiters.wait()
        self.handle_event(EventType.REQUESTED, Cause("wanted"))
        return await started

    def adopt(self) -> None:
        """It runs already, unasked: find it, and let it stay as long as somebody uses it."""
        self._last_requested = -math.inf
        self.handle_event(EventType.REQUESTED, Cause("found"))

    async def stop(self, cause: Cause) -> None:
        """End it; waits until nothing of it is left."""
        if self.state in ACTIVE_STATES:
            stopped = self._stop_waiters.wait()
            self.handle_event(EventType.STOP_REQUESTED, cause)
            await stopped

    def handle_event(self, type: EventType, cause: Cause) -> None:
        """Take an event, or ignore it, as the table says."""
        self._events.append(Event(type, cause))
        if len(self._events) > 1:
            return  # whoever takes the first takes this one after it
        while self._events:
            self._apply_event(self._events[0])
            self._events.popleft()

    # -- moving on

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
            retry_after = min(
                MAX_RETRY_AFTER, max(MIN_RETRY_AFTER, self._context.start_limiter.expected_wait)
            )
            self._start_waiters.fail(
                ServiceUnavailable(_QUEUE_TIMED_OUT_MESSAGE, retry_after=retry_after)
            )
        self._start_task(STATE_TASKS[new](self))

    def _start_task(self, coroutine: Coroutine[Any, Any, Event | None]) -> None:
        task = self._task = Deferred.fromCoroutine(coroutine)
        task.addCallback(self._task_finished, task)
        task.addErrback(self._task_failed, task)

    def _task_finished(self, event: Event | None, task: object) -> None:
        if task is self._task and event is not None:
            self.handle_event(event.type, event.cause)

    def _task_failed(self, reason: Failure, task: object) -> None:
        if task is not self._task and isinstance(reason.value, CancelledError):
            return
        self._log.failure("the life of proxy {proxy} has a fault", reason, proxy=self.id)
        if task is self._task:
            self.handle_event(
                EventType.FAILED,
                Cause("internal_error", "met a fault of ctllm; the log says which"),
            )

    def _cancel_task(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()

    def _record_transition(self, old: State, event: Event) -> None:
        """Audit and count what is worth it."""
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
                if not self._context.spawner.proxies_survive_restart:
                    audit.record("proxy.stopped", self.id, cause.reason)

    def _record_start(self, duration: float) -> None:
        audit, metrics = self._context.audit, self._context.metrics
        if self._adopted:
            audit.record("proxy.adopted", self.id)
            metrics.proxy_adopted()
        else:
            audit.record("proxy.started", self.id, milliseconds=round(duration * 1000))
            metrics.proxy_started(duration)

    # -- the task of each state

    async def _start(self) -> Event:
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
            return Event(
                EventType.FAILED, Cause("start_timeout", f"did not answer within {timeout} seconds")
            )
        except CtllmError as error:
            return Event(
                EventType.FAILED, Cause("spawner_error", f"could not start: {error.message}")
            )
        return Event(EventType.READY)

    async def _launch(self, release: Callable[[], None]) -> None:
        context = self._context
        instance = await context.spawner.ensure_running(self.id)
        if instance.adopted and instance.started_at <= context.revocation_time(self.id):
            await context.spawner.remove(self.id)
            instance = await context.spawner.ensure_running(self.id)
        self._adopted = instance.adopted
        if instance.adopted:  # it runs already: to wait for its answer costs nobody anything
            release()
        endpoint = context.endpoint_for(instance)
        self.pool = ConnectionPool(
            endpoint,
            context.clock,
            "your streaming proxy",
            ProxyUnavailable,
            filter_head=response_from_proxy,
        )
        await wait_until_healthy(self.pool, context.clock)

    async def _monitor(self) -> Event:
        """Serve who waited; then look after it until nobody uses it or it hangs."""
        assert self.pool is not None
        context, missed, idle = self._context, 0, 0.0
        self._start_waiters.succeed(self.pool)
        while missed < MAX_MISSED_CHECKS:
            until_idle_timeout = max(1.0, context.settings.proxy_idle_timeout_seconds - idle)
            interval = context.settings.proxy_health_interval_seconds
            await sleep(
                context.clock,
                min(RECHECK_DELAY if missed else interval, interval, until_idle_timeout),
            )
            asked_at = context.clock.seconds()
            health = await fetch_health(self.pool, context.clock)
            if health is None:
                # A cloud that is late itself says nothing about its proxies.
                missed += context.clock.seconds() - asked_at < HEALTH_TIMEOUT + MAX_OWN_DELAY
                continue
            # Who asked for it a moment ago is about to use it, though it cannot know that yet.
            idle = min(health.idle_seconds, context.clock.seconds() - self._last_requested)
            missed = 0
            if idle >= context.settings.proxy_idle_timeout_seconds:
                return Event(
                    EventType.STOP_REQUESTED, Cause("idle", f"was idle for {idle:.0f} seconds")
                )
        return Event(EventType.FAILED, Cause("unresponsive", "did not answer any more"))

    async def _remove(self) -> Event:
        self._close_pool()
        self._start_waiters.fail(self._unavailable_error())
        try:
            await self._context.spawner.remove(self.id)
        except CancelledError:
            raise
        except Exception:
            # What is left of it is for the runtime to find; its user gets another one.
            self._log.failure("proxy {proxy} cannot be removed", proxy=self.id)
        return Event(EventType.REMOVED)

    async def _hold_failure(self) -> Event:
        """Failed: whoever asked since then gets another one, if it need not rest."""
        self._stop_waiters.succeed(None)
        if self._start_waiters and not self._backoff_remaining():
            return Event(EventType.REQUESTED)
        self._start_waiters.fail(self._unavailable_error())
        await sleep(self._context.clock, FAILURE_RETENTION)
        return Event(EventType.FAILURE_EXPIRED)

    async def _become_absent(self) -> Event | None:
        self._stop_waiters.succeed(None)
        if self._start_waiters:
            return Event(EventType.REQUESTED)
        self._on_discard(self)
        return None

    async def _close(self) -> None:
        self._close_pool()
        self._start_waiters.fail(ProxyUnavailable("The cloud is stopping."))
        self._stop_waiters.succeed(None)

    # -- words

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


STATE_TASKS: Mapping[State, Callable[[ProxySupervisor], Coroutine[Any, Any, Event | None]]] = (
    MappingProxyType(
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
)
