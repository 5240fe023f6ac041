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
from ctllm.cloud.proxies.health import TIMEOUT, ask_health, until_well
from ctllm.cloud.proxies.start_limiter import Turns
from ctllm.cloud.proxies.states import ALIVE, MEMORY, NEXT, Backoff, Cause, Event, Happening, State
from ctllm.cloud.spawners.interfaces import Instance, Spawner
from ctllm.config import Cloud
from ctllm.errors import CtllmError, ProxyUnavailable, ServiceUnavailable
from ctllm.http.client.connection_pool import ConnectionPool
from ctllm.http.header_policy import response_from_proxy
from ctllm.reactor.deferred_tools import Waiters, run_with_timeout, sleep
from ctllm.reactor.interfaces import Clock, Endpoint

#: Unanswered questions for its health, in a row, after which a proxy hangs.
MISSES = 3
#: Seconds until it is asked again after it did not answer.
AGAIN = 5.0
#: Seconds by which this process may be late itself, so that a missing answer still counts.
LATE = 1.0
#: Seconds after which those are told to come again for whom there was no turn to start.
SHORTEST_WAIT, LONGEST_WAIT = 10, 120
_CROWDED = "Too many streaming proxies are being started right now. Try again in a moment."


@dataclass(frozen=True, slots=True)
class Means:
    """What all lives share. `turns` bounds how many start at once, `now` gives epoch seconds.

    `not_before` gives, for a proxy's id, the time (epoch s) of its user's revocation: a proxy that
    was started before then is replaced.
    """

    runtime: Spawner
    clock: Clock
    settings: Cloud
    connect: Callable[[Instance], Endpoint]
    turns: Turns
    audit: AuditLog
    metrics: Metrics
    now: Callable[[], float]
    not_before: Callable[[str], float]


