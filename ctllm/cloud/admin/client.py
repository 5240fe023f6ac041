"""The streaming proxies of a cloud as whoever runs it sees them, whether the cloud runs or not."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import quote

from twisted.internet.defer import Deferred, gatherResults

from ctllm.cloud.audit import AuditLog
from ctllm.cloud.proxies.health import fetch_health
from ctllm.cloud.proxies.info import ProxyInfo, proxy_info
from ctllm.cloud.spawners.interfaces import ProxyInstance, ResourceUsage, Spawner
from ctllm.common.json_decoder import decode_json
from ctllm.errors import BadGateway, ProxyUnavailable
from ctllm.http.client.connection_pool import ConnectionPool
from ctllm.http.client.fetch import fetch
from ctllm.http.client.unix_endpoint import VerifiedUNIXEndpoint
from ctllm.http.message.head import RequestHead
from ctllm.reactor.interfaces import Clock, Endpoint

#: Seconds for one answer of the cloud: it asks every proxy, of which some may hang.
TIMEOUT = 30.0
_MAX_RESPONSE = 16 << 20


class ProxyAdmin(Protocol):
    """What can be asked, and done."""

    async def list_proxies(self) -> list[ProxyInfo]:
        """All proxies there are."""

    async def remove_proxy(self, proxy_id: str) -> None:
        """End a proxy; it may be gone."""

    async def set_draining(self, on: bool) -> None:
        """Begin nothing new any more, or again."""


class AdminClient:
    """The `Roster` of a cloud that runs, by its operator's socket at `path`."""

    def __init__(self, reactor: Any, path: str) -> None:
        # We may be root, and the folder another user's, who must not choose what we connect to.
        cloud = (os.stat(os.path.dirname(path)).st_uid, 0)
        endpoint = VerifiedUNIXEndpoint(reactor, path, lambda peer: peer.uid in cloud)
        self._clock = reactor
        self._connections = ConnectionPool(endpoint, reactor, "the cloud", ProxyUnavailable)

    async def list_proxies(self) -> list[ProxyInfo]:
        """All proxies there are."""
        return decode_json(await self._request(b"GET", "/proxies"), list[ProxyInfo])

    async def remove_proxy(self, proxy_id: str) -> None:
        """End a proxy; it may be gone."""
        await self._request(b"DELETE", f"/proxies/{quote(proxy_id, safe='')}")

    async def set_draining(self, on: bool) -> None:
        """Begin nothing new any more, or again."""
        await self._request(b"PUT" if on else b"DELETE", "/draining")

    def close(self) -> None:
        """Leave no connection."""
        self._connections.close()

    async def _request(self, method: bytes, path: str) -> bytes:
        head = RequestHead(method, path.encode())
        status, body = await fetch(self._connections, head, self._clock, TIMEOUT, _MAX_RESPONSE)
        if status >= 300:
            raise BadGateway(f"the cloud answers {path} with status {status}: {body[:500]!r}")
        return body


class OfflineAdmin:
    """The `Roster` of what a cloud that does not run has left."""

    def __init__(
        self,
        spawner: Spawner,
        clock: Clock,
        connect: Callable[[ProxyInstance], Endpoint],
        audit: AuditLog,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._spawner, self._clock, self._connect = spawner, clock, connect
        self._audit, self._now = audit, now

    async def list_proxies(self) -> list[ProxyInfo]:
        """All proxies that run; what is left of others goes."""
        found = []
        for listed in await self._spawner.list():
            there = await self._spawner.inspect(listed.id)
            if there is not None:
                found.append(there)
        used = await self._spawner.resource_usage()
        rows = [Deferred.fromCoroutine(self._inspect(each, used.get(each.id))) for each in found]
        return list(await gatherResults(rows, consumeErrors=True))

    async def remove_proxy(self, proxy_id: str) -> None:
        """End a proxy; it may be gone."""
        await self._spawner.remove(proxy_id)
        self._audit.record(
            "proxy.stopped", proxy_id, "requested", "was ended by whoever runs the cloud"
        )

    async def set_draining(self, on: bool) -> None:
        """Nothing begins anyway."""

    async def _inspect(self, there: ProxyInstance, used: ResourceUsage | None) -> ProxyInfo:
        name = "a streaming proxy"
        origin = ConnectionPool(self._connect(there), self._clock, name, ProxyUnavailable)
        health = await fetch_health(origin, self._clock)
        origin.close()
        return proxy_info(there.id, "running", self._now() - there.started_at, health, used)
