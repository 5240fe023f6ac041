"""The state of a server's connection at work: its transitions, its one timeout, how it closes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ctllm.http.hangup_monitor import HangupMonitor
from ctllm.http.server.connection_state import OPEN_STATES, TABLE, Event, State
from ctllm.http.timeouts import MAX_LINGER_EXTENSIONS, MIN_LINGER_BYTES, ServerTimeouts
from ctllm.reactor.interfaces import Clock, Transport, is_tls
from ctllm.reactor.timeout import Timeout


class ServerTransport(Transport, Protocol):
    """The transport of a server's connection."""

    def loseWriteConnection(self) -> None:
        """Close for writing, once everything is sent."""


class ConnectionLifecycle:
    """Follows the table of `connection_state` for one connection.

    A state has one timeout at most, which starts when the connection enters it. `head_timed_out` is
    called when the timeout of READING_HEAD passes. `is_write_buffer_full` is set by the connection.
    """

    __slots__ = (
        "_discarded_bytes",
        "_head_timed_out",
        "_linger_extensions",
        "_monitor",
        "_timeout",
        "_timeouts",
        "_transport",
        "closes_by_reset",
        "is_open",
        "is_write_buffer_full",
        "state",
    )

    def __init__(
        self,
        clock: Clock,
        timeouts: ServerTimeouts,
        head_timed_out: Callable[[], None],
    ) -> None:
        self.state = State.ACCEPTED
        self.is_open = True
        self.is_write_buffer_full = False
        #: Whether a plain close would end the response as if it were complete (HTTP/1.0).
        self.closes_by_reset = False
        self._timeouts = timeouts
        self._head_timed_out = head_timed_out
        self._timeout = Timeout(clock, self._timed_out)
        self._monitor = HangupMonitor(clock)
        self._transport: ServerTransport
        self._discarded_bytes = 0  # received while lingering, since the timeout was set
        self._linger_extensions = 0

    def connected(self, transport: ServerTransport) -> None:
        """Begin, with the connection's `transport`."""
        self._transport = transport
        self._timeout.start(self._timeouts.head)

    def set_reading(self, is_reading: bool) -> None:
        """Read from the transport, or watch for a hang-up while it is not read."""
        self._monitor.set_reading(self._transport, is_reading)

    def apply_event(self, event: Event) -> None:
        """Enter the state that `event` leads to; nothing happens where it leads to none."""
        state = TABLE[self.state].get(event)
        if state is None:
            return
        self.state = state
        self.is_open = state in OPEN_STATES
        _ENTER[state](self)
        if event is Event.ABORT:
            self._transport.abortConnection()

    def close_broken_response(self) -> None:
        """Close a connection whose response broke off, so that it does not look complete."""
        self.apply_event(Event.ABORT if self.closes_by_reset else Event.CLOSE)

    def discarded(self, count: int) -> None:
        """Count bytes that were received and are not wanted."""
        self._discarded_bytes += count

    # -- entering a state

    def _cancel_timeout(self) -> None:
        self._timeout.cancel()

    def _enter_idle(self) -> None:
        self._timeout.start(self._timeouts.keep_alive)

    def _enter_reading_head(self) -> None:
        self._timeout.start(self._timeouts.head)

    def _enter_stalled(self) -> None:
        self._timeout.start(self._timeouts.flush)

    def _enter_breaking_off(self) -> None:
        self._timeout.start(self._timeouts.error_flush)

    def _enter_lingering(self) -> None:
        """Let the client read the response: closing while it sends would reset the connection."""
        self._discarded_bytes = 0
        self._linger_extensions = 0
        self._timeout.start(self._timeouts.linger)
        self._transport.unregisterProducer()
        self.set_reading(True)
        if not is_tls(self._transport):
            self._transport.loseWriteConnection()  # under TLS it would cut off the response's end

    def _enter_closing(self) -> None:
        timeouts = self._timeouts
        self._timeout.start(timeouts.flush if self.is_write_buffer_full else timeouts.linger)
        self._transport.unregisterProducer()
        self._transport.loseConnection()

    def _enter_upgraded(self) -> None:
        self._timeout.cancel()
        self._transport.unregisterProducer()
        self.set_reading(True)

    def _enter_closed(self) -> None:
        self._timeout.cancel()
        self._monitor.stop()

    # -- the timeout

    def _timed_out(self) -> None:
        state = self.state
        if state is State.LINGERING and self._extend_linger():
            return
        if state is State.BREAKING_OFF:
            self.close_broken_response()
        elif not self.is_open or state is State.STALLED:
            self.apply_event(Event.ABORT)
        elif self.is_write_buffer_full:
            self.apply_event(Event.WRITE_STALLED)
        elif state is State.READING_HEAD:
            self._head_timed_out()
        else:
            self.apply_event(Event.CLOSE)

    def _extend_linger(self) -> bool:
        """Wait once more for a client that still sends, so that a slow one gets its response."""
        if (
            self._discarded_bytes < MIN_LINGER_BYTES
            or self._linger_extensions == MAX_LINGER_EXTENSIONS
        ):
            return False
        self._discarded_bytes = 0
        self._linger_extensions += 1
        self._timeout.start(self._timeouts.linger)
        return True


_ENTER: dict[State, Callable[[ConnectionLifecycle], None]] = {
    State.IDLE: ConnectionLifecycle._enter_idle,
    State.READING_HEAD: ConnectionLifecycle._enter_reading_head,
    State.STALLED: ConnectionLifecycle._enter_stalled,
    State.QUEUED: ConnectionLifecycle._cancel_timeout,
    State.RESPONDING: ConnectionLifecycle._cancel_timeout,
    State.LINGERING: ConnectionLifecycle._enter_lingering,
    State.BREAKING_OFF: ConnectionLifecycle._enter_breaking_off,
    State.CLOSING: ConnectionLifecycle._enter_closing,
    State.UPGRADED: ConnectionLifecycle._enter_upgraded,
    State.CLOSED: ConnectionLifecycle._enter_closed,
}
