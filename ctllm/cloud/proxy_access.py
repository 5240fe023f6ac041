"""Access to users' streaming proxies: started if needed, with a session assertion."""

from __future__ import annotations

from collections.abc import Callable

from ctllm.cloud.identity import SERVE, AccessGrant, AssertionSigner
from ctllm.cloud.limits.users import UserLimits
from ctllm.cloud.proxies.manager import ProxyManager
from ctllm.http.client.connection_pool import ConnectionPool


class ProxyAccess:
    """Starts the proxy of a user, and signs what it accepts.

    `proxy_id_of` returns the id of a user's proxy. `check_active` raises Unauthorized for a grant
    that has ended.
    """

    def __init__(
        self,
        proxies: ProxyManager,
        assertion_signer: AssertionSigner,
        proxy_id_of: Callable[[AccessGrant], str],
        user_limits: UserLimits,
        check_active: Callable[[AccessGrant], None],
    ) -> None:
        self._proxies = proxies
        self._assertion_signer = assertion_signer
        self._user_limits = user_limits
        self._check_active = check_active
        self.proxy_id_of = proxy_id_of

    async def connect(
        self, grant: AccessGrant, is_new_request: bool, timeout: float
    ) -> ConnectionPool:
        """Return connections to the user's proxy, started if needed; raises CtllmError.

        The client waits for the response for `timeout` seconds.
        """
        limits = self._user_limits.tiers.limits_of(grant)
        try:
            return await self._proxies.ensure_running(
                self.proxy_id_of(grant),
                is_new_request,
                limits.spawner,
                timeout,
            )
        finally:  # the user may have been revoked in the meantime
            self._check_active(grant)

    def direct_address(self, grant: AccessGrant) -> str:
        """Return the address at which a reverse proxy may reach the user's proxy, or nothing."""
        return self._proxies.direct_address(self.proxy_id_of(grant))

    def sign(self, grant: AccessGrant, scopes: frozenset[str], is_direct: bool = False) -> bytes:
        """Return a session assertion with `scopes` for the user's proxy.

        With `is_direct` the proxy limits the requests in progress, which the cloud cannot count.
        """
        limits = self._user_limits.tiers.limits_of(grant)
        return self._assertion_signer.sign(
            self.proxy_id_of(grant),
            scopes,
            grant.models,
            limits.max_desktops if SERVE in scopes else 0,
            self._user_limits.max_requests(grant) if is_direct else 0,
        ).encode()
