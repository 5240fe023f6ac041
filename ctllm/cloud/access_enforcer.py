"""Ends access before it expires, within a second of whatever ends it.

Sessions are closed, and users revoked and disabled, by this process and by commands that change
files. All of it makes `check_active` fail, which is called for each request. The enforcer polls for
changes and aborts the requests and tunnels in progress for which it fails since.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from twisted.logger import Logger

from ctllm.cloud.active_requests import ActiveRequests
from ctllm.cloud.identity import (
    ISSUER,
    PROXY_PREFIX,
    AccessGrant,
    ApiKeyLeases,
    Authentication,
    DisabledUsers,
    KnownUsers,
    LoginCodes,
    Revocations,
    Session,
    Sessions,
    User,
    user_hash,
)
from ctllm.cloud.identity.machines import CREDENTIAL_PREFIX
from ctllm.errors import CtllmError, Unauthorized

TUNNEL_GRACE = 600.0
"""Seconds for which a tunnel stays open after its session should have been renewed."""

TUNNEL_POLL_INTERVAL = 5.0
"""Seconds between two polls for such tunnels."""


@dataclass(frozen=True, slots=True)
class MachineConfirmation:
    """Refuses machines of a provider's user whom the provider has not confirmed for `seconds`.

    Nothing renews a machine, as sessions are renewed: without this it would outlive the removal of
    its user from the provider. `now` returns epoch seconds.
    """

    known_users: KnownUsers
    now: Callable[[], float]
    seconds: float

    def check(self, grant: AccessGrant) -> None:
        """Raise Unauthorized for the grant of a machine whose user has to sign in again."""
        is_machine = grant.credential_id.startswith(CREDENTIAL_PREFIX)
        if not is_machine or grant.user.issuer == ISSUER:
            return
        confirmed = max(grant.auth_time, self.known_users.confirmed_at(grant.user.id))
        if self.now() >= confirmed + self.seconds:
            raise Unauthorized(
                "Your provider has not confirmed for a long time that you may sign in here. Sign "
                "in on the page, and approve this machine again."
            )


@dataclass(frozen=True, slots=True)
class AccessRules:
    """What decides whether access goes on: the stores of sessions, revocations, disabled users.

    `credential_checks` raise Unauthorized for a grant of an API key or machine that was removed.
    """

    revocations: Revocations
    disabled_users: DisabledUsers
    sessions: Sessions
    credential_checks: tuple[Callable[[AccessGrant], None], ...] = ()

    def check_user(self, user: User, auth_time: float) -> None:
        """Raise UserDisabled or Unauthorized if an authentication of `user` gives no access.

        `auth_time` is that of the authentication.
        """
        self.disabled_users.check(user)
        self.revocations.check(user, auth_time)

    def check_active(self, grant: AccessGrant) -> None:
        """Raise UserDisabled or Unauthorized if `grant` is no longer active."""
        self.check_user(grant.user, grant.auth_time)
        self.sessions.check_active(grant.session_ids)
        for check in self.credential_checks:
            check(grant)

    def is_void(self, session: Session) -> bool:
        """Whether a session can never be renewed again, because of a revocation."""
        return self.revocations.is_revoked(session.user, session.auth_time)

    def has_ended(self, issued: Authentication | AccessGrant) -> bool:
        """Whether an authentication, or a grant, gives no access any more."""
        try:
            self.check_user(issued.user, issued.auth_time)
            self.sessions.check_active(_session_ids_of(issued))
        except CtllmError:
            return True
        return False


class AccessEnforcer:
    """Ends the login codes, API keys, requests, tunnels and proxies that lose access.

    `revoke_proxy` stops the proxy of a user, by its id. `instance_secret` is the key of the hashes
    of users. `now` returns epoch seconds. A tunnel ends when the last access token of its session,
    which is valid for `token_seconds`, expired `tunnel_grace` seconds ago: a desktop renews its
    session, and a hostile one must not avoid that.
    """

    _log = Logger()

    def __init__(
        self,
        rules: AccessRules,
        active_requests: ActiveRequests,
        login_codes: LoginCodes,
        api_key_leases: ApiKeyLeases,
        revoke_proxy: Callable[[str], None],
        instance_secret: bytes,
        now: Callable[[], float],
        token_seconds: float,
        *,
        tunnel_grace: float = TUNNEL_GRACE,
    ) -> None:
        self._rules = rules
        self._active_requests = active_requests
        self._login_codes = login_codes
        self._api_key_leases = api_key_leases
        self._revoke_proxy = revoke_proxy
        self._instance_secret = instance_secret
        self._now = now
        self._token_seconds = token_seconds
        self._tunnel_grace = tunnel_grace
        self._pending: set[str] = set()
        self.check_user = rules.check_user

    def poll(self) -> None:
        """Enforce all that has ended since the last call. What fails is tried again by the next."""
        self.apply_new()
        self._apply_ended_sessions()
        self._active_requests.abort_of_credentials(self._rules.check_active)

    def end_unrenewed_tunnels(self) -> None:
        """End the tunnels whose desktops do not renew their sessions."""
        self._active_requests.abort_tunnels(self._check_renewed)

    def apply_new(self) -> None:
        """Enforce the revocations and disabled users that are new."""
        self._pending.update(self._rules.revocations.read_changes())
        self._pending.update(self._rules.disabled_users.read_changes())
        for hash_of_user in list(self._pending):
            self._apply_to_user(hash_of_user)
            self._pending.discard(hash_of_user)

    def end_access(self, user: User) -> None:
        """End whatever `user` has here now, at once. It ends even if that cannot be stored."""
        self._pending.add(user_hash(self._instance_secret, user.id))
        try:
            self._rules.revocations.revoke(user)
        finally:
            self.apply_new()

    def _apply_to_user(self, hash_of_user: str) -> None:
        proxy_id = f"{PROXY_PREFIX}{hash_of_user}"
        self._remove_ended()
        # Before the proxy ends, it still sends the cancelled streams to the desktops.
        aborted = self._active_requests.abort_of_proxy(proxy_id, self._rules.check_active)
        self._revoke_proxy(proxy_id)
        self._log.info(
            "The access of the user of {proxy} has ended: {aborted} requests and tunnels were "
            "aborted.",
            proxy=proxy_id,
            aborted=aborted,
        )

    def _apply_ended_sessions(self) -> None:
        ended = self._rules.sessions.find_ended(self._active_requests.session_ids)
        for session_id in ended:
            aborted = self._active_requests.abort_of_session(session_id, self._rules.check_active)
            self._log.info(
                "A session has ended: {aborted} requests and tunnels were aborted.", aborted=aborted
            )
        if ended:
            self._remove_ended()

    def _remove_ended(self) -> None:
        self._login_codes.remove_where(self._rules.has_ended)
        self._api_key_leases.remove_where(self._rules.has_ended)

    def _check_renewed(self, grant: AccessGrant) -> None:
        """Raise Unauthorized if the session of a tunnel should have been renewed long ago."""
        valid_until = grant.expires_at
        if grant.session_ids:
            renewed = self._rules.sessions.last_renewal(grant.session_ids[0])
            valid_until = max(valid_until, renewed + self._token_seconds)
        if self._now() >= valid_until + self._tunnel_grace:
            raise Unauthorized("The session of this desktop was not renewed. Log in again.")


def _session_ids_of(issued: Authentication | AccessGrant) -> tuple[str, ...]:
    if isinstance(issued, AccessGrant):
        return issued.session_ids
    return (issued.parent_session_id,) if issued.parent_session_id else ()
