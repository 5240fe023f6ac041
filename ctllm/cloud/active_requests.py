"""Requests and tunnels in progress, which a revocation aborts."""

from __future__ import annotations

from collections.abc import Callable

from ctllm.cloud.identity import AccessGrant
from ctllm.errors import CtllmError

AbortRequest = Callable[[CtllmError], None]


class ActiveRequests:
    """Authenticated requests and tunnels, by the proxy of their user, each with its grant."""

    def __init__(self) -> None:
        self._by_proxy: dict[str, dict[object, tuple[AccessGrant, AbortRequest]]] = {}

    def __len__(self) -> int:
        """Return the number of requests and tunnels."""
        return sum(map(len, self._by_proxy.values()))

    def add(self, proxy_id: str, grant: AccessGrant, abort: AbortRequest) -> Callable[[], None]:
        """Register a request, which `abort` ends; return a function that unregisters it."""
        entry = object()
        self._by_proxy.setdefault(proxy_id, {})[entry] = grant, abort
        return lambda: self._remove(proxy_id, entry)

    def _remove(self, proxy_id: str, entry: object) -> None:
        entries = self._by_proxy.get(proxy_id, {})
        entries.pop(entry, None)
        if not entries:
            self._by_proxy.pop(proxy_id, None)

    def abort_inactive(self, proxy_id: str, check_active: Callable[[AccessGrant], None]) -> int:
        """Abort the requests of `proxy_id` for whose grant `check_active` raises an error.

        Each is aborted with that error. Returns their number.
        """
        aborted = 0
        for grant, abort in list(self._by_proxy.get(proxy_id, {}).values()):
            try:
                check_active(grant)
            except CtllmError as error:
                abort(error)
                aborted += 1
        return aborted
