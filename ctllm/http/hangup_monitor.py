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
FIRST_INTERVAL, INTERVAL_GROWTH, MAX_INTERVAL = 0.1, 1.5, 0.5

#: When a silent connection is asked, how often, and how many times in vain; by itself the system
#: waits for two hours.
_KEEPALIVE_OPTIONS = tuple(
    (getattr(socket, name), value)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
)
_HANGUP_EVENTS = getattr(select, "POLLRDHUP", 0)  # closed in order; resets are always reported


class HangupMonitor:
    """Reads a transport or not, and aborts one that hung up unread."""

    def __init__(self, clock: Clock) -> None:
        self._transport: Any = None
        self._next_poll = Timeout(clock, self._poll)
        self._interval = FIRST_INTERVAL

    def set_reading(self, transport: Any, reading: bool) -> None:
        """Read it from now on, or do not."""
        if reading is not (self._transport is None):
            (self._resume if reading else self._pause)(transport)

    def _resume(self, transport: Any) -> None:
        self.stop()
        transport.resumeProducing()

    def _pause(self, transport: Any) -> None:
        self._transport = transport
        transport.pauseProducing()
        self._interval = FIRST_INTERVAL
        self._next_poll.start(FIRST_INTERVAL)

    def _poll(self) -> None:
        if has_hung_up(self._transport):
            self._transport.abortConnection()
        else:
            self._interval = min(MAX_INTERVAL, self._interval * INTERVAL_GROWTH)
            self._next_poll.start(self._interval)

    def stop(self) -> None:
        """The connection is read, or over: it tells by itself."""
        self._transport = None
        self._next_poll.cancel()


def enable_tcp_keepalive(transport: Any) -> None:
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
    for option, seconds in _KEEPALIVE_OPTIONS:
        handle.setsockopt(socket.IPPROTO_TCP, option, seconds)


def has_hung_up(transport: Any) -> bool:
    """Whether the other side closed, though what it sent before is still to be read.

    False where that cannot be known: not on every system, not without a socket.
    """
    socket_transport = transport.transport if is_tls(transport) else transport
    handle = getattr(socket_transport, "getHandle", None)
    if handle is None or not hasattr(select, "poll"):
        return False
    poller = select.poll()
    poller.register(handle(), _HANGUP_EVENTS)
    return bool(poller.poll(0))
