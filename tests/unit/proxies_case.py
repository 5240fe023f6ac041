"""Proxies for tests: a runtime of pretence, a clock, and HTTP over memory."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.test.iosim import FakeTransport, IOPump, connect
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.audit import AuditLog
from ctllm.cloud.metrics import Metrics
from ctllm.cloud.proxies.manager import ProxyManager
from ctllm.cloud.spawners.interfaces import Instance, Usage, no_matter
from ctllm.config import Cloud
from ctllm.errors import CtllmError, ProxyUnavailable
from ctllm.http.client.connection_pool import ConnectionPool
from ctllm.http.server.connection import HttpServerFactory
from ctllm.http.server.request import ServerRequest

A, B, C, D, E, F = (f"ctllm-proxy-{letter * 32}" for letter in "abcdef")
START = 1_700_000_000.0


class PretendProxy:
    """What answers /health over memory; `up`, `hung` and the figures are the test's to set."""

    def __init__(self, up: bool) -> None:
        self.up = up
        self.hung = False
        self.status = 200
        self.figures: dict[str, float] = {"exchanges": 0, "desktops": 0, "idle_seconds": 0}
        self.since_idle: Callable[[], float] | None = None
        self.asked = 0
        self.pumps: list[IOPump] = []
        self.factory = HttpServerFactory(self.answer, Clock())

    async def answer(self, incoming: ServerRequest) -> None:
        self.asked += 1
        await incoming.read_body(0)
        if self.hung:
            await Deferred()
        if self.since_idle is not None:
            self.figures["idle_seconds"] = self.since_idle()
        incoming.respond(self.status, self.figures)

    def connect(self, factory: Any) -> Deferred[Any]:
        if not self.up:
            return fail(ConnectionRefusedError())
        client, server = factory.buildProtocol(None), self.factory.buildProtocol(None)
        self.pumps.append(
            connect(server, FakeTransport(server, True), client, FakeTransport(client, False))
        )
        return succeed(client)

    @property
    def open_connections(self) -> int:
        return sum(not pump.clientIO.disconnected for pump in self.pumps)


class PretendRuntime:
    """Starts pretend proxies: at once, or when the Deferred that a test puts in `slow` fires."""

    def __init__(self, outlives: bool = False) -> None:
        self.outlives = outlives
        self.on_exit: Callable[[str, str], None] = no_matter
        self.proxies: dict[str, PretendProxy] = {}
        self.all: list[PretendProxy] = []
        self.slow: dict[str, Deferred[None]] = {}
        self.stubborn: dict[str, Deferred[None]] = {}
        self.comes_up = True
        self.refusal: Exception | None = None
        self.asked: Counter[str] = Counter()
        self.starts: Counter[str] = Counter()
        self.lists = 0
        self.slow_list: Deferred[None] | None = None
        self.listed: list[str] | None = None  # what is listed, whatever is there
        self.removals: Counter[str] = Counter()
        self.trouble = ""
        self.used: dict[str, Usage] = {}

    async def ensure(self, proxy_id: str) -> Instance:
        self.asked[proxy_id] += 1
        if proxy_id in self.proxies and self.outlives:
            return self.instance(proxy_id, adopted=True)
        self.starts[proxy_id] += 1
        if proxy_id in self.slow:
            await self.slow[proxy_id]
        if self.refusal is not None:
            raise self.refusal
        self.proxies[proxy_id] = PretendProxy(self.comes_up)
        self.all.append(self.proxies[proxy_id])
        return self.instance(proxy_id)

    def instance(self, proxy_id: str, adopted: bool = False) -> Instance:
        return Instance(proxy_id, f"unix:/{proxy_id}", START, adopted)

    async def remove(self, proxy_id: str) -> None:
        self.removals[proxy_id] += 1
        if proxy_id in self.stubborn:
            await self.stubborn.pop(proxy_id)
        self.proxies.pop(proxy_id, None)

    async def inspect(self, proxy_id: str) -> Instance | None:
        return self.instance(proxy_id, True) if proxy_id in self.proxies else None

    async def list(self) -> Sequence[Instance]:
        self.lists += 1
        if self.slow_list is not None:
            await self.slow_list
        if self.refusal is not None:
            raise self.refusal
        listed = self.proxies if self.listed is None else self.listed
        return [self.instance(proxy_id, True) for proxy_id in listed]

    async def usage(self) -> Mapping[str, Usage]:
        return self.used

    def connect(self, instance: Instance) -> PretendProxy:
        return self.proxies[instance.id]

    def die(self, proxy_id: str) -> None:
        self.proxies.pop(proxy_id).up = False
        self.on_exit(proxy_id, "it was ended by SIGKILL")


class Case(SynchronousTestCase):
    """Proxies on a clock. However a test ends, stopping must leave no timer and no connection."""

    settings = Cloud()
    outlives = False

    def setUp(self) -> None:
        self.clock = Clock()
        self.runtime = PretendRuntime(self.outlives)
        self.prepare()
        self.metrics = Metrics()
        self.state = Path(self.mktemp())
        (self.state / "cloud").mkdir(parents=True)
        self.proxies = ProxyManager(
            self.runtime,
            self.clock,
            self.settings,
            AuditLog(self.state, self.now),
            self.metrics,
            self.runtime.connect,
            self.now,
            self.not_before,
        )
        self.proxies.startService()
        self.addCleanup(self.stop)

    def prepare(self) -> None:
        """What a test wants to be there before the start."""

    def now(self) -> float:
        return START + self.clock.seconds()

    def not_before(self, proxy_id: str) -> float:
        """When its user was revoked."""
        return -math.inf

    def stop(self) -> None:
        self.successResultOf(self.proxies.stopService())
        self.flush()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(sum(proxy.open_connections for proxy in self.runtime.all), 0)

    def flush(self) -> None:
        for proxy in self.runtime.all:
            for pump in proxy.pumps:
                pump.flush()

    def wait(self, seconds: float) -> None:
        """Let time pass, from one due call to the next, with HTTP flowing in between."""
        end = self.clock.seconds() + seconds
        self.flush()
        while due := [c for c in self.clock.getDelayedCalls() if c.getTime() <= end]:
            self.clock.advance(max(0.0, min(c.getTime() for c in due) - self.clock.seconds()))
            self.flush()
        self.clock.advance(max(0.0, end - self.clock.seconds()))
        self.flush()

    def begin(self, doing: Coroutine[Any, Any, Any]) -> Deferred[Any]:
        doing_it = Deferred.fromCoroutine(doing)
        self.flush()
        return doing_it

    def ensure(self, proxy_id: str) -> Deferred[ConnectionPool]:
        return self.begin(self.proxies.ensure(proxy_id))

    def up(self, proxy_id: str) -> ConnectionPool:
        return self.successResultOf(self.ensure(proxy_id))

    def refused(self, doing: Deferred[Any], kind: type[CtllmError] = ProxyUnavailable) -> Any:
        return self.failureResultOf(doing, kind).value

    def word(self, proxy_id: str = A) -> str:
        return self.proxies.status(proxy_id).state

    def audited(self, *names: str) -> list[Any]:
        path = self.state / "cloud" / "audit.jsonl"
        lines = path.read_bytes().splitlines() if path.exists() else []
        entries = [msgspec.json.decode(line) for line in lines]
        return [tuple(entry.get(name) for name in names) for entry in entries]

    def metric(self, text: str) -> bool:
        return f"\n{text}\n" in self.metrics.render_text()[1].decode()
