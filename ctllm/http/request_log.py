"""A line in the log for each request. All parts that the request passes log the same id."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol

from twisted.logger import Logger

from ctllm.http.message.head import RequestHead
from ctllm.ollama.endpoints import is_known_path
from ctllm.reactor.interfaces import Clock

#: The first two parts of a path, without what a client chose.
_ROUTE = re.compile(rb"/(?:api|v1|ctllm|ws)/[a-z]{1,20}(?=/|$)")
_METHODS = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"))


class ObservableRequest(Protocol):
    """A request of a server, as far as a `RequestLog` uses it."""

    @property
    def status(self) -> int:
        """The status of the response, or 0 if there is none."""

    def add_observer(self, observer: Callable[..., None], /) -> None:
        """Call `observer` with the outcome when the request ends."""


class RequestLog:
    """Logs each request when it ends, if `is_enabled`.

    A line has no path beyond the route, no query, no header, no content and no name of a user.
    """

    _log = Logger()

    def __init__(self, clock: Clock, is_enabled: bool) -> None:
        self._clock = clock
        self.is_enabled = is_enabled

    def observe(self, request: ObservableRequest, head: RequestHead, id: bytes) -> None:
        """Log `request`, whose head is `head`, when it ends."""
        if self.is_enabled:
            started_at = self.now()
            request.add_observer(
                lambda outcome: self.write(id, head, request.status, str(outcome), started_at)
            )

    def now(self) -> float:
        """Return the time at which a request starts."""
        return self._clock.seconds()

    def write(
        self, id: bytes, head: RequestHead, status: int, outcome: str, started_at: float
    ) -> None:
        """Log a request that has ended."""
        self._log.info(
            "Request {request_id}: {method} {route}, status {status}, {outcome}, {duration:.3f} s",
            request_id=id.hex(),
            method=head.method.decode() if head.method in _METHODS else "other",
            route=describe_route(head),
            status=status or "none",
            outcome=outcome,
            duration=self._clock.seconds() - started_at,
        )


def describe_route(head: RequestHead) -> str:
    """Return the first two parts of a canonical path that ctllm or Ollama has, else "other"."""
    path = head.path
    if path == b"/":
        return "/"
    found = _ROUTE.match(path)
    is_known = path.startswith((b"/ctllm/", b"/ws/")) or is_known_path(path)
    return found[0].decode() if found and is_known else "other"
