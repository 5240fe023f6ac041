"""Ports for servers that tests and benchmarks start."""

from __future__ import annotations

import itertools
import os
import socket

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
