"""A client of a streaming proxy's health check."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from ctllm.common.json_decoder import decode_json
from ctllm.errors import CtllmError
from ctllm.http.client.fetch import get
from ctllm.http.interfaces import Upstream
from ctllm.reactor.deferred_tools import sleep
from ctllm.reactor.interfaces import Clock

#: Seconds within which a proxy must respond.
HEALTH_TIMEOUT = 10.0
#: Seconds between two checks of a proxy that is starting: the first delay, its growth, its maximum.
FIRST_POLL_DELAY, POLL_BACKOFF_FACTOR, MAX_POLL_DELAY = 0.02, 1.5, 0.25


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The response of a proxy to `GET /health`.

    `idle_seconds` is 0 while the proxy has a request or a tunnel.
    """

    requests: Annotated[int, Meta(ge=0)] = msgspec.field(name="exchanges")
    desktops: Annotated[int, Meta(ge=0)]
    idle_seconds: Annotated[float, Meta(ge=0)]


async def fetch_health(
    upstream: Upstream, clock: Clock, timeout: float = HEALTH_TIMEOUT
) -> Health | None:
    """Return the health of the proxy at `upstream`, or None if it is not healthy in time."""
    try:
        status, body = await get(upstream, b"/health", clock, timeout)
        return decode_json(body, Health) if status == 200 else None
    except (CtllmError, ValueError):
        return None


async def wait_until_healthy(upstream: Upstream, clock: Clock) -> None:
    """Poll the proxy at `upstream` until it is healthy. Never times out; cancel it instead."""
    delay = FIRST_POLL_DELAY
    while await fetch_health(upstream, clock) is None:
        await sleep(clock, delay)
        delay = min(delay * POLL_BACKOFF_FACTOR, MAX_POLL_DELAY)
