"""Refusals of the authorization of a reverse proxy, until the cloud responds with them.

nginx understands only 401 and 403 of the server that it asks for authorization, and sends the
client nothing else of that response. So it sends a refused request to the cloud, which responds as
it does to any request, with the refusal that was decided before: nothing is counted twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from secrets import token_hex

from ctllm.cloud.identity import AccessGrant
from ctllm.common.ttl_cache import TtlCache
from ctllm.errors import CtllmError
from ctllm.http.header_policy import REFUSAL
from ctllm.http.message.head import RequestHead, get_header

#: Seconds for which a refusal is remembered, and the number of them.
LIFETIME = 30.0
MAX_REFUSALS = 16384


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error, and the grant of the client if it has authenticated."""

    error: CtllmError
    grant: AccessGrant | None


class Refusals:
    """Refusals by their tickets, which nobody can guess; `now` returns seconds.

    A ticket that is not known any more changes nothing: the request is handled as any other.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._refusals: TtlCache[bytes, Refusal] = TtlCache(MAX_REFUSALS, now)

    def __len__(self) -> int:
        """Return how many refusals are remembered."""
        return len(self._refusals)

    def add(self, refusal: Refusal) -> bytes:
        """Remember a refusal; return its ticket. The error loses its traceback.

        A client that disconnects never fetches its refusal. With the traceback, it would keep all
        that has handled the request.
        """
        error = refusal.error
        error.__traceback__ = error.__cause__ = error.__context__ = None
        ticket = token_hex(16).encode()
        self._refusals.put(ticket, refusal, self._now() + LIFETIME)
        return ticket

    def take(self, head: RequestHead) -> Refusal | None:
        """Return the refusal whose ticket a request has, once; else None."""
        ticket = get_header(head.headers, REFUSAL.lower())
        return None if ticket is None else self._refusals.pop(ticket)
