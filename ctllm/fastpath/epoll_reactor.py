"""The reactor of a ctllm process: Twisted's, with a monotonic clock and a shorter event loop.

Twisted's reactors keep their timers by the time of day, so all timers stall for hours when that is
set back. `IReactorTime.seconds` may count from any beginning; here it is the monotonic clock. Code
that needs the time of day calls `time.time`.

`EPollReactor` calls each socket through `twisted.python.log.callWithLogger`, which builds a log
context for each event: a tenth of the cost of a line of a stream. `MonotonicReactor` calls the
sockets directly, by way of private attributes of `EPollReactor`. If one of them is missing,
Twisted's own loop runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

#: The attributes of `EPollReactor` that the fast loop uses.
PRIVATE_NAMES = ("_poller", "_selectables", "_doReadOrWrite", "_disconnectSelectable")

#: The most sockets that are handled in one turn of the reactor. Data that was read is sent on after
#: all of them, so a line of a stream waits for this many; a turn costs about as much as two lines.
MAX_EVENTS = 64

try:
    from twisted.internet.epollreactor import EPOLLIN, EPollReactor
except ImportError:  # a system without epoll
    from twisted.internet.selectreactor import SelectReactor

    class MonotonicReactor(SelectReactor):
        """Twisted's select loop with a monotonic clock."""

        def seconds(self) -> float:
            """Return the seconds since an unspecified moment, unaffected by clock changes."""
            return time.monotonic()

else:

    class MonotonicReactor(EPollReactor):  # type: ignore[no-redef]
        """Twisted's epoll loop with a monotonic clock and without log contexts."""

        _log = Logger()

        def __init__(self, private_names: tuple[str, ...] = PRIVATE_NAMES) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.is_fast = all(hasattr(self, name) for name in private_names)
            self._calls_at_end: list[Callable[[], object]] = []

        def seconds(self) -> float:
            """Return the seconds since an unspecified moment, unaffected by clock changes."""
            return time.monotonic()

        def doIteration(self, delay: float | None) -> None:
            """Wait at most `delay` seconds (None: without limit) for events and handle them."""
            if not self.is_fast:
                super().doIteration(delay)  # type: ignore[no-untyped-call]
                return
            # Sockets beyond MAX_EVENTS come first in the next turn: the kernel goes through its
            # ready list in rounds (epoll_wait(2)).
            sockets: dict[int, Any] = self._selectables
            read_or_write: Any = self._doReadOrWrite
            if self._calls_at_end:  # scheduled by a timer
                delay = 0
            for fd, event in self._poller.poll(-1 if delay is None else delay, MAX_EVENTS):
                socket = sockets.get(fd)
                if socket is None:
                    continue  # closed by an earlier event of this turn
                try:
                    if event == EPOLLIN:
                        self._read(socket)
                    else:
                        read_or_write(socket, fd, event)
                except Exception:
                    self._log.failure("A protocol failed in connectionLost")
            if self._calls_at_end:
                self._end_turn()

        def _read(self, socket: Any) -> None:
            """Do what `_doReadOrWrite` does for a socket that is readable and nothing else."""
            try:
                why = socket.doRead()
            except BaseException as error:
                why = error
                self._log.failure("A protocol failed to process data")
            if why:
                disconnect: Any = self._disconnectSelectable
                disconnect(socket, why, True)

        def call_at_end_of_turn(self, function: Callable[[], object]) -> None:
            """Call `function` after all sockets of this turn; outside of one, of the next turn."""
            if self.is_fast:
                self._calls_at_end.append(function)
            else:
                self.callLater(0, function)

        def _end_turn(self) -> None:
            calls, self._calls_at_end = self._calls_at_end, []
            for function in calls:
                try:
                    function()
                except Exception:
                    self._log.failure("A call at the end of a turn failed")
