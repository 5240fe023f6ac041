"""Whether a connection is read and, while it is not, whether its other side has hung up.

A connection that is read tells of its end. One that is not, because what it sent is wanted later,
hides its end behind those bytes: then the system is asked, which knows.
"""

from __future__ import annotations

import select
import socket
from typing import Any

from ctllm.reactor.interfaces import Clock, is_tls
from ctllm.reactor.timeout import Timeout

#: Seconds until the first look at a connection that is not read, the growth of the time between
#: two, and the most of it: thousands may be unread at once.
LOOK, GROWTH, LONGEST = 0.1, 1.5, 0.5

#: When a silent connection is asked, how often, and how many times in vain; by itself the system
#: waits for two hours.
_PROBES = tuple(
    (getattr(socket, name), value)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
)
_ENDS = getattr(select, "POLLRDHUP", 0)  # closed in order; resets are always reported


class Attention:
    """Reads a transport or not, and aborts one that hung up unread."""

    def __init__(self, clock: Clock) -> None:
        self._transport: Any = None
        self._next = Timeout(clock, self._look)
        self._pause = LOOK

    def turn(self, transport: Any, reading: bool) -> None:
        """Read it from now on, or do not."""
        if reading is not (self._transport is None):
            (self._heed if reading else self._ignore)(transport)

    def _heed(self, transport: Any) -> None:
        self.lift()
        transport.resumeProducing()

    def _ignore(self, transport: Any) -> None:
        self._transport = transport
        transport.pauseProducing()
        self._pause = LOOK
        self._next.set(LOOK)

    def _look(self) -> None:
        if hung_up(self._transport):
            self._transport.abortConnection()
        else:
            self._pause = min(LONGEST, self._pause * GROWTH)
            self._next.set(self._pause)

    def lift(self) -> None:
        """The connection is read, or over: it tells by itself."""
        self._transport = None
        self._next.cancel()


def keep_alive(transport: Any) -> None:
    """Have the system ask a silent TCP connection whether its other side is still there.

    What a client that left had still to send waits before its end. Where that is not read, the end
    never comes, and at last the client's system forgets the connection without a word. UNIX sockets
    need no asking.
    """
    handle = getattr(transport, "getHandle", lambda: None)()
    inet = (socket.AF_INET, socket.AF_INET6)
    if not isinstance(handle, socket.socket) or handle.family not in inet:
        return
    transport.setTcpKeepAlive(True)
    for option, seconds in _PROBES:
        handle.setsockopt(socket.IPPROTO_TCP, option, seconds)


def hung_up(transport: Any) -> bool:
    """Whether the other side closed, though what it sent before is still to be read.

    False where that cannot be known: not on every system, not without a socket.
    """
    plain = transport.transport if is_tls(transport) else transport
    handle = getattr(plain, "getHandle", None)
    if handle is None or not hasattr(select, "poll"):
        return False
    asked = select.poll()
    asked.register(handle(), _ENDS)
    return bool(asked.poll(0))
