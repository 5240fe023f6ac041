"""Detects that the machine slept, that its clock was set, or that its network changed.

A sleep shows as a jump of the wall clock against the monotonic clock. A change of network shows as
another local address towards the cloud, which the system tells without sending a packet.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from ctllm.reactor.interfaces import Clock
from ctllm.reactor.periodic import PeriodicCall
from ctllm.reactor.services import Service

#: Seconds between two polls.
POLL_INTERVAL = 1.0
#: Seconds by which the wall clock may drift from the monotonic clock between two polls.
MAX_CLOCK_DRIFT = 5.0
#: Addresses that no host has (RFC 5737, RFC 3849): packets to them take the default route.
_DOCUMENTATION_ADDRESSES = ("192.0.2.1", "2001:db8::1")


def local_address_towards(peer: str) -> str:
    """Return the local address of packets to `peer`, an IP address, or an empty string."""
    family = socket.AF_INET6 if ":" in peer else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((peer, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return ""


class HostMonitor(Service):
    """Polls clocks and addresses, and calls `on_change` with a description of the change.

    `cloud_address` returns the cloud's IP address, or an empty string while it is not known.
    """

    def __init__(
        self,
        clock: Clock,
        on_change: Callable[[str], None],
        cloud_address: Callable[[], str],
        *,
        wall_time: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        local_address: Callable[[str], str] = local_address_towards,
        poll_interval: float = POLL_INTERVAL,
    ) -> None:
        self._on_change = on_change
        self._cloud_address = cloud_address
        self._wall_time, self._monotonic = wall_time, monotonic
        self._local_address = local_address
        self._poll_interval = poll_interval
        self._poller = PeriodicCall(self._poll, clock, "watching the clock and the network")
        self._clock_offset = 0.0
        self._addresses: dict[str, str] = {}  # local addresses, by the peer's

    def startService(self) -> None:
        """Start to poll."""
        super().startService()
        self._clock_offset = self._wall_time() - self._monotonic()
        self._addresses = self._read_addresses()
        self._poller.start(self._poll_interval, now=False)

    def stopService(self) -> None:
        """Stop polling."""
        super().stopService()
        self._poller.stop()

    def update_address(self) -> None:
        """Read the local address towards the cloud, after a new connection to it."""
        peer = self._cloud_address()
        self._addresses[peer] = self._local_address(peer)

    def _read_addresses(self) -> dict[str, str]:
        peers = [*_DOCUMENTATION_ADDRESSES]
        if peer := self._cloud_address():
            peers.append(peer)
        return {each: self._local_address(each) for each in peers}

    def _poll(self) -> None:
        offset = self._wall_time() - self._monotonic()
        has_jumped = abs(offset - self._clock_offset) > MAX_CLOCK_DRIFT
        self._clock_offset = offset
        before, self._addresses = self._addresses, self._read_addresses()
        has_moved = any(before.get(peer, own) != own for peer, own in self._addresses.items())
        if has_jumped:
            self._on_change("the clock jumped, as after a sleep")
        elif has_moved:
            self._on_change("the network changed")
