"""What happens to the machine: it slept, its clock was set, its network is another one.

Of the network only the own address is looked at that would be used towards the cloud: the system
says which one without a packet being sent. A sleep shows as a jump of the wall clock.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

from ctllm.reactor.periodic import PeriodicCall
from ctllm.reactor.services import Service

#: Seconds between two looks.
POLL_INTERVAL = 1.0
#: Seconds by which wall clock and steady clock may come apart before it is a jump.
CLOCK_JUMP = 5.0
#: Addresses for documentation, which are nobody's (RFC 5737, RFC 3849): the default routes.
_DOCUMENTATION_ADDRESSES = ("192.0.2.1", "2001:db8::1")


def local_address_towards(peer: str) -> str:
    """The address of this machine that packets to `peer` (an IP address) would have, or nothing."""
    family = socket.AF_INET6 if ":" in peer else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as trial:
            trial.connect((peer, 9))
            return str(trial.getsockname()[0])
    except OSError:
        return ""


class HostMonitor(Service):
    """Calls `on_change` with what happened. `peer` gives the cloud's IP address, if one is known.

    `wall` is the time of day, which jumps; `steady` stands still while the machine sleeps.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        wall: Callable[[], float],
        steady: Callable[[], float],
        address: Callable[[str], str] = local_address_towards,
    ) -> None:
        self.on_change: Callable[[str], None] = lambda why: None
        self.peer: Callable[[], str] = lambda: ""
        self._wall, self._steady, self._address = wall, steady, address
        self._loop = PeriodicCall(self._look, reactor, "watching for sleep and another network")
        self._apart = 0.0
        self._addresses: dict[str, str] = {}

    def startService(self) -> None:
        """Look now and then."""
        super().startService()
        self._apart = self._wall() - self._steady()
        self._addresses = self._seen()
        self._loop.start(POLL_INTERVAL, now=False)

    def stopService(self) -> None:
        """Look no more."""
        super().stopService()
        self._loop.stop()

    def update_address(self) -> None:
        """There is a connection to the cloud: what is the own address towards it?"""
        peer = self.peer()
        self._addresses[peer] = self._address(peer)

    def _seen(self) -> dict[str, str]:
        peers = (
            (*_DOCUMENTATION_ADDRESSES, peer) if (peer := self.peer()) else _DOCUMENTATION_ADDRESSES
        )
        return {each: self._address(each) for each in peers}

    def _look(self) -> None:
        apart = self._wall() - self._steady()
        jumped, self._apart = abs(apart - self._apart) > CLOCK_JUMP, apart
        before, self._addresses = self._addresses, self._seen()
        moved = any(before.get(peer, own) != own for peer, own in self._addresses.items())
        if jumped:
            self.on_change("the clock jumped, as after a sleep")
        elif moved:
            self.on_change("the network changed")
