"""A limit of the connections that a listening port accepts in one turn of the reactor.

`twisted.internet.tcp.Port` accepts as many as its undocumented attribute `numberAccepts` says, and
adapts that number upwards under load. Ports without that attribute accept as Twisted decides.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any


def limit_accepts(port: Any, limit: int) -> None:
    """Have `port` (an IListeningPort) accept at most `limit` connections each time it is read."""
    if hasattr(port, "numberAccepts") and hasattr(port, "doRead"):
        port.doRead = partial(_accept_limited, port, port.doRead, limit)


def _accept_limited(port: Any, accept: Callable[[], None], limit: int) -> None:
    port.numberAccepts = min(port.numberAccepts, limit)
    accept()
