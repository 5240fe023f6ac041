"""How a streaming proxy is: what it answers at /health."""

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

#: Seconds in which a proxy must have answered.
HEALTH_TIMEOUT = 10.0
#: Seconds between two looks at a proxy that starts: the first, the growth, the longest.
FIRST_POLL_DELAY, POLL_BACKOFF_FACTOR, MAX_POLL_DELAY = 0.02, 1.5, 0.25


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """A proxy's own words: `idle_seconds` is 0 while there is any exchange or tunnel."""

    requests: Annotated[int, Meta(ge=0)] = msgspec.field(name="exchanges")
    desktops: Annotated[int, Meta(ge=0)]
    idle_seconds: Annotated[float, Meta(ge=0)]


async def fetch_health(upstream: Upstream, clock: Clock) -> Health | None:
    """Give the health of the proxy behind `origin`, or None if it is not well within 10 s."""
    try:
        status, body = await get(upstream, b"/health", clock, HEALTH_TIMEOUT)
        return decode_json(body, Health) if status == 200 else None
    except (CtllmError, ValueError):
        return None


async def wait_until_healthy(upstream: Upstream, clock: Clock) -> None:
    """Wait until the proxy behind `origin` answers; cancel to give up."""
    delay = FIRST_POLL_DELAY
    while await fetch_health(upstream, clock) is None:
        await sleep(clock, delay)
        delay = min(delay * POLL_BACKOFF_FACTOR, MAX_POLL_DELAY)
