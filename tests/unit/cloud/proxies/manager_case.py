"""A test case with a proxy manager, a fake spawner, a clock, and HTTP over memory."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.test.iosim import FakeTransport, IOPump, connect
from twisted.trial.unittest import SynchronousTestCase

from ctllm.auth.assignments import ASSIGNMENT_PATH
from ctllm.cloud.audit import AuditLog
from ctllm.cloud.metrics import Metrics
from ctllm.cloud.proxies.manager import ProxyManager
from ctllm.cloud.spawners.interfaces import (
    ExitObservers,
    NameInUse,
    ProxyInstance,
    ResourceUsage,
    is_waiting_id,
)
from ctllm.config import Cloud
from ctllm.errors import CtllmError, ProxyUnavailable
from ctllm.http.client.connection_pool import ConnectionPool
from ctllm.http.message.head import get_header
from ctllm.http.server.connection import HttpServerFactory
from ctllm.http.server.request import ServerRequest

T = TypeVar("T")

A, B, C, D, E, F = (f"ctllm-proxy-{letter * 32}" for letter in "abcdef")
START = 1_700_000_000.0


class FakeProxy:
    """A proxy that responds to health checks as its attributes say, over memory."""

    def __init__(self, is_listening: bool) -> None:
        self.is_listening = is_listening
        self.is_hanging = False
        self.status = 200
        self.assignments: list[str] = []
        self.health: dict[str, float] = {"exchanges": 0, "desktops": 0, "idle_seconds": 0}
        self.since_idle: Callable[[], float] | None = None
        self.request_count = self.connection_attempts = 0
        self.pumps: list[IOPump] = []
        self.factory = HttpServerFactory(self.handle, Clock())

    async def handle(self, request: ServerRequest) -> None:
        self.request_count += 1
        await request.read_body(0)
        if self.is_hanging:
            await Deferred()
        if request.head.path == ASSIGNMENT_PATH:
            self.accept(request)
            return
        if self.since_idle is not None:
            self.health["idle_seconds"] = self.since_idle()
        request.respond(self.status, self.health)

    def accept(self, request: ServerRequest) -> None:
        """Accept an assignment, if it is the first one."""
        token = get_header(request.head.headers, b"ctllm-assertion") or b""
        self.assignments.append(token.decode())
        is_first = len(self.assignments) == 1 and self.status == 200
        request.respond(204 if is_first else 409 if self.status == 200 else self.status)

    def connect(self, factory: Any) -> Deferred[Any]:
        self.connection_attempts += 1
        if not self.is_listening:
            return fail(ConnectionRefusedError())
        client, server = factory.buildProtocol(None), self.factory.buildProtocol(None)
        self.pumps.append(
            connect(server, FakeTransport(server, True), client, FakeTransport(client, False))
        )
        return succeed(client)

    @property
    def open_connections(self) -> int:
        return sum(not pump.clientIO.disconnected for pump in self.pumps)


class FakeSpawner:
    """A spawner of fake proxies. Starts in `slow_starts` wait for the Deferred of the test."""

    def __init__(self, proxies_survive_restart: bool = False) -> None:
        self.proxies_survive_restart = proxies_survive_restart
        self.exit_observers = ExitObservers()
        self.add_exit_observer = self.exit_observers.add
        self.proxies: dict[str, FakeProxy] = {}
        self.started: list[FakeProxy] = []
        self.slow_starts: dict[str, Deferred[None]] = {}
        self.slow_removals: dict[str, Deferred[None]] = {}
        self.comes_up = True
        self.is_remote = False
        self.error: Exception | None = None
        self.ensure_calls: Counter[str] = Counter()
        self.starts: Counter[str] = Counter()
        self.completed_starts: Counter[str] = Counter()
        self.completion_error: Exception | None = None
        self.may_assign = True
        self.assigned: dict[str, str] = {}
        self.slow_assignment: Deferred[None] | None = None
        self.assignment_error: Exception | None = None
        self.list_calls = 0
        self.slow_list: Deferred[None] | None = None
        self.listed: list[str] | None = None  # replaces the true list
        self.removals: Counter[str] = Counter()
        self.cleanups: Counter[str] = Counter()
        self.problem = ""
        self.outdated: set[str] = set()
        self.usages: dict[str, ResourceUsage] = {}

    async def ensure_running(self, proxy_id: str) -> ProxyInstance:
        self.ensure_calls[proxy_id] += 1
        if proxy_id in self.proxies and self.proxies_survive_restart:
            return self.instance(proxy_id, adopted=True)
        self.starts[proxy_id] += 1
        if proxy_id in self.slow_starts:
            await self.slow_starts[proxy_id]
        if self.error is not None:
            raise self.error
        self.proxies[proxy_id] = FakeProxy(self.comes_up)
        self.started.append(self.proxies[proxy_id])
        return self.instance(proxy_id)

    def instance(self, proxy_id: str, adopted: bool = False) -> ProxyInstance:
        waiting_id = proxy_id if is_waiting_id(proxy_id) else self.assigned.get(proxy_id, "")
        endpoint = f"unix:/{proxy_id}"
        return ProxyInstance(
            proxy_id, endpoint, START, adopted, waiting_id=waiting_id, is_remote=self.is_remote
        )

    def can_assign(self, waiting_id: str, proxy_id: str) -> bool:
        return self.may_assign

    async def assign(self, waiting_id: str, proxy_id: str) -> ProxyInstance:
        if self.slow_assignment is not None:
            await self.slow_assignment
        if self.assignment_error is not None:
            raise self.assignment_error
        if proxy_id in self.proxies:
            raise NameInUse("It runs.")
        self.proxies[proxy_id] = self.proxies.pop(waiting_id)
        self.assigned[proxy_id] = waiting_id
        return self.instance(proxy_id)

    @property
    def waiting(self) -> list[str]:
        """The proxies that nobody has."""
        return [each for each in self.proxies if is_waiting_id(each)]

    async def start_completed(self, proxy_id: str) -> None:
        assert self.proxies[proxy_id].request_count, "It has not responded."
        self.completed_starts[proxy_id] += 1
        if self.completion_error is not None:
            raise self.completion_error

    def is_outdated(self, proxy_id: str) -> bool:
        return proxy_id in self.outdated

    async def remove(self, proxy_id: str) -> None:
        self.removals[proxy_id] += 1
        self.assigned.pop(proxy_id, None)
        self.outdated.discard(proxy_id)
        if proxy_id in self.slow_removals:
            await self.slow_removals.pop(proxy_id)
        self.proxies.pop(proxy_id, None)

    async def clean_up(self, proxy_id: str) -> None:
        self.cleanups[proxy_id] += 1
        assigned = self.assigned.get(proxy_id)
        await self.remove(proxy_id)
        if assigned is not None:  # the proxy that waited starts again, as one that waits
            self.assigned[proxy_id] = assigned

    async def inspect(self, proxy_id: str) -> ProxyInstance | None:
        return self.instance(proxy_id, True) if proxy_id in self.proxies else None

    async def list(self) -> Sequence[ProxyInstance]:
        self.list_calls += 1
        if self.slow_list is not None:
            await self.slow_list
        if self.error is not None:
            raise self.error
        listed = self.proxies if self.listed is None else self.listed
        return [self.instance(proxy_id, True) for proxy_id in listed]

    async def resource_usage_of(self, proxy_id: str) -> ResourceUsage | None:
        return self.usages.get(proxy_id)

    async def resource_usage(self) -> Mapping[str, ResourceUsage]:
        return self.usages

    def connect(self, instance: ProxyInstance) -> FakeProxy:
        return self.proxies[instance.id]

    def exit(self, proxy_id: str) -> None:
        """Have a proxy exit."""
        self.proxies.pop(proxy_id).is_listening = False
        self.exit_observers.notify(proxy_id, "it was ended by SIGKILL")


class ProxyManagerCase(SynchronousTestCase):
    """Starts a manager. After each test, stopping it must leave no timer and no connection."""

    settings = Cloud()
    proxies_survive_restart = False

    def setUp(self) -> None:
        self.clock = Clock()
        self.spawner = FakeSpawner(self.proxies_survive_restart)
        self.before_start()
        self.metrics = Metrics()
        self.state = Path(self.mktemp())
        (self.state / "cloud").mkdir(parents=True)
        self.manager = ProxyManager(
            self.spawner,
            self.clock,
            self.settings,
            AuditLog(self.state, self.now),
            self.metrics,
            lambda waiting_id, proxy_id: f"{waiting_id} is {proxy_id}",
            self.spawner.connect,
            self.now,
            self.revocation_time,
        )
        self.manager.startService()
        self.addCleanup(self.stop)

    def before_start(self) -> None:
        """Prepare the spawner before the manager starts."""

    def now(self) -> float:
        return START + self.clock.seconds()

    def revocation_time(self, proxy_id: str) -> float:
        return -math.inf

    def stop(self) -> None:
        stopping = self.manager.stopService()
        assert stopping is not None
        self.successResultOf(stopping)
        self.flush()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(sum(proxy.open_connections for proxy in self.spawner.started), 0)

    def flush(self) -> None:
        for proxy in self.spawner.started:
            for pump in proxy.pumps:
                pump.flush()

    def wait(self, seconds: float) -> None:
        """Advance the clock from one timer to the next, and flush the connections in between."""
        end = self.clock.seconds() + seconds
        self.flush()
        while due := [c for c in self.clock.getDelayedCalls() if c.getTime() <= end]:
            self.clock.advance(max(0.0, min(c.getTime() for c in due) - self.clock.seconds()))
            self.flush()
        self.clock.advance(max(0.0, end - self.clock.seconds()))
        self.flush()

    def run_coroutine(self, coroutine: Coroutine[Any, Any, T]) -> Deferred[T]:
        running = Deferred.fromCoroutine(coroutine)
        self.flush()
        return running

    def ensure_running(self, proxy_id: str) -> Deferred[ConnectionPool]:
        return self.run_coroutine(self.manager.ensure_running(proxy_id))

    def start(self, proxy_id: str) -> ConnectionPool:
        return self.successResultOf(self.ensure_running(proxy_id))

    def failure(
        self, deferred: Deferred[Any], kind: type[CtllmError] = ProxyUnavailable
    ) -> CtllmError:
        return cast(CtllmError, self.failureResultOf(deferred, kind).value)

    def status(self, proxy_id: str = A) -> str:
        return self.manager.status(proxy_id).state

    def audited(self, *names: str) -> list[Any]:
        path = self.state / "cloud" / "audit.jsonl"
        lines = path.read_bytes().splitlines() if path.exists() else []
        entries = [msgspec.json.decode(line) for line in lines]
        return [tuple(entry.get(name) for name in names) for entry in entries]

    def has_metric(self, text: str) -> bool:
        return f"\n{text}\n" in self.metrics.render_text()[1].decode()
