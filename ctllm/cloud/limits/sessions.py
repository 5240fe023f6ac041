"""Limits the use of the endpoints with which people sign in and renew their sessions."""

from __future__ import annotations

from collections.abc import Callable

from ctllm.cloud.identity import User
from ctllm.cloud.limits.guard import CredentialGuard
from ctllm.cloud.limits.users import UserLimits
from ctllm.http.server.request import ServerRequest


class SessionLimits:
    """What the session API may do for a client. `user_key` names a user in limits, by the id."""

    def __init__(
        self, guard: CredentialGuard, user_limits: UserLimits, user_key: Callable[[str], str]
    ) -> None:
        self._guard = guard
        self._user_limits = user_limits
        self._user_key = user_key

    def admit_token(self, request: ServerRequest, token: str) -> None:
        """Raise RateLimited for a provider token that shall not be verified now."""
        self._guard.admit(request, token)

    def admit_credential(self, user: User) -> None:
        """Count a new session, API key or pairing code of `user`; raises RateLimited."""
        self._user_limits.admit_credential(self._user_key(user.id))

    def admit_renewal(self, user: User) -> None:
        """Count the renewal of a session of `user`; raises RateLimited."""
        self._user_limits.admit_renewal(self._user_key(user.id))