class ProxySupervisor:
    """The proxy `id`. In each state but `RUNNING`, `origin` is of no use; `since` epoch seconds.

    Events are taken one after another, and each state has one task, which ends with the state:
    so nothing that happens within a task or a callback finds a life half-way between states.
    """

    _log = Logger()

    def __init__(self, id: str, means: Means, forget: Callable[[ProxySupervisor], None]) -> None:
        self.id = id
        self.state = State.ABSENT
        self.since = means.now()
        self.cause = Cause("wanted")
        self.origin: ConnectionPool | None = None
        self._means = means
        self._forget = forget
        self._backoff = Backoff()
        self._begun = self._wanted = means.clock.seconds()
        self._adopted = False
        self._events: deque[Happening] = deque()
        self._task: Deferred[Happening | None] | None = None
        self._waiting: Waiters[ConnectionPool] = Waiters()
        self._leaving: Waiters[None] = Waiters()

    # -- asked from outside

    async def ensure(self) -> ConnectionPool:
        """Give its origin, once it runs; ProxyUnavailable or Overloaded when it does not."""
        self._wanted = self._means.clock.seconds()
        if self.state is State.RUNNING and self.origin is not None:
            return self.origin
        if self.state is State.FAILED and self._rest():
            self._means.audit.record("proxy.start_refused", self.id, "backoff", self.cause.said)
            raise self._unavailable()
        waiting = self._waiting.wait()
        self.happen(Event.WANTED, Cause("wanted"))
        return await waiting

    def adopt(self) -> None:
        """It runs already, unasked: find it, and let it stay as long as somebody uses it."""
        self._wanted = -math.inf
        self.happen(Event.WANTED, Cause("found"))

    async def leave(self, cause: Cause) -> None:
        """End it; waits until nothing of it is left."""
        if self.state in ALIVE:
            gone = self._leaving.wait()
            self.happen(Event.TOLD, cause)
            await gone

    def happen(self, event: Event, cause: Cause) -> None:
        """Take an event, or ignore it, as the table says."""
        self._events.append(Happening(event, cause))
        if len(self._events) > 1:
            return  # whoever takes the first takes this one after it
        while self._events:
            self._take(self._events[0])
            self._events.popleft()

    # -- moving on

    def _take(self, happening: Happening) -> None:
        old, new = self.state, NEXT.get((self.state, happening.event))
        if new is None:
            return
        self._cancel_task()
        self.state, self.since = new, self._means.now()
        if happening.event in (Event.TOLD, Event.BROKE):
            self.cause = happening.cause
        self._tell(old, happening)
        if happening.event is Event.CROWDED:
            wait = min(LONGEST_WAIT, max(SHORTEST_WAIT, self._means.turns.expected_wait))
            self._waiting.fail(ServiceUnavailable(_CROWDED, retry_after=wait))
        self._begin(_TASKS[new](self))

    def _begin(self, doing: Coroutine[Any, Any, Happening | None]) -> None:
        task = self._task = Deferred.fromCoroutine(doing)
        task.addCallback(self._done, task)
        task.addErrback(self._crashed, task)

    def _done(self, happening: Happening | None, task: object) -> None:
        if task is self._task and happening is not None:
            self.happen(happening.event, happening.cause)

    def _crashed(self, reason: Failure, task: object) -> None:
        if task is not self._task and isinstance(reason.value, CancelledError):
            return
        self._log.failure("the life of proxy {proxy} has a fault", reason, proxy=self.id)
        if task is self._task:
            self.happen(
                Event.BROKE, Cause("internal_error", "met a fault of ctllm; the log says which")
            )

    def _cancel_task(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()

    def _tell(self, old: State, happening: Happening) -> None:
        """Audit and count what is worth it."""
        audit, metrics, cause = self._means.audit, self._means.metrics, happening.cause
        metrics.proxy_state_changed(_label(old), _label(self.state))
        lived = self._means.clock.seconds() - self._begun
        match old, happening.event:
            case State.STARTING, Event.READY:
                self._tell_ready(lived)
            case State.STARTING, Event.BROKE:
                self._backoff.failed(self._means.clock.seconds(), 0)
                audit.record("proxy.start_failed", self.id, cause.reason, cause.said)
                metrics.proxy_start_failed(cause.reason)
            case State.STARTING, Event.CROWDED:
                audit.record("proxy.start_refused", self.id, cause.reason)
                metrics.proxy_start_failed(cause.reason)
            case State.RUNNING, Event.BROKE:
                self._backoff.failed(self._means.clock.seconds(), lived)
                audit.record("proxy.died", self.id, cause.reason, cause.said)
                metrics.proxy_terminated(cause.reason)
            case State.RUNNING, Event.TOLD:
                metrics.proxy_terminated(cause.reason)
            case State.LEAVING, Event.GONE:
                audit.record("proxy.stopped", self.id, self.cause.reason, self.cause.said)
            case State.STARTING | State.RUNNING | State.LEAVING, Event.CLOSED:
                if not self._means.runtime.outlives:
                    audit.record("proxy.stopped", self.id, cause.reason)

    def _tell_ready(self, lived: float) -> None:
        audit, metrics = self._means.audit, self._means.metrics
        if self._adopted:
            audit.record("proxy.adopted", self.id)
            metrics.proxy_adopted()
        else:
            audit.record("proxy.started", self.id, milliseconds=round(lived * 1000))
            metrics.proxy_started(lived)

    # -- the task of each state

    async def _start(self) -> Happening:
        means = self._means
        try:
            give = await run_with_timeout(
                means.clock, means.settings.proxy_start_timeout_seconds, means.turns.take()
            )
        except TimeoutError:
            return Happening(Event.CROWDED, Cause("queue_timeout"))
        try:
            return await self._start_now(give)
        finally:
            give()

    async def _start_now(self, give: Callable[[], None]) -> Happening:
        limit = self._means.settings.proxy_start_timeout_seconds
        self._begun = self._means.clock.seconds()
        try:
            await run_with_timeout(self._means.clock, limit, self._reach(give))
        except TimeoutError:
            return Happening(
                Event.BROKE, Cause("start_timeout", f"did not answer within {limit} seconds")
            )
        except CtllmError as error:
            return Happening(
                Event.BROKE, Cause("spawner_error", f"could not start: {error.message}")
            )
        return Happening(Event.READY)

    async def _reach(self, give: Callable[[], None]) -> None:
        means = self._means
        instance = await means.runtime.ensure(self.id)
        if instance.adopted and instance.started <= means.not_before(self.id):
            await means.runtime.remove(self.id)
            instance = await means.runtime.ensure(self.id)
        self._adopted = instance.adopted
        if instance.adopted:  # it runs already: to wait for its answer costs nobody anything
            give()
        endpoint = means.connect(instance)
        self.origin = ConnectionPool(
            endpoint,
            means.clock,
            "your streaming proxy",
            ProxyUnavailable,
            filter_head=response_from_proxy,
        )
        await until_well(self.origin, means.clock)

    async def _watch(self) -> Happening:
        """Serve who waited; then look after it until nobody uses it or it hangs."""
        assert self.origin is not None
        means, missed, idle = self._means, 0, 0.0
        self._waiting.succeed(self.origin)
        while missed < MISSES:
            left = max(1.0, means.settings.proxy_idle_timeout_seconds - idle)
            pause = means.settings.proxy_health_interval_seconds
            await sleep(means.clock, min(AGAIN if missed else pause, pause, left))
            began = means.clock.seconds()
            health = await ask_health(self.origin, means.clock)
            if health is None:
                # A cloud that is late itself says nothing about its proxies.
                missed += means.clock.seconds() - began < TIMEOUT + LATE
                continue
            # Who asked for it a moment ago is about to use it, though it cannot know that yet.
            idle = min(health.idle_seconds, means.clock.seconds() - self._wanted)
            missed = 0
            if idle >= means.settings.proxy_idle_timeout_seconds:
                return Happening(Event.TOLD, Cause("idle", f"was idle for {idle:.0f} seconds"))
        return Happening(Event.BROKE, Cause("unresponsive", "did not answer any more"))

    async def _remove(self) -> Happening:
        self._close_origin()
        self._waiting.fail(self._unavailable())
        try:
            await self._means.runtime.remove(self.id)
        except CancelledError:
            raise
        except Exception:
            # What is left of it is for the runtime to find; its user gets another one.
            self._log.failure("proxy {proxy} cannot be removed", proxy=self.id)
        return Happening(Event.GONE)

    async def _remember(self) -> Happening:
        """Failed: whoever asked since then gets another one, if it need not rest."""
        self._leaving.succeed(None)
        if self._waiting and not self._rest():
            return Happening(Event.WANTED)
        self._waiting.fail(self._unavailable())
        await sleep(self._means.clock, MEMORY)
        return Happening(Event.FORGOTTEN)

    async def _vanish(self) -> Happening | None:
        self._leaving.succeed(None)
        if self._waiting:
            return Happening(Event.WANTED)
        self._forget(self)
        return None

    async def _close(self) -> None:
        self._close_origin()
        self._waiting.fail(ProxyUnavailable("The cloud is stopping."))
        self._leaving.succeed(None)

    # -- words

    def _rest(self) -> int:
        return self._backoff.rest(self._means.clock.seconds())

    def _unavailable(self) -> ProxyUnavailable:
        rest = self._rest()
        again = f"Try again in {rest} s." if rest else "Try again."
        return ProxyUnavailable(
            f"Your streaming proxy {self.cause.said}. {again}", retry_after=max(1, rest)
        )

    def _close_origin(self) -> None:
        origin, self.origin = self.origin, None
        if origin is not None:
            origin.close()


def _label(state: State) -> str | None:
    return None if state in (State.ABSENT, State.CLOSED) else state.value


_TASKS: Mapping[State, Callable[[ProxySupervisor], Coroutine[Any, Any, Happening | None]]] = (
    MappingProxyType(
        {
            State.ABSENT: ProxySupervisor._vanish,
            State.STARTING: ProxySupervisor._start,
            State.RUNNING: ProxySupervisor._watch,
            State.LEAVING: ProxySupervisor._remove,
            State.BREAKING: ProxySupervisor._remove,
            State.FAILED: ProxySupervisor._remember,
            State.CLOSED: ProxySupervisor._close,
        }
    )
)
