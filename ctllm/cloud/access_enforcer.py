"""Ends access before it expires: makes revocations take effect in a running cloud."""

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
    User,
)
from ctllm.cloud.proxies.manager import ProxyManager


class AccessEnforcer:
    """Ends the login codes, API keys, requests, tunnels and proxy of a revoked user.

    `check_active` raises Unauthorized for a grant that is no longer active.
    """

    _log = Logger()

    def __init__(
        self,
        revocations: Revocations,
        check_active: Callable[[AccessGrant], None],
        active_requests: ActiveRequests,
        login_codes: LoginCodes,
        api_key_leases: ApiKeyLeases,
        proxies: ProxyManager,
    ) -> None:
        self._revocations = revocations
        self._check_active = check_active
        self._active_requests = active_requests
        self._login_codes = login_codes
        self._api_key_leases = api_key_leases
        self._proxies = proxies
        self._pending: set[str] = set()

    def apply_new(self) -> None:
        """Enforce the revocations that are new. One that fails is tried again by the next call."""
        self._pending.update(self._revocations.read_changes())
        for user_hash in list(self._pending):
            proxy_id = f"{PROXY_PREFIX}{user_hash}"
            self._login_codes.remove_where(self._is_revoked)
            self._api_key_leases.remove_where(self._is_revoked)
            # Before the proxy ends, it still sends the cancelled streams to the desktops.
            aborted = self._active_requests.abort_inactive(proxy_id, self._check_active)
            self._proxies.revoke(proxy_id)
            self._log.info(
                "The user of {proxy} was revoked: {aborted} requests and tunnels were aborted.",
                proxy=proxy_id,
                aborted=aborted,
            )
            self._pending.discard(user_hash)

    def check_user(self, user: User, auth_time: float) -> None:
        """Raise Unauthorized if an authentication of `user` at `auth_time` gives no access."""
        self._revocations.check(user, auth_time)

    def end_access(self, user: User) -> None:
        """End whatever `user` has here now, at once."""
        self._revocations.revoke(user)
        self.apply_new()

    def _is_revoked(self, issued: Authentication | AccessGrant) -> bool:
        return self._revocations.is_revoked(issued.user, issued.auth_time)
