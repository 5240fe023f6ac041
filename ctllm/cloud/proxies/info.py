"""What the admin API reports about one streaming proxy."""

from __future__ import annotations

import msgspec

from ctllm.cloud.proxies.health import Health
from ctllm.cloud.spawners.interfaces import ResourceUsage


class ProxyInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One proxy. `age`, `idle` and `cpu` are seconds, `memory` bytes; None is unknown."""

    id: str
    state: str
    age: float
    idle: float | None = None
    exchanges: int | None = None
    desktops: int | None = None
    memory: int | None = None
    cpu: float | None = None


def proxy_info(
    id: str, state: str, age: float, health: Health | None, used: ResourceUsage | None
) -> ProxyInfo:
    """A row of what a proxy says of itself, and what the system says of it."""
    return ProxyInfo(
        id=id,
        state=state,
        age=max(0.0, age),
        idle=None if health is None else health.idle_seconds,
        exchanges=None if health is None else health.requests,
        desktops=None if health is None else health.desktops,
        memory=None if used is None else used.memory_bytes,
        cpu=None if used is None else used.cpu_seconds,
    )
