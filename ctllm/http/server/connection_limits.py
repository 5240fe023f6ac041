"""Limits the connections of a listener, and evicts those that wait without a request.

A connection is anonymous until the application has authenticated its request, and again when that
has been answered. A share of the limit is for anonymous connections: of too many, the one that has
waited longest is evicted. So an attacker who opens ten thousand connections evicts their own, a
client that sends a request at once is authenticated in time, and no authenticated connection is
evicted.
"""

from __future__ import annotations

import sys
from typing import Protocol

from ctllm.errors import ServiceUnavailable

#: One of so many connections may be anonymous.
ANONYMOUS_SHARE = 4
#: The files that a process needs besides its connections: logs, pipes, listeners.
RESERVED_FILES = 256


class LimitedConnection(Protocol):
    """What the limiter needs of a connection."""

    def evict(self) -> None:
        """Close: there are too many anonymous connections."""


class ConnectionLimiter:
    """Counts the connections of one listener, of which there may be `limit`."""

    def __init__(self, limit: int) -> None:
        self._max_anonymous = max(1, limit // ANONYMOUS_SHARE)
        self._max_authenticated = max(1, limit - self._max_anonymous)
        self._anonymous: dict[LimitedConnection, None] = {}  # the longest waiting first
        self._authenticated: set[LimitedConnection] = set()

    @property
    def max_authenticated(self) -> int:
        """How many connections may be authenticated at once."""
        return self._max_authenticated

    def __len__(self) -> int:
        """Return the number of connections."""
        return len(self._anonymous) + len(self._authenticated)

    def add_anonymous(self, connection: LimitedConnection) -> None:
        """Count a connection that is new, or whose request has been answered."""
        self.remove(connection)
        self._anonymous[connection] = None
        if len(self._anonymous) > self._max_anonymous:
            longest_waiting = next(iter(self._anonymous))
            del self._anonymous[longest_waiting]
            longest_waiting.evict()

    def mark_authenticated(self, connection: LimitedConnection) -> None:
        """Count a connection as authenticated; raises ServiceUnavailable beyond the limit."""
        is_full = len(self._authenticated) >= self._max_authenticated
        if is_full and connection not in self._authenticated:
            raise ServiceUnavailable(
                f"The limit of {self._max_authenticated} requests at a time is reached. "
                "Try again in a moment."
            )
        self._anonymous.pop(connection, None)
        self._authenticated.add(connection)

    def remove(self, connection: LimitedConnection) -> None:
        """Stop counting a connection."""
        self._anonymous.pop(connection, None)
        self._authenticated.discard(connection)


def max_connections(configured: int, files_each: int, reserved_files: int = RESERVED_FILES) -> int:
    """Return `configured`, or less where the process may not open enough files.

    A connection takes `files_each`, and other things take `reserved_files`, but no more than half
    of the files that the process may open.
    """
    if sys.platform == "win32":
        return configured
    import resource

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return configured
    return max(1, min(configured, (files - min(reserved_files, files // 2)) // files_each))
