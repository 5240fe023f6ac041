"""Twisted's epoll loop without what it does around each event for a log that nobody reads here.

`EPollReactor` calls each socket through `twisted.python.log.callWithLogger`, which builds a context
of its own so that the old log could say which protocol was at work. That is a tenth of what a line
of a stream costs. The rest of the reactor is Twisted's own; other reactors are left as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

#: How many sockets are served between two looks at the clock. What they bring is sent on after them
#: all, so with many streams this is what a line waits for; a turn costs about as much as two lines.
EVENTS = 64

_log = Logger()


def poll_directly(reactor: Any) -> None:
    """Have an epoll `reactor` call its sockets without a log context."""
    try:
        from twisted.internet.epollreactor import EPollReactor
    except ImportError:
        return  # a system without epoll
    if type(reactor) is EPollReactor:
        reactor.doIteration = _iteration(reactor)  # type: ignore[method-assign]


def _iteration(reactor: Any) -> Callable[[float | None], None]:
    poll = reactor._poller.poll
    sockets: dict[int, Any] = reactor._selectables
    read_or_write = reactor._doReadOrWrite

    def iteration(timeout: float | None) -> None:
        # A wait of -1 is one without end. Those that were left out are first in the next turn
        # (epoll_wait(2): the ready list is gone through in rounds).
        for fd, event in poll(-1 if timeout is None else timeout, EVENTS):
            socket = sockets.get(fd)
            if socket is None:
                continue  # an event before it closed it
            try:
                read_or_write(socket, fd, event)
            except Exception:
                _log.failure("a protocol failed while it lost its connection")

    return iteration
