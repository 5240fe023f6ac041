"""Whether the other side of a connection still lives: TCP may not say so for many minutes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ctllm.reactor.interfaces import Clock
from ctllm.reactor.timeout import Timeout

#: Seconds beyond the longest silence within which a whole frame must have come. A slow network
#: takes its time over one; a length that was garbled on the way is waited for in vain.
SENSE = 60.0
#: Seconds between being suspected and being dropped.
AGAIN = 0.1


class Liveness:
    """Calls `ping` again and again, and `dead` once the other side is.

    Both sides ping, whatever else goes on, so no living side is ever silent for long, and any
    bytes are a sign of life: an answer to a ping may wait behind megabytes on a slow network.
    """

    def __init__(self, clock: Clock, ping: Callable[[], None], dead: Callable[[], None]) -> None:
        self._clock = clock
        self._interval = self._silence = 0.0
        self._say_ping = ping
        self._dead = dead
        self._heard = self._understood = 0.0
        self._suspected = False
        self._due = 0.0
        self._next = Timeout(clock, self._ping)
        self._judgement = Timeout(clock, self._judge)

    def begin(self, interval: float, deadline: float) -> None:
        """The connection is open: ping every `interval` seconds.

        Dead is who was not heard for `interval` and `deadline` seconds together, or has said
        nothing whole for a minute more than that.
        """
        self._interval, self._silence = interval, interval + deadline
        self.understood()
        self._next.set(self._interval)
        self._judge_in(self._silence)

    def heard(self) -> None:
        """Bytes came."""
        self._heard = self._clock.seconds()

    def understood(self) -> None:
        """A whole frame of any kind came."""
        self._heard = self._understood = self._clock.seconds()

    def end(self) -> None:
        """Nobody asks any more."""
        self._next.cancel()
        self._judgement.cancel()

    def _ping(self) -> None:
        self._next.set(self._interval)
        self._say_ping()

    def _judge(self) -> None:
        until = min(self._heard + self._silence, self._understood + self._silence + SENSE)
        left = until - self._clock.seconds()
        if left > 0:
            self._suspected = False
            self._judge_in(left)
        elif not self._suspected:
            # It may be we who slept, or who are slow: what was said has yet to be read.
            self._suspected = True
            late = self._clock.seconds() - self._due
            self._judge_in(AGAIN + min(late, self._silence))
        else:
            self.end()
            self._dead()

    def _judge_in(self, seconds: float) -> None:
        self._due = self._clock.seconds() + seconds
        self._judgement.set(seconds)


class Pinged:
    """Mixed into autobahn's protocols, whose own pings may stay off: they judge by pongs alone."""

    factory: Any
    wasClean: bool
    wasNotCleanReason: str
    sendPing: Callable[[], None]
    dropConnection: Callable[..., None]

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.life = Liveness(clock, self.sendPing, self._silent)

    def onPing(self, payload: bytes) -> None:
        """The other side wants to hear us; that it can say so is a sign of life too."""
        self.life.understood()
        super().onPing(payload)  # type: ignore[misc]

    def onPong(self, payload: bytes) -> None:
        """The other side heard us."""
        self.life.understood()

    def _silent(self) -> None:
        self.wasClean, self.wasNotCleanReason = False, "nothing was heard any more"
        self.dropConnection(abort=True)
