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
PART = 4
#: Files that a process needs besides its connections: logs, pipes of its children, listeners.
SPARE = 256


class Guest(Protocol):
    """A connection."""

    def push_out(self) -> None:
        """Close: there is no room for those who only wait."""


class Crowd:
    """The connections of one listener, `most` at once."""

    def __init__(self, most: int) -> None:
        self._most_strangers = max(1, most // PART)
        self._most_known = max(1, most - self._most_strangers)
        self._strangers: dict[Guest, None] = {}  # in the order of coming
        self._known: set[Guest] = set()

    @property
    def room(self) -> int:
        """How many may be served at once."""
        return self._most_known

    def __len__(self) -> int:
        """How many there are."""
        return len(self._strangers) + len(self._known)

    def wait(self, guest: Guest) -> None:
        """It came, or its request was answered: nobody knows what it wants next."""
        self.leave(guest)
        self._strangers[guest] = None
        if len(self._strangers) > self._most_strangers:
            longest = next(iter(self._strangers))
            del self._strangers[longest]
            longest.push_out()

    def welcome(self, guest: Guest) -> None:
        """It is known who asks; raises Overloaded if as many are being served as can be."""
        if len(self._known) >= self._most_known and guest not in self._known:
            raise ServiceUnavailable(
                f"{self._most_known} requests are being served, and no more fit in; "
                "try again in a moment"
            )
        self._strangers.pop(guest, None)
        self._known.add(guest)

    def leave(self, guest: Guest) -> None:
        """It is closed."""
        self._strangers.pop(guest, None)
        self._known.discard(guest)


def room_for(most: int, sockets: int, spare: int = SPARE) -> int:
    """`most`, or as many connections of so many `sockets` each as this process may have files.

    It needs `spare` files for other things, and at most half of all are left for those.
    """
    if sys.platform == "win32":
        return most
    import resource

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return most
    return max(1, min(most, (files - min(spare, files // 2)) // sockets))
