"""What the host has routes to: subnets that a proxy's network must not take."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from ipaddress import IPv4Network
from pathlib import Path

#: Linux's table of IPv4 routes; numbers in it are in the host's byte order (proc(5)).
ROUTE_TABLE = Path("/proc/net/route")
#: The interface of routes that lead nowhere: blackholes and their like.
_NO_INTERFACE = "*"


def list_routes(table: Path) -> Sequence[str]:
    """The networks that this host has routes to, but for the default.

    Those of bridges that an engine which died has left are among them: Docker knows nothing of
    those, and would give their addresses again.
    """
    return [
        str(network)
        for network, interface in _read_table(table)
        if network.prefixlen and interface != _NO_INTERFACE
    ]


def is_blackholed(network: IPv4Network, table: Path) -> bool:
    """Whether this host drops what goes to `network` and to none of the networks within it."""
    return (network, _NO_INTERFACE) in _read_table(table)


def _read_table(table: Path) -> list[tuple[IPv4Network, str]]:
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:
        return []  # no Linux: Docker's engine is in a machine of its own, with routes of its own
    found = []
    for line in lines:
        interface, to, _, _, _, _, _, mask, *_ = line.split()
        found.append((IPv4Network((_address(to), _address(mask))), interface))
    return found


def _address(number: str) -> str:
    return socket.inet_ntoa(struct.pack("=L", int(number, 16)))
