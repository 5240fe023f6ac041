"""Requests and tunnels in progress, which are aborted when their user's access ends."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass

from twisted.logger import Logger

from ctllm.cloud.identity import AccessGrant
from ctllm.errors import CtllmError

AbortRequest = Callable[[CtllmError], None]
CheckGrant = Callable[[AccessGrant], None]
"""Raises CtllmError, with which the request is aborted, for a grant that is no longer active."""


@dataclass(frozen=True, slots=True, eq=False)
class _ActiveRequest:
    proxy_id: str
    grant: AccessGrant
    abort: AbortRequest


class ActiveRequests:
    """Authenticated requests and tunnels, each with its grant."""

    _log = Logger()

    def __init__(self) -> None:
        self._by_proxy: defaultdict[str, set[_ActiveRequest]] = defaultdict(set)
        self._by_session: defaultdict[str, set[_ActiveRequest]] = defaultdict(set)
        self._by_credential: defaultdict[str, set[_ActiveRequest]] = defaultdict(set)
        self._tunnels: set[_ActiveRequest] = set()

    def __len__(self) -> int:
        """Return the number of requests and tunnels."""
        return sum(map(len, self._by_proxy.values()))

    @property
    def session_ids(self) -> Set[str]:
        """The ids of the sessions from which a request or tunnel derives."""
        return self._by_session.keys()

    def add(
        self, proxy_id: str, grant: AccessGrant, abort: AbortRequest, is_tunnel: bool = False
    ) -> Callable[[], None]:
        """Register a request, which `abort` ends; return a function that unregisters it.

        `is_tunnel` says that it lasts, and must be renewed, as long as its session.
        """
        request = _ActiveRequest(proxy_id, grant, abort)
        self._by_proxy[proxy_id].add(request)
        for session_id in grant.session_ids:
            self._by_session[session_id].add(request)
        if grant.credential_id:
            self._by_credential[grant.credential_id].add(request)
        if is_tunnel:
            self._tunnels.add(request)
        return lambda: self._remove(request)

    def _remove(self, request: _ActiveRequest) -> None:
        _discard(self._by_proxy, request.proxy_id, request)
        for session_id in request.grant.session_ids:
            _discard(self._by_session, session_id, request)
        _discard(self._by_credential, request.grant.credential_id, request)
        self._tunnels.discard(request)

    def abort_of_proxy(self, proxy_id: str, check: CheckGrant) -> int:
        """Abort the requests of `proxy_id` for whose grant `check` raises; return their number."""
        return self._abort(self._by_proxy.get(proxy_id, ()), check)

    def abort_of_session(self, session_id: str, check: CheckGrant) -> int:
        """Abort the requests of a session for whose grant `check` raises; return their number."""
        return self._abort(self._by_session.get(session_id, ()), check)

    def abort_of_credentials(self, check: CheckGrant) -> int:
        """Abort the requests of API keys and machines for whose grant `check` raises.

        It is called once for the requests of one credential. Returns their number.
        """
        aborted = 0
        for requests in list(self._by_credential.values()):
            try:
                check(next(iter(requests)).grant)
            except CtllmError:
                aborted += self._abort(requests, check)
        return aborted

    def abort_tunnels(self, check: CheckGrant) -> int:
        """Abort the tunnels for whose grant `check` raises, and return their number."""
        return self._abort(self._tunnels, check)

    def _abort(self, requests: Iterable[_ActiveRequest], check: CheckGrant) -> int:
        aborted = 0
        for request in list(requests):
            try:
                check(request.grant)
            except CtllmError as error:
                self._abort_request(request, error)
                aborted += 1
        return aborted

    def _abort_request(self, request: _ActiveRequest, error: CtllmError) -> None:
        """Abort a request once, and let no other one suffer from what is wrong with it."""
        self._remove(request)
        try:
            request.abort(error)
        except Exception:
            self._log.failure("Aborting a request whose user has no access any more failed")


def _discard(
    index: defaultdict[str, set[_ActiveRequest]], key: str, request: _ActiveRequest
) -> None:
    requests = index.get(key, set())
    requests.discard(request)
    if not requests:
        index.pop(key, None)
