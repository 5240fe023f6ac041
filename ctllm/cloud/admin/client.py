"""Clients for the proxies of a cloud: by its admin API, or without a cloud that runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import quote

from twisted.internet.defer import Deferred, gatherResults

from ctllm.cloud.admin.status import CloudStatus
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

#: Seconds for one response. The cloud asks every proxy for its health, and some may not respond.
TIMEOUT = 30.0
_MAX_RESPONSE = 16 << 20


class ProxyAdmin(Protocol):
    """Lists and stops the streaming proxies of a cloud."""

    async def list_proxies(self) -> list[ProxyInfo]:
        """Return all proxies."""

    async def remove_proxy(self, proxy_id: str) -> None:
        """Stop a proxy, if there is one with this id."""

    async def set_draining(self, draining: bool) -> None:
        """Refuse new requests, or accept them again."""


class AdminClient:
    """A client of the admin API at the UNIX socket `path`."""

    def __init__(self, reactor: Any, path: str) -> None:
        # This process may be root's. The owner of the directory must not choose who responds.
        trusted_uids = (os.stat(os.path.dirname(path)).st_uid, 0)
        endpoint = VerifiedUNIXEndpoint(reactor, path, lambda peer: peer.uid in trusted_uids)
        self._clock = reactor
        self._connections = ConnectionPool(endpoint, reactor, "the cloud", ProxyUnavailable)

    async def list_proxies(self) -> list[ProxyInfo]:
        """Return all proxies."""
        return decode_json(await self._request(b"GET", "/proxies"), list[ProxyInfo])

    async def cloud_status(self) -> CloudStatus:
        """Return the state of the cloud and of all proxies."""
        return decode_json(await self._request(b"GET", "/status"), CloudStatus)

    async def remove_proxy(self, proxy_id: str) -> None:
        """Stop a proxy, if there is one with this id."""
        await self._request(b"DELETE", f"/proxies/{quote(proxy_id, safe='')}")

    async def set_draining(self, draining: bool) -> None:
        """Refuse new requests, or accept them again."""
        await self._request(b"PUT" if draining else b"DELETE", "/draining")

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    async def _request(self, method: bytes, path: str) -> bytes:
        head = RequestHead(method, path.encode())
        status, body = await fetch(self._connections, head, self._clock, TIMEOUT, _MAX_RESPONSE)
        if status >= 300:
            raise BadGateway(f"The cloud responded to {path} with status {status}: {body[:500]!r}")
        return body


class OfflineAdmin:
    """Controls the proxies that a cloud left when it stopped, by its spawner.

    `connect` returns the endpoint of an instance; `now` returns epoch seconds.
    """

    def __init__(
        self,
        spawner: Spawner,
        clock: Clock,
        connect: Callable[[ProxyInstance], Endpoint],
        audit: AuditLog,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._spawner = spawner
        self._clock = clock
        self._connect = connect
        self._audit = audit
        self._now = now

    async def list_proxies(self) -> list[ProxyInfo]:
        """Return the proxies that run. Remove what is left of others."""
        instances = []
        for listed in await self._spawner.list():
            instance = await self._spawner.inspect(listed.id)
            if instance is not None:
                instances.append(instance)
        usage = await self._spawner.resource_usage()
        inspections = [
            Deferred.fromCoroutine(self._inspect(instance, usage.get(instance.id)))
            for instance in instances
        ]
        return list(await gatherResults(inspections, consumeErrors=True))

    async def remove_proxy(self, proxy_id: str) -> None:
        """Stop a proxy, if there is one with this id."""
        await self._spawner.remove(proxy_id)
        self._audit.record(
            "proxy.stopped", proxy_id, "requested", "was stopped by an administrator"
        )

    async def set_draining(self, draining: bool) -> None:
        """Do nothing: a cloud that does not run receives no requests."""

    async def _inspect(self, instance: ProxyInstance, usage: ResourceUsage | None) -> ProxyInfo:
        connections = ConnectionPool(
            self._connect(instance), self._clock, "a streaming proxy", ProxyUnavailable
        )
        health = await fetch_health(connections, self._clock)
        connections.close()
        return proxy_info(instance.id, "running", self._now() - instance.started_at, health, usage)
