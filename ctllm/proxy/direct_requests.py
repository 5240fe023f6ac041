"""The requests that a reverse proxy sends here itself, and tunnels; each has a sealed grant.

The cloud has authorized each of them, and then knows no more of it. So this counts them, limits
those in progress, and ends them when the cloud says that a grant has ended. What it refuses is
reported to the cloud, which records it. A grant is sealed: this process can compare it, and not
read it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ctllm.auth.session_assertions import LIFETIME_SECONDS
from ctllm.common.ttl_cache import TtlCache
from ctllm.errors import CtllmError, TooManyRequests, error_from_wire
from ctllm.http.server.request import Outcome, ServerRequest

#: Grants that have ended. Of more, the one that ended first may be used until its assertion ends.
MAX_ENDED_GRANTS = 4096
#: Grants whose refused requests are counted apart, until the cloud asks for them.
MAX_REFUSED_GRANTS = 256

AbortRequest = Callable[[CtllmError], None]


@dataclass(frozen=True, slots=True, eq=False)
class _InProgress:
    """A request or a tunnel."""

    abort: AbortRequest
    is_tunnel: bool


class DirectRequests:
    """Requests and tunnels in progress by their sealed grants; `now` returns epoch seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._by_grant: dict[bytes, set[_InProgress]] = {}
        self._ended: TtlCache[bytes, CtllmError] = TtlCache(MAX_ENDED_GRANTS, now)
        #: Requests in progress, without tunnels.
        self.in_progress = 0
        #: Requests that have ended, by their outcome.
        self.outcomes: Counter[str] = Counter()
        self._refusals: Counter[bytes] = Counter()  # by their grants

    @property
    def grants(self) -> list[bytes]:
        """The grants of requests and tunnels in progress."""
        return list(self._by_grant)

    @property
    def refused(self) -> int:
        """How many requests were refused since `take_refusals`, as too many were in progress."""
        return self._refusals.total()

    def take_refusals(self) -> Mapping[bytes, int]:
        """Return these numbers by grant, once; those of further grants are at an empty one."""
        taken, self._refusals = self._refusals, Counter()
        return taken

    def _count_refusal(self, grant: bytes) -> None:
        is_known = grant in self._refusals or len(self._refusals) < MAX_REFUSED_GRANTS
        self._refusals[grant if is_known else b""] += 1

    def add_request(self, request: ServerRequest, grant: bytes, max_requests: int) -> None:
        """Count `request` until it ends; raises TooManyRequests, or the error of an ended grant.

        `max_requests` limits those in progress; 0 is no limit.
        """
        if max_requests and self.in_progress >= max_requests:
            self._count_refusal(grant)
            raise TooManyRequests(
                f"{max_requests} of your requests are in progress. Try again when some of them "
                "have ended."
            )
        remove = self._add(grant, _InProgress(request.abort, is_tunnel=False))
        self.in_progress += 1

        def ended(outcome: Outcome) -> None:
            remove()
            self.in_progress -= 1
            self.outcomes[outcome.value] += 1

        request.add_observer(ended)

    def add_tunnel(self, grant: bytes, end: AbortRequest) -> Callable[[], None]:
        """Register a tunnel; return what unregisters it. Raises as `add_request` does."""
        return self._add(grant, _InProgress(end, is_tunnel=True))

    def abort(self, ended: Mapping[bytes, CtllmError]) -> int:
        """Abort what has one of the `ended` grants, with the error of each; return its number.

        What comes later with one of them is refused: it was authorized before the grant ended.
        A tunnel ends after the requests: those on it shall end with their own errors.
        """
        aborted: list[tuple[_InProgress, CtllmError]] = []
        for grant, error in ended.items():
            self._ended.put(grant, error, self._now() + 2 * LIFETIME_SECONDS)
            aborted += [(each, error) for each in self._by_grant.get(grant, ())]
        for each, error in sorted(aborted, key=lambda pair: pair[0].is_tunnel):
            each.abort(error)
        return len(aborted)

    def check_active(self, grant: bytes) -> None:
        """Raise the error of a grant that has ended."""
        ended = self._ended.get(grant)
        if ended is not None:
            raise error_from_wire(ended.code, ended.message)

    def _add(self, grant: bytes, added: _InProgress) -> Callable[[], None]:
        self.check_active(grant)
        requests = self._by_grant.setdefault(grant, set())
        requests.add(added)

        def remove() -> None:
            requests.discard(added)
            if not requests and self._by_grant.get(grant) is requests:
                del self._by_grant[grant]

        return remove
