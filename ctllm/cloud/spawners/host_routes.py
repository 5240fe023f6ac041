"""The routes of the host, whose subnets no proxy's network may use."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from ipaddress import IPv4Network
from pathlib import Path

#: Linux's table of IPv4 routes, with numbers in the host's byte order (proc(5)).
ROUTE_TABLE = Path("/proc/net/route")
#: The interface of blackhole routes and the like.
_NO_INTERFACE = "*"


def list_routes(table: Path) -> Sequence[str]:
    """Return the networks to which this host has routes, except the default route.

    They include bridges that were left when Docker was killed, which Docker no longer lists.
    """
    return [
        str(network)
        for network, interface in _read_table(table)
        if network.prefixlen and interface != _NO_INTERFACE
    ]


def is_blackholed(network: IPv4Network, table: Path) -> bool:
    """Return whether this host has a blackhole route for exactly `network`."""
    return (network, _NO_INTERFACE) in _read_table(table)


def _read_table(table: Path) -> list[tuple[IPv4Network, str]]:
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:
        return []  # not Linux: Docker runs in a virtual machine with routes of its own
    found = []
    for line in lines:
        interface, to, _, _, _, _, _, mask, *_ = line.split()
        found.append((IPv4Network((_address(to), _address(mask))), interface))
    return found


def _address(number: str) -> str:
    return socket.inet_ntoa(struct.pack("=L", int(number, 16)))
