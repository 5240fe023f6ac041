"""How many connections a listener serves at once, and who goes when there are too many.

A connection is a stranger's until an application says that it knows who asks, and again when that
request was answered. Strangers have a part of the room: of too many the one that waits longest
goes. So whoever opens ten thousand connections pushes out their own, while somebody who connects
and asks is known within a moment, and whoever is known is never pushed out.
"""

from __future__ import annotations

import sys
from typing import Protocol

from ctllm.errors import ServiceUnavailable

#: Which part of the room strangers have.
ANONYMOUS_SHARE = 4
#: Files that a process needs besides its connections: logs, pipes of its children, listeners.
RESERVED_FILES = 256


class LimitedConnection(Protocol):
    """A connection."""

    def evict(self) -> None:
        """Close: there is no room for those who only wait."""


class ConnectionLimiter:
    """The connections of one listener, `most` at once."""

    def __init__(self, most: int) -> None:
        self._most_strangers = max(1, most // ANONYMOUS_SHARE)
        self._most_known = max(1, most - self._most_strangers)
        self._strangers: dict[LimitedConnection, None] = {}  # in the order of coming
        self._known: set[LimitedConnection] = set()

    @property
    def max_authenticated(self) -> int:
        """How many may be served at once."""
        return self._most_known

    def __len__(self) -> int:
        """How many there are."""
        return len(self._strangers) + len(self._known)

    def add_anonymous(self, guest: LimitedConnection) -> None:
        """It came, or its request was answered: nobody knows what it wants next."""
        self.remove(guest)
        self._strangers[guest] = None
        if len(self._strangers) > self._most_strangers:
            longest = next(iter(self._strangers))
            del self._strangers[longest]
            longest.evict()

    def mark_authenticated(self, guest: LimitedConnection) -> None:
        """It is known who asks; raises Overloaded if as many are being served as can be."""
        if len(self._known) >= self._most_known and guest not in self._known:
            raise ServiceUnavailable(
                f"{self._most_known} requests are being served, and no more fit in; "
                "try again in a moment"
            )
        self._strangers.pop(guest, None)
        self._known.add(guest)

    def remove(self, guest: LimitedConnection) -> None:
        """It is closed."""
        self._strangers.pop(guest, None)
        self._known.discard(guest)


def max_connections(configured: int, files_each: int, reserved_files: int = RESERVED_FILES) -> int:
    """`most`, or as many connections of so many `sockets` each as this process may have files.

    It needs `spare` files for other things, and at most half of all are left for those.
    """
    if sys.platform == "win32":
        return configured
    import resource

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return configured
    return max(1, min(configured, (files - min(reserved_files, files // 2)) // files_each))
