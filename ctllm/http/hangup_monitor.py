"""Detection of peers that close a connection while it is not being read.

A connection that is read reports its end. While reading is paused, the end is hidden behind the
data that was sent before; then the system is polled, which knows it.
"""

from __future__ import annotations

import select
import socket
from typing import Any

from ctllm.reactor.interfaces import Clock, Transport, is_tls
from ctllm.reactor.timeout import Timeout

#: Seconds until the first poll of a paused connection, the growth of the interval between two
#: polls, and its maximum: thousands of connections may be paused at once.
FIRST_INTERVAL, INTERVAL_GROWTH, MAX_INTERVAL = 0.1, 1.5, 0.5

#: TCP keep-alive: seconds of silence before the first probe, seconds between two probes, and the
#: number of unanswered probes after which the connection is lost. Linux waits for two hours.
_KEEPALIVE_OPTIONS = tuple(
    (getattr(socket, name), value)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
)
#: Closed in order; a reset is always reported.
_HANGUP_EVENTS = getattr(select, "POLLRDHUP", 0)


class HangupMonitor:
    """Pauses and resumes a transport, and aborts it if its peer hangs up while it is paused."""

    def __init__(self, clock: Clock) -> None:
        self._transport: Transport | None = None  # while it is paused
        self._next_poll = Timeout(clock, self._poll)
        self._interval = FIRST_INTERVAL

    def set_reading(self, transport: Transport, reading: bool) -> None:
        """Resume or pause `transport`, if it is not already so."""
        if reading is not (self._transport is None):
            (self._resume if reading else self._pause)(transport)

    def _resume(self, transport: Transport) -> None:
        self.stop()
        transport.resumeProducing()

    def _pause(self, transport: Transport) -> None:
        self._transport = transport
        transport.pauseProducing()
        self._interval = FIRST_INTERVAL
        self._next_poll.start(FIRST_INTERVAL)

    def _poll(self) -> None:
        if self._transport is None:
            return
        if has_hung_up(self._transport):
            self._transport.abortConnection()
        else:
            self._interval = min(MAX_INTERVAL, self._interval * INTERVAL_GROWTH)
            self._next_poll.start(self._interval)

    def stop(self) -> None:
        """Stop polling: the connection is read again, or closed."""
        self._transport = None
        self._next_poll.cancel()


def enable_tcp_keepalive(transport: Any) -> None:
    """Have the system probe a silent TCP connection; do nothing for other transports.

    If a client disconnects while its data is not read, its end is never read either, and after a
    while the client's system forgets the connection without a reset.
    """
    handle = getattr(transport, "getHandle", lambda: None)()
    inet = (socket.AF_INET, socket.AF_INET6)
    if not isinstance(handle, socket.socket) or handle.family not in inet:
        return
    transport.setTcpKeepAlive(True)
    for option, value in _KEEPALIVE_OPTIONS:
        handle.setsockopt(socket.IPPROTO_TCP, option, value)


def has_hung_up(transport: object) -> bool:
    """Whether the peer has closed the connection, though data that it sent may be unread.

    False where that is unknown: on systems without poll(2), and for transports without a socket.
    """
    socket_transport = getattr(transport, "transport", None) if is_tls(transport) else transport
    handle = getattr(socket_transport, "getHandle", None)
    if handle is None or not hasattr(select, "poll"):
        return False
    poller = select.poll()
    poller.register(handle(), _HANGUP_EVENTS)
    return bool(poller.poll(0))
