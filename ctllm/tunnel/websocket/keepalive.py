"""Whether the other side of a connection still lives: TCP may not say so for many minutes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ctllm.fastpath.websocket_internals import drop
from ctllm.reactor.interfaces import Clock
from ctllm.reactor.timeout import Timeout

#: Seconds beyond the longest silence within which a whole frame must have come. A slow network
#: takes its time over one; a length that was garbled on the way is waited for in vain.
INCOMPLETE_FRAME_TIMEOUT = 60.0
#: Seconds between being suspected and being dropped.
CONFIRMATION_DELAY = 0.1


class Keepalive:
    """Calls `ping` again and again, and `dead` once the other side is.

    Both sides ping, whatever else goes on, so no living side is ever silent for long, and any
    bytes are a sign of life: an answer to a ping may wait behind megabytes on a slow network.
    """

    def __init__(
        self, clock: Clock, send_ping: Callable[[], None], on_dead: Callable[[], None]
    ) -> None:
        self._clock = clock
        self._interval = self._max_silence = 0.0
        self._send_ping = send_ping
        self._on_dead = on_dead
        self._last_data = self._last_frame = 0.0
        self._suspected = False
        self._check_due = 0.0
        self._next_ping = Timeout(clock, self._ping)
        self._next_check = Timeout(clock, self._check)

    def start(self, ping_interval: float, ping_timeout: float) -> None:
        """The connection is open: ping every `interval` seconds.

        Dead is who was not heard for `interval` and `deadline` seconds together, or has said
        nothing whole for a minute more than that.
        """
        self._interval, self._max_silence = ping_interval, ping_interval + ping_timeout
        self.frame_received()
        self._next_ping.start(self._interval)
        self._check_in(self._max_silence)

    def data_received(self) -> None:
        """Bytes came."""
        self._last_data = self._clock.seconds()

    def frame_received(self) -> None:
        """A whole frame of any kind came."""
        self._last_data = self._last_frame = self._clock.seconds()

    def stop(self) -> None:
        """Nobody asks any more."""
        self._next_ping.cancel()
        self._next_check.cancel()

    def _ping(self) -> None:
        self._next_ping.start(self._interval)
        self._send_ping()

    def _check(self) -> None:
        until = min(
            self._last_data + self._max_silence,
            self._last_frame + self._max_silence + INCOMPLETE_FRAME_TIMEOUT,
        )
        left = until - self._clock.seconds()
        if left > 0:
            self._suspected = False
            self._check_in(left)
        elif not self._suspected:
            # It may be we who slept, or who are slow: what was said has yet to be read.
            self._suspected = True
            late = self._clock.seconds() - self._check_due
            self._check_in(CONFIRMATION_DELAY + min(late, self._max_silence))
        else:
            self.stop()
            self._on_dead()

    def _check_in(self, seconds: float) -> None:
        self._check_due = self._clock.seconds() + seconds
        self._next_check.start(seconds)


class KeepaliveMixin:
    """Mixed into autobahn's protocols, whose own pings may stay off: they judge by pongs alone."""

    factory: Any
    sendPing: Callable[[], None]

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.keepalive = Keepalive(clock, self.sendPing, self._peer_is_dead)

    def onPing(self, payload: bytes) -> None:
        """The other side wants to hear us; that it can say so is a sign of life too."""
        self.keepalive.frame_received()
        super().onPing(payload)  # type: ignore[misc]

    def onPong(self, payload: bytes) -> None:
        """The other side heard us."""
        self.keepalive.frame_received()

    def _peer_is_dead(self) -> None:
        drop(self, "the peer was silent for too long")
