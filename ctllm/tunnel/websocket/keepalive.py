"""Detection of dead peers, which TCP may not report for many minutes."""

from __future__ import annotations

from collections.abc import Callable
from secrets import token_bytes
from typing import Any

from ctllm.fastpath.websocket_internals import drop
from ctllm.reactor.interfaces import Clock
from ctllm.reactor.timeout import Timeout

#: Seconds beyond the longest silence within which a complete frame must arrive. On a slow network
#: a frame takes long; a frame whose length was corrupted never ends.
INCOMPLETE_FRAME_TIMEOUT = 60.0
#: Seconds between the check that finds a peer dead and the one that confirms it.
CONFIRMATION_DELAY = 0.1


class Keepalive:
    """Calls `send_ping` periodically, and `on_dead` once when the peer is dead.

    Both ends send pings all the time, so no living peer is silent for long. Any data counts as a
    sign of life, not only a pong, which may queue behind megabytes on a slow network.
    `latency` is the time from the last ping to its pong, in seconds, or None before the first.
    """

    def __init__(
        self, clock: Clock, send_ping: Callable[[bytes], None], on_dead: Callable[[], None]
    ) -> None:
        self.latency: float | None = None
        self._ping_payload = b""
        self._pinged_at = 0.0
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
        """Start: ping every `ping_interval` seconds.

        The peer is dead after `ping_interval` + `ping_timeout` seconds without data, or
        INCOMPLETE_FRAME_TIMEOUT more without a complete frame.
        """
        self._interval, self._max_silence = ping_interval, ping_interval + ping_timeout
        self.frame_received()
        self._next_ping.start(self._interval)
        self._check_in(self._max_silence)

    def data_received(self) -> None:
        """Record that data arrived."""
        self._last_data = self._clock.seconds()

    def frame_received(self) -> None:
        """Record that a complete frame of any kind arrived."""
        self._last_data = self._last_frame = self._clock.seconds()

    def pong_received(self, payload: bytes) -> None:
        """Record a pong, whose payload says which ping it answers."""
        self.frame_received()
        if self._ping_payload and payload == self._ping_payload:
            self._ping_payload = b""
            self.latency = self._clock.seconds() - self._pinged_at

    def stop(self) -> None:
        """Stop the pings and checks."""
        self._next_ping.cancel()
        self._next_check.cancel()

    def _ping(self) -> None:
        self._next_ping.start(self._interval)
        self._ping_payload, self._pinged_at = token_bytes(8), self._clock.seconds()
        self._send_ping(self._ping_payload)

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
            # This process may have been suspended or slow: unread data may be waiting.
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
    """A mixin for autobahn's protocols, in place of its own pings, which count pongs alone."""

    factory: Any
    sendPing: Callable[[bytes], None]

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.keepalive = Keepalive(clock, self.sendPing, self._peer_is_dead)

    def onPing(self, payload: bytes) -> None:
        """Record the frame, and answer it."""
        self.keepalive.frame_received()
        super().onPing(payload)  # type: ignore[misc]

    def onPong(self, payload: bytes) -> None:
        """Record the frame, and how long it took."""
        self.keepalive.pong_received(payload)

    def _peer_is_dead(self) -> None:
        drop(self, "the peer was silent for too long")
