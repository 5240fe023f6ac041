"""The streaming proxies of a cloud as whoever runs it sees them, whether the cloud runs or not."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import quote

import msgspec
from twisted.internet.defer import Deferred, gatherResults

from ctllm.cloud.audit import Audit
from ctllm.cloud.proxies.health import Health, ask_health
from ctllm.cloud.spawners.interfaces import Instance, Spawner, Usage
from ctllm.common.json_decoder import decode_json
from ctllm.errors import BadGateway, ProxyUnavailable
from ctllm.http.client.connection_pool import ConnectionPool
from ctllm.http.client.fetch import fetch
from ctllm.http.client.unix_endpoint import VerifiedUNIXEndpoint
from ctllm.http.message.head import RequestHead
from ctllm.reactor.interfaces import Clock, Endpoint

#: Seconds for one answer of the cloud: it asks every proxy, of which some may hang.
PATIENCE = 30.0
_LARGEST = 16 << 20


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One proxy. `age`, `idle` and `cpu` are seconds, `memory` bytes; None is unknown."""

    id: str
    state: str
    age: float
    idle: float | None = None
    exchanges: int | None = None
    desktops: int | None = None
    memory: int | None = None
    cpu: float | None = None


class Roster(Protocol):
    """What can be asked, and done."""

    async def rows(self) -> list[Row]:
        """All proxies there are."""

    async def end(self, proxy_id: str) -> None:
        """End a proxy; it may be gone."""

    async def drain(self, on: bool) -> None:
        """Begin nothing new any more, or again."""


def row(id: str, state: str, age: float, health: Health | None, used: Usage | None) -> Row:
    """A row of what a proxy says of itself, and what the system says of it."""
    return Row(
        id=id,
        state=state,
        age=max(0.0, age),
        idle=None if health is None else health.idle_seconds,
        exchanges=None if health is None else health.exchanges,
        desktops=None if health is None else health.desktops,
        memory=None if used is None else used.memory,
        cpu=None if used is None else used.cpu,
    )


class Remote:
    """The `Roster` of a cloud that runs, by its operator's socket at `path`."""

    def __init__(self, reactor: Any, path: str) -> None:
        # We may be root, and the folder another user's, who must not choose what we connect to.
        cloud = (os.stat(os.path.dirname(path)).st_uid, 0)
        endpoint = VerifiedUNIXEndpoint(reactor, path, lambda peer: peer.uid in cloud)
        self._clock = reactor
        self._cloud = ConnectionPool(endpoint, reactor, "the cloud", ProxyUnavailable)

    async def rows(self) -> list[Row]:
        """All proxies there are."""
        return decode_json(await self._ask(b"GET", "/proxies"), list[Row])

    async def end(self, proxy_id: str) -> None:
        """End a proxy; it may be gone."""
        await self._ask(b"DELETE", f"/proxies/{quote(proxy_id, safe='')}")

    async def drain(self, on: bool) -> None:
        """Begin nothing new any more, or again."""
        await self._ask(b"PUT" if on else b"DELETE", "/draining")

    def close(self) -> None:
        """Leave no connection."""
        self._cloud.close()

    async def _ask(self, method: bytes, path: str) -> bytes:
        head = RequestHead(method, path.encode())
        status, body = await fetch(self._cloud, head, self._clock, PATIENCE, _LARGEST)
        if status >= 300:
            raise BadGateway(f"the cloud answers {path} with status {status}: {body[:500]!r}")
        return body


class Local:
    """The `Roster` of what a cloud that does not run has left."""

    def __init__(
        self,
        runtime: Spawner,
        clock: Clock,
        connect: Callable[[Instance], Endpoint],
        audit: Audit,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._runtime, self._clock, self._connect = runtime, clock, connect
        self._audit, self._now = audit, now

    async def rows(self) -> list[Row]:
        """All proxies that run; what is left of others goes."""
        found = []
        for listed in await self._runtime.list():
            there = await self._runtime.inspect(listed.id)
            if there is not None:
                found.append(there)
        used = await self._runtime.usage()
        rows = [Deferred.fromCoroutine(self._row(each, used.get(each.id))) for each in found]
        return list(await gatherResults(rows, consumeErrors=True))

    async def end(self, proxy_id: str) -> None:
        """End a proxy; it may be gone."""
        await self._runtime.remove(proxy_id)
        self._audit.record("stop", proxy_id, "asked", "was ended by whoever runs the cloud")

    async def drain(self, on: bool) -> None:
        """Nothing begins anyway."""

    async def _row(self, there: Instance, used: Usage | None) -> Row:
        name = "a streaming proxy"
        origin = ConnectionPool(self._connect(there), self._clock, name, ProxyUnavailable)
        health = await ask_health(origin, self._clock)
        origin.close()
        return row(there.id, "running", self._now() - there.started, health, used)
