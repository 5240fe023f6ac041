"""Makes revocations take effect in a running cloud."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from ctllm.cloud.identity import PROXY_PREFIX, ApiKeys, Authentication, Grant, Passes, Revocations
from ctllm.cloud.in_flight import InFlight
from ctllm.cloud.proxies.manager import ProxyManager


class Revoker:
    """Ends all that a revoked user has here. `check` raises for a grant that is over."""

    _log = Logger()

    def __init__(
        self,
        revocations: Revocations,
        check: Callable[[Grant], None],
        in_flight: InFlight,
        passes: Passes,
        api_keys: ApiKeys,
        proxies: ProxyManager,
    ) -> None:
        self._revocations = revocations
        self._check = check
        self._in_flight = in_flight
        self._passes = passes
        self._api_keys = api_keys
        self._proxies = proxies
        self._pending: set[str] = set()

    def apply(self) -> None:
        """Apply what is new, at once; what failed is done again the next time."""
        self._pending.update(self._revocations.refresh())
        for user in list(self._pending):
            proxy = f"{PROXY_PREFIX}{user}"
            self._passes.remove_where(self._is_revoked)
            self._api_keys.remove_where(self._is_revoked)
            # Requests go first: the proxy that ends next still tells the desktops so.
            ended = self._in_flight.abort(proxy, self._check)
            self._proxies.revoke(proxy)
            self._log.info(
                "the user of {proxy} is revoked: {ended} connections end", proxy=proxy, ended=ended
            )
            self._pending.discard(user)

    def _is_revoked(self, each: Authentication | Grant) -> bool:
        return self._revocations.is_revoked(each.user, each.auth_time)
