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
#: Seconds between two checks of a proxy that is starting, at least and at most; and which part of
#: the time that it has taken already. A check costs 0.3 ms, and many proxies may be starting on a
#: machine that has no time to spare.
MIN_POLL_DELAY, MAX_POLL_DELAY, POLL_DELAY_RATIO = 0.02, 0.25, 0.1


Count = Annotated[int, Meta(ge=0, le=2**53)]


class DirectCounts(msgspec.Struct, frozen=True, kw_only=True):
    """The requests that a reverse proxy has sent to a proxy: in progress, and ended by outcome."""

    in_progress: Count = 0
    outcomes: dict[str, Count] = {}


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The response of a proxy to `GET /health`.

    `requests` are those at a desktop, also if their client is gone and may resume them.
    `open_requests` are those of clients, also if they have no desktop yet. `idle_seconds` is 0
    while the proxy has a request or a tunnel. `response_bytes` and `response_chunks` count since
    the proxy started. An older proxy reports neither them nor open requests. `direct` is None for
    one that accepts no requests of a reverse proxy.
    """

    requests: Annotated[int, Meta(ge=0)] = msgspec.field(name="exchanges")
    desktops: Annotated[int, Meta(ge=0)]
    idle_seconds: Annotated[float, Meta(ge=0)]
    response_bytes: Annotated[int, Meta(ge=0)] | None = None
    response_chunks: Annotated[int, Meta(ge=0)] | None = None
    open_requests: Annotated[int, Meta(ge=0)] = 0
    direct: DirectCounts | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a request is in progress."""
        return bool(self.requests or self.open_requests)


async def fetch_health(
    upstream: Upstream, clock: Clock, timeout: float = HEALTH_TIMEOUT
) -> Health | None:
    """Return the health of the proxy at `upstream`, or None if it is not healthy in time."""
    try:
        status, body = await get(upstream, b"/health", clock, timeout)
        return decode_json(body, Health) if status == 200 else None
    except (CtllmError, ValueError):
        return None


async def wait_until_healthy(upstream: Upstream, clock: Clock) -> Health:
    """Poll the proxy at `upstream` until it is healthy. Never times out; cancel it instead."""
    began = clock.seconds()
    while (health := await fetch_health(upstream, clock)) is None:
        delay = POLL_DELAY_RATIO * (clock.seconds() - began)
        await sleep(clock, min(MAX_POLL_DELAY, max(MIN_POLL_DELAY, delay)))
    return health
