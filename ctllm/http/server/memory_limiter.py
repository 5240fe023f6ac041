"""Holds the connections of a listener to a budget of memory.

An exchange is admitted if the budget has room for it. Each connection that reads a request body
has reserved the room for its next read; those for which there is none wait unread, and the oldest
goes on first, so that what has begun is finished. An answer cannot be refused: where clients leave
so much of theirs unread that the budget is used up, the one that leaves most unread is cut off.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from typing import Protocol

from twisted.logger import Logger

from ctllm.common.memory_budget import MemoryBudget
from ctllm.reactor.interfaces import Clock, Timer

#: What an exchange takes at least: its objects here, on both connections and in the tunnel.
EXCHANGE = 24 * 1024
#: What one read of a socket may bring (Twisted's `bufferSize`), and also what a socket's write
#: buffer holds before its producer is asked to pause.
BUFFER = 64 * 1024


class Connection(Protocol):
    """What the limiter needs of a connection."""

    def pump(self) -> None:
        """Go on: there may be room now."""

    def cut_off(self) -> None:
        """Close now: the memory is needed."""


class ConnectionMemory:
    """What one connection holds; without a limiter nothing is counted and all is allowed."""

    def admit(self) -> None:
        """Reserve what an exchange takes at least; raises TooManyRequests."""

    def may_read(self) -> bool:
        """Whether the next piece of a request body may be read; if not, `pump` is called later."""
        return True

    def stop_reading(self) -> None:
        """Nothing of a body is read now."""

    def hold_unread(self, count: int) -> None:
        """Say how many bytes were read and not passed on."""

    def add_unsent(self, count: int) -> None:
        """Say that so many bytes of an answer wait for their client, besides those before."""

    def clear_unsent(self) -> None:
        """Say that none wait any more."""

    def finish(self) -> None:
        """The exchange is over: what was reserved for it is free."""

    def close(self) -> None:
        """The connection is over."""


class MemoryLimiter:
    """Shares out `budget` among connections; `clock` is for what happens in a later turn."""

    _log = Logger()

    def __init__(self, budget: MemoryBudget, clock: Clock) -> None:
        self.budget = budget
        budget.on_room = self._have_room
        budget.on_excess = self._give_up
        self._clock = clock
        self._ages = count()
        self._waiting: list[tuple[int, int, _Limited]] = []
        self._waking: Timer | None = None
        self._unsent: dict[_Limited, None] = {}

    def connection(self, connection: Connection) -> ConnectionMemory:
        """Count for a new connection."""
        return _Limited(self, connection)

    def age(self) -> int:
        """Give a number that is larger than all before it."""
        return next(self._ages)

    def wait(self, memory: _Limited) -> None:
        """Wake `memory` when there is room."""
        heappush(self._waiting, (memory.begun, self.age(), memory))

    def note_unsent(self, memory: _Limited) -> None:
        """Some of an answer waits for its client."""
        self._unsent[memory] = None

    def forget_unsent(self, memory: _Limited) -> None:
        """None waits any more."""
        self._unsent.pop(memory, None)

    def _have_room(self) -> None:
        if self._waiting and self._waking is None:
            self._waking = self._clock.callLater(0, self._wake)

    def _wake(self) -> None:
        self._waking = None
        while self._waiting:
            memory = self._waiting[0][2]
            if memory.waits and not memory.try_credit():
                return
            heappop(self._waiting)
            memory.wake()

    def _give_up(self) -> None:
        """Cut off whose client leaves most unread; with nobody left, a MemoryError ends all."""
        if not self._unsent:
            return
        most = max(self._unsent, key=lambda memory: memory.unsent)
        self._log.warn(
            "a connection is cut off: its client left {count} bytes unread, and no memory is left",
            count=most.unsent,
        )
        most.close()
        most.connection.cut_off()


class _Limited(ConnectionMemory):
    """One that counts."""

    __slots__ = ("_credit", "_exchange", "_limiter", "_unread", "begun", "connection", "unsent",
                 "waits")  # fmt: skip

    def __init__(self, limiter: MemoryLimiter, connection: Connection) -> None:
        self.connection = connection
        self.begun = limiter.age()  # the exchange
        self.unsent = 0
        self.waits = False  # for room to read
        self._limiter = limiter
        self._exchange = self._credit = self._unread = 0

    def admit(self) -> None:
        self._limiter.budget.admit(EXCHANGE)
        self._exchange += EXCHANGE
        self.begun = self._limiter.age()

    def may_read(self) -> bool:
        if self.waits:
            return False
        self.stop_reading()
        if self.try_credit():
            return True
        self.waits = True
        self._limiter.wait(self)
        return False

    def try_credit(self) -> bool:
        """Reserve the room for one read."""
        if self._limiter.budget.try_reserve(BUFFER):
            self._credit = BUFFER
            return True
        return False

    def wake(self) -> None:
        """There is room, or this one waits no more."""
        if self.waits:
            self.waits = False
            self.connection.pump()

    def stop_reading(self) -> None:
        credit, self._credit = self._credit, 0
        if credit:
            self._limiter.budget.release(credit)

    def hold_unread(self, count: int) -> None:
        more, self._unread = count - self._unread, count
        if more > 0:
            self._limiter.budget.reserve(more)
        elif more:
            self._limiter.budget.release(-more)

    def add_unsent(self, count: int) -> None:
        if not self.unsent:
            self._limiter.note_unsent(self)
        self.unsent += count
        self._limiter.budget.reserve(count)

    def clear_unsent(self) -> None:
        unsent, self.unsent = self.unsent, 0
        if unsent:
            self._limiter.forget_unsent(self)
            self._limiter.budget.release(unsent)

    def finish(self) -> None:
        self.waits = False
        self.stop_reading()
        exchange, self._exchange = self._exchange, 0
        if exchange:
            self._limiter.budget.release(exchange)

    def close(self) -> None:
        self.finish()
        self.hold_unread(0)
        self.clear_unsent()
