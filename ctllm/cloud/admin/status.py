"""What the admin API reports about a cloud and all its streaming proxies at one time."""

from __future__ import annotations

import msgspec

from ctllm.cloud.proxies.info import ProxyInfo


class CloudStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a cloud.

    `time` is in seconds of the machine's monotonic clock, `uptime` in seconds. `starts` and
    `failed_starts` count since the cloud started. `problem` is a sentence about what keeps proxies
    from starting, or empty.
    """

    version: str
    time: float
    uptime: float
    is_draining: bool
    problem: str
    max_proxies: int
    starts: int
    failed_starts: int
    proxies: tuple[ProxyInfo, ...] = ()
