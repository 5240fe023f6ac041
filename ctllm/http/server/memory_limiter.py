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
REQUEST_MEMORY = 24 * 1024
#: What one read of a socket may bring (Twisted's `bufferSize`), and also what a socket's write
#: buffer holds before its producer is asked to pause.
SOCKET_BUFFER_SIZE = 64 * 1024


class LimitedConnection(Protocol):
    """What the limiter needs of a connection."""

    def resume_reading(self) -> None:
        """Go on: there may be room now."""

    def abort(self) -> None:
        """Close now: the memory is needed."""


class ConnectionMemory:
    """What one connection holds; without a limiter nothing is counted and all is allowed."""

    def reserve_request(self) -> None:
        """Reserve what an exchange takes at least; raises TooManyRequests."""

    def try_reserve_read(self) -> bool:
        """Whether the next piece of a request body may be read; if not, `pump` is called later."""
        return True

    def release_read(self) -> None:
        """Nothing of a body is read now."""

    def set_unread(self, count: int) -> None:
        """Say how many bytes were read and not passed on."""

    def add_unsent(self, count: int) -> None:
        """Say that so many bytes of an answer wait for their client, besides those before."""

    def clear_unsent(self) -> None:
        """Say that none wait any more."""

    def release_request(self) -> None:
        """The exchange is over: what was reserved for it is free."""

    def release_all(self) -> None:
        """The connection is over."""


class MemoryLimiter:
    """Shares out `budget` among connections; `clock` is for what happens in a later turn."""

    _log = Logger()

    def __init__(self, budget: MemoryBudget, clock: Clock) -> None:
        self.budget = budget
        self._clock = clock
        self._ages = count()
        self._waiting: list[tuple[int, int, _LimitedMemory]] = []
        self._waking: Timer | None = None
        self._unsent: dict[_LimitedMemory, None] = {}
        budget.add_observer(self)

    def add_connection(self, connection: LimitedConnection) -> ConnectionMemory:
        """Count for a new connection."""
        return _LimitedMemory(self, connection)

    def next_sequence_number(self) -> int:
        """Give a number that is larger than all before it."""
        return next(self._ages)

    def wait_for_memory(self, memory: _LimitedMemory) -> None:
        """Wake `memory` when there is room."""
        heappush(self._waiting, (memory.sequence_number, self.next_sequence_number(), memory))

    def add_unsent(self, memory: _LimitedMemory) -> None:
        """Some of an answer waits for its client."""
        self._unsent[memory] = None

    def remove_unsent(self, memory: _LimitedMemory) -> None:
        """None waits any more."""
        self._unsent.pop(memory, None)

    def memory_released(self) -> None:
        """Resume connections that wait for memory, in the reactor's next turn."""
        if self._waiting and self._waking is None:
            self._waking = self._clock.callLater(0, self._resume_waiting)

    def _resume_waiting(self) -> None:
        self._waking = None
        while self._waiting:
            memory = self._waiting[0][2]
            if memory.is_waiting and not memory.reserve_next_read():
                return
            heappop(self._waiting)
            memory.stop_waiting()

    def memory_exceeded(self) -> None:
        """Cut off whose client leaves most unread; with nobody left, a MemoryError ends all."""
        if not self._unsent:
            return
        most = max(self._unsent, key=lambda memory: memory.unsent)
        self._log.warn(
            "a connection is cut off: its client left {count} bytes unread, and no memory is left",
            count=most.unsent,
        )
        most.release_all()
        most.connection.abort()


class _LimitedMemory(ConnectionMemory):
    """One that counts."""

    __slots__ = (
        "_credit",
        "_exchange",
        "_limiter",
        "_unread",
        "connection",
        "is_waiting",
        "sequence_number",
        "unsent",
    )  # fmt: skip

    def __init__(self, limiter: MemoryLimiter, connection: LimitedConnection) -> None:
        self.connection = connection
        self.sequence_number = limiter.next_sequence_number()  # the exchange
        self.unsent = 0
        self.is_waiting = False  # for room to read
        self._limiter = limiter
        self._exchange = self._credit = self._unread = 0

    def reserve_request(self) -> None:
        self._limiter.budget.admit(REQUEST_MEMORY)
        self._exchange += REQUEST_MEMORY
        self.sequence_number = self._limiter.next_sequence_number()

    def try_reserve_read(self) -> bool:
        if self.is_waiting:
            return False
        self.release_read()
        if self.reserve_next_read():
            return True
        self.is_waiting = True
        self._limiter.wait_for_memory(self)
        return False

    def reserve_next_read(self) -> bool:
        """Reserve the room for one read."""
        if self._limiter.budget.try_reserve(SOCKET_BUFFER_SIZE):
            self._credit = SOCKET_BUFFER_SIZE
            return True
        return False

    def stop_waiting(self) -> None:
        """There is room, or this one waits no more."""
        if self.is_waiting:
            self.is_waiting = False
            self.connection.resume_reading()

    def release_read(self) -> None:
        credit, self._credit = self._credit, 0
        if credit:
            self._limiter.budget.release(credit)

    def set_unread(self, count: int) -> None:
        more, self._unread = count - self._unread, count
        if more > 0:
            self._limiter.budget.reserve(more)
        elif more:
            self._limiter.budget.release(-more)

    def add_unsent(self, count: int) -> None:
        if not self.unsent:
            self._limiter.add_unsent(self)
        self.unsent += count
        self._limiter.budget.reserve(count)

    def clear_unsent(self) -> None:
        unsent, self.unsent = self.unsent, 0
        if unsent:
            self._limiter.remove_unsent(self)
            self._limiter.budget.release(unsent)

    def release_request(self) -> None:
        self.is_waiting = False
        self.release_read()
        exchange, self._exchange = self._exchange, 0
        if exchange:
            self._limiter.budget.release(exchange)

    def release_all(self) -> None:
        self.release_request()
        self.set_unread(0)
        self.clear_unsent()
