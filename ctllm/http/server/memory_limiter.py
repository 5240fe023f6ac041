"""Holds the connections of a listener to a memory budget.

A request is admitted if the budget has room for it. A connection that reads a request body reserves
the memory of its next read. Those that cannot stay unread, and continue in the order in which their
requests were admitted, so that what has begun is finished. A response cannot be refused: when
clients leave so much of their responses unread that the budget is exceeded, the connection of the
one that leaves most is aborted.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from typing import Protocol

from twisted.logger import Logger

from ctllm.common.memory_budget import MemoryBudget
from ctllm.reactor.interfaces import Clock, Timer

#: The memory that a request takes at least, in bytes: its objects on both connections and in the
#: tunnel.
REQUEST_MEMORY = 24 * 1024
#: How many bytes one read of a socket returns at most (Twisted's `bufferSize`), and how many a
#: write buffer holds before its producer is paused.
SOCKET_BUFFER_SIZE = 64 * 1024


class LimitedConnection(Protocol):
    """What the limiter needs of a connection."""

    def resume_reading(self) -> None:
        """Continue: there may be memory now."""

    def abort(self) -> None:
        """Close at once: the memory is needed."""


class ConnectionMemory:
    """The memory of one connection. This class counts nothing and allows everything."""

    def reserve_request(self) -> None:
        """Reserve the memory that a request takes at least; raises TooManyRequests."""

    def release_request(self) -> None:
        """Release what was reserved for the request."""

    def try_reserve_read(self) -> bool:
        """Reserve the memory of the next read of a request body.

        If there is none, return False, and call `resume_reading` of the connection later.
        """
        return True

    def release_read(self) -> None:
        """Release the memory of the next read: there is none."""

    def set_unread(self, count: int) -> None:
        """Set how many received bytes are not passed on."""

    def add_unsent(self, count: int) -> None:
        """Add bytes of a response that the client has not read."""

    def clear_unsent(self) -> None:
        """Set the bytes of a response that the client has not read to zero."""

    def release_all(self) -> None:
        """Release everything: the connection is closed."""


class MemoryLimiter:
    """Divides `budget` among connections."""

    _log = Logger()

    def __init__(self, budget: MemoryBudget, clock: Clock) -> None:
        self.budget = budget
        self._clock = clock
        self._sequence_numbers = count()
        self._waiting: list[tuple[int, int, _LimitedMemory]] = []
        self._resumption: Timer | None = None
        self._unsent: dict[_LimitedMemory, None] = {}
        budget.add_observer(self)

    def add_connection(self, connection: LimitedConnection) -> ConnectionMemory:
        """Return the memory of a new connection."""
        return _LimitedMemory(self, connection)

    def next_sequence_number(self) -> int:
        """Return a number that is larger than all before."""
        return next(self._sequence_numbers)

    def wait_for_memory(self, memory: _LimitedMemory) -> None:
        """Resume `memory` when the budget allows it."""
        heappush(self._waiting, (memory.sequence_number, self.next_sequence_number(), memory))

    def add_unsent(self, memory: _LimitedMemory) -> None:
        """Remember that a client has not read all of its response."""
        self._unsent[memory] = None

    def remove_unsent(self, memory: _LimitedMemory) -> None:
        """Forget that."""
        self._unsent.pop(memory, None)

    def memory_released(self) -> None:
        """Resume waiting connections in the next turn of the reactor."""
        if self._waiting and self._resumption is None:
            self._resumption = self._clock.callLater(0, self._resume_waiting)

    def _resume_waiting(self) -> None:
        self._resumption = None
        while self._waiting:
            memory = self._waiting[0][2]
            if memory.is_waiting and not memory.reserve_next_read():
                return
            heappop(self._waiting)
            memory.stop_waiting()

    def memory_exceeded(self) -> None:
        """Abort the connection whose client leaves most of its response unread, if any does."""
        if not self._unsent:
            return
        largest = max(self._unsent, key=lambda memory: memory.unsent)
        self._log.warn(
            "Out of memory. Aborting a connection whose client left {count} bytes unread.",
            count=largest.unsent,
        )
        largest.release_all()
        largest.connection.abort()


class _LimitedMemory(ConnectionMemory):
    """The memory of one connection, reserved in the budget of a limiter."""

    __slots__ = ("_limiter", "_read_bytes", "_request_bytes", "_unread", "connection",
                 "is_waiting", "sequence_number", "unsent")  # fmt: skip

    def __init__(self, limiter: MemoryLimiter, connection: LimitedConnection) -> None:
        self.connection = connection
        self.sequence_number = limiter.next_sequence_number()  # of the request
        self.unsent = 0
        self.is_waiting = False  # for memory to read
        self._limiter = limiter
        self._request_bytes = self._read_bytes = self._unread = 0

    def reserve_request(self) -> None:
        self._limiter.budget.admit(REQUEST_MEMORY)
        self._request_bytes += REQUEST_MEMORY
        self.sequence_number = self._limiter.next_sequence_number()

    def release_request(self) -> None:
        self.is_waiting = False
        self.release_read()
        request_bytes, self._request_bytes = self._request_bytes, 0
        if request_bytes:
            self._limiter.budget.release(request_bytes)

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
        """Reserve the memory of one read; return False if the budget does not allow it."""
        if self._limiter.budget.try_reserve(SOCKET_BUFFER_SIZE):
            self._read_bytes = SOCKET_BUFFER_SIZE
            return True
        return False

    def stop_waiting(self) -> None:
        """Continue, if this still waits for memory."""
        if self.is_waiting:
            self.is_waiting = False
            self.connection.resume_reading()

    def release_read(self) -> None:
        read_bytes, self._read_bytes = self._read_bytes, 0
        if read_bytes:
            self._limiter.budget.release(read_bytes)

    def set_unread(self, count: int) -> None:
        change, self._unread = count - self._unread, count
        if change > 0:
            self._limiter.budget.reserve(change)
        elif change:
            self._limiter.budget.release(-change)

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

    def release_all(self) -> None:
        self.release_request()
        self.set_unread(0)
        self.clear_unsent()
