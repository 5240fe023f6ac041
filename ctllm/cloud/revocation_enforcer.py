"""Makes revocations take effect in a running cloud."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from ctllm.cloud.active_requests import ActiveRequests
from ctllm.cloud.identity import (
    PROXY_PREFIX,
    AccessGrant,
    ApiKeyLeases,
    Authentication,
    LoginCodes,
    Revocations,
)
from ctllm.cloud.proxies.manager import ProxyManager


class RevocationEnforcer:
    """Ends all that a revoked user has here. `check` raises for a grant that is over."""

    _log = Logger()

    def __init__(
        self,
        revocations: Revocations,
        check: Callable[[AccessGrant], None],
        in_flight: ActiveRequests,
        passes: LoginCodes,
        api_keys: ApiKeyLeases,
        proxies: ProxyManager,
    ) -> None:
        self._revocations = revocations
        self._check = check
        self._in_flight = in_flight
        self._passes = passes
        self._api_keys = api_keys
        self._proxies = proxies
        self._pending: set[str] = set()

    def apply_new(self) -> None:
        """Apply what is new, at once; what failed is done again the next time."""
        self._pending.update(self._revocations.read_changes())
        for user in list(self._pending):
            proxy = f"{PROXY_PREFIX}{user}"
            self._passes.remove_where(self._is_revoked)
            self._api_keys.remove_where(self._is_revoked)
            # Requests go first: the proxy that ends next still tells the desktops so.
            ended = self._in_flight.abort_inactive(proxy, self._check)
            self._proxies.revoke(proxy)
            self._log.info(
                "the user of {proxy} is revoked: {ended} connections end", proxy=proxy, ended=ended
            )
            self._pending.discard(user)

    def _is_revoked(self, each: Authentication | AccessGrant) -> bool:
        return self._revocations.is_revoked(each.user, each.auth_time)
