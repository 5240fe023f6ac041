"""Ports for servers that tests and benchmarks start."""

from __future__ import annotations

import itertools
import os
import socket
from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IListeningPort

# Below the ports that systems give to outgoing connections (from 32768 on Linux, from 49152 on
# others): such a one may be taken between its choice and its use. Processes that run beside each
# other begin at different places, and nobody gets the same port twice.
LOWEST, COUNT = 20_000, 12_000
_turns = itertools.count(os.getpid() * 97)


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on now and that was not given before.

    Raises OSError when all are taken.
    """
    for turn in itertools.islice(_turns, COUNT):
        port = LOWEST + turn % COUNT
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no port from {LOWEST} to {LOWEST + COUNT - 1} is free")


def listen(reactor: Any, factory: Any, *, port: int = 0, backlog: int = 50) -> IListeningPort:
    """Listen on a port of 127.0.0.1; 0 takes any that is free."""
    listening = reactor.listenTCP(port, factory, backlog=backlog, interface="127.0.0.1")
    return cast(IListeningPort, listening)


def port_of(listening: IListeningPort) -> int:
    """Return the number of a listening TCP port."""
    return cast(IPv4Address, listening.getHost()).port
