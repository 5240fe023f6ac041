"""What the admin API reports about one streaming proxy."""

from __future__ import annotations

import msgspec

from ctllm.cloud.proxies.health import Health
from ctllm.cloud.spawners.interfaces import ResourceUsage


class ProxyInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One streaming proxy. `age`, `idle` and `cpu` are seconds, `memory` bytes.

    `response_bytes` and `response_chunks` count since the proxy started. A field is None where the
    value is not known.
    """

    id: str
    state: str
    age: float
    idle: float | None = None
    active_requests: int | None = msgspec.field(default=None, name="exchanges")
    desktops: int | None = None
    memory: int | None = None
    cpu: float | None = None
    response_bytes: int | None = None
    response_chunks: int | None = None


def proxy_info(
    id: str, state: str, age: float, health: Health | None, usage: ResourceUsage | None
) -> ProxyInfo:
    """Combine what a proxy reports about itself with its resource usage."""
    return ProxyInfo(
        id=id,
        state=state,
        age=max(0.0, age),
        idle=None if health is None else health.idle_seconds,
        active_requests=None if health is None else health.requests,
        desktops=None if health is None else health.desktops,
        memory=None if usage is None else usage.memory_bytes,
        cpu=None if usage is None else usage.cpu_seconds,
        response_bytes=None if health is None else health.response_bytes,
        response_chunks=None if health is None else health.response_chunks,
    )
