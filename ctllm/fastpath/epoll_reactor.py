"""The reactor of a ctllm process: Twisted's own, with a steady clock and a shorter way to sockets.

Twisted's reactors keep their timers by the time of day, so all of them stand still for hours when
somebody sets that back. `IReactorTime.seconds` may count from any beginning: here it is the
monotonic clock. Whoever wants the time of day asks `time.time`.

`EPollReactor` calls each socket through `twisted.python.log.callWithLogger`, which builds a context
of its own so that the old log could say which protocol was at work. That is a tenth of what a line
of a stream costs, and left out here.
"""

from __future__ import annotations

import time
from typing import Any

from twisted.logger import Logger

try:
    from twisted.internet.epollreactor import EPollReactor
except ImportError:  # a system without epoll
    from twisted.internet.selectreactor import SelectReactor

    class SteadyReactor(SelectReactor):
        """Twisted's select loop with a steady clock."""

        def seconds(self) -> float:
            """Seconds from an unspecified beginning, whatever happens to the time of day."""
            return time.monotonic()

else:

    class SteadyReactor(EPollReactor):  # type: ignore[no-redef]
        """Twisted's epoll loop with a steady clock and without log contexts."""

        def seconds(self) -> float:
            """Seconds from an unspecified beginning, whatever happens to the time of day."""
            return time.monotonic()

        def doIteration(self, timeout: float | None) -> None:
            """Wait for events for `timeout` seconds, or without end, and serve their sockets."""
            # Those that were left out are first in the next turn (epoll_wait(2): the ready list
            # is gone through in rounds).
            sockets: dict[int, Any] = self._selectables
            read_or_write = self._doReadOrWrite
            for fd, event in self._poller.poll(-1 if timeout is None else timeout, MAX_EVENTS):
                socket = sockets.get(fd)
                if socket is None:
                    continue  # an event before it closed it
                try:
                    read_or_write(socket, fd, event)
                except Exception:
                    _log.failure("a protocol failed while it lost its connection")


#: How many sockets are served between two looks at the clock. What they bring is sent on after them
#: all, so with many streams this is what a line waits for; a turn costs about as much as two lines.
MAX_EVENTS = 64

_log = Logger()
