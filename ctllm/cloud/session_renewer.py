"""Renews sessions. A session that an OpenID provider authenticated needs the provider's consent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ctllm.cloud.identity import (
    SERVE,
    AccessGrant,
    Authentication,
    ClientType,
    ProviderProof,
    Session,
    Sessions,
    User,
    session_id_of,
)
from ctllm.errors import (
    CtllmError,
    Forbidden,
    GroupNotAllowed,
    ProviderTokenRequired,
    Unauthorized,
)
from ctllm.reactor.deferred_tools import Waiters

#: Seconds before a proof expires from which a browser's renewal asks the provider for the next.
RENEW_PROOF_BEFORE = 60.0
#: Seconds after which a provider that did not answer is asked again.
ASK_AGAIN_AFTER = 60.0


class UserAccess(Protocol):
    """Whether users have access. Implemented by AccessEnforcer."""

    def check_user(self, user: User, auth_time: float) -> None:
        """Raise Unauthorized or UserDisabled if an authentication of `user` gives no access."""

    def end_access(self, user: User) -> None:
        """End whatever `user` has here now, at once."""


class ProviderTokenVerifier(Protocol):
    """Verifies tokens of OpenID providers."""

    async def verify(self, token: str) -> AccessGrant:
        """Return what `token` grants; raises Unauthorized or GroupNotAllowed."""


@dataclass(frozen=True, slots=True)
class RenewedConsent:
    """What a provider answered: a grant as of a fresh provider token, and the next refresh token.

    `sealed_refresh` is encrypted as in ProviderProof; `ask_at` is that of it.
    """

    grant: AccessGrant
    sealed_refresh: str = field(repr=False)
    ask_at: float = 0.0


class ProviderRenewal(Protocol):
    """Renews, at the OpenID provider, the consent for a browser's session."""

    async def renew(self, session: Session) -> RenewedConsent:
        """Use the refresh token in `session.proof`, once.

        Raises Unauthorized once the provider does not accept it any more, GroupNotAllowed if the
        user may not sign in any more, and another CtllmError while the provider cannot be asked.
        """

    async def revoke(self, session: Session) -> None:
        """Revoke the refresh token in `session.proof`; raises CtllmError."""


class SessionRenewer:
    """Renews sessions, and verifies the provider tokens that begin them.

    `verifier` and `provider_renewal` are None in a cloud without OpenID providers. `now` returns
    epoch seconds. `record_consent` is called for a user of whom a provider says that the user may
    sign in.
    """

    _log = Logger()

    def __init__(
        self,
        sessions: Sessions,
        access: UserAccess,
        verifier: ProviderTokenVerifier | None,
        provider_renewal: ProviderRenewal | None,
        now: Callable[[], float],
        record_consent: Callable[[User], None] = lambda user: None,
    ) -> None:
        self._sessions = sessions
        self._access = access
        self._verifier = verifier
        self._provider_renewal = provider_renewal
        self._now = now
        self._record_consent = record_consent
        self._asking: dict[str, Waiters[None]] = {}  # by the id of a session: one renewal for all

    async def verify_desktop(self, provider_token: str) -> tuple[Authentication, ProviderProof]:
        """Return what a provider token authenticates for a desktop.

        Raises Unauthorized, GroupNotAllowed, or Forbidden for a token of another program: that may
        use models, and must not become a desktop.
        """
        grant = await self._verify(provider_token)
        if SERVE not in grant.scopes:
            raise Forbidden(
                "This token of the provider was issued to another program, which may not connect "
                "a desktop. Run `ctllm login` on the desktop."
            )
        authentication = Authentication(grant.user, grant.auth_time, tier=grant.tier)
        return authentication, ProviderProof(grant.expires_at)

    async def renew(
        self, refresh_token: str, client: ClientType, provider_token: str | None = None
    ) -> Session:
        """Renew a session of a `client`, and return it.

        Raises ProviderTokenRequired if the session goes on but the provider must be asked first,
        and Unauthorized or Forbidden as for a request.
        """
        session = self._read(refresh_token, client)
        if session.proof is None:
            if provider_token is not None:
                raise Unauthorized("No provider authenticated this session. Log in again.")
            self._require_proof(self._sessions.parent_of(session))
        elif client == "browser":
            await self._renew_browser(refresh_token)
        elif provider_token is not None:
            await self._renew_desktop(refresh_token, session, provider_token)
        else:
            self._require_proof(session)
        # The provider may have taken its time: only what holds now counts.
        return self._sessions.renew(refresh_token, self._read(refresh_token, client))

    def close(self, refresh_token: str) -> Session | None:
        """End a session and return it, or None if there is none.

        It ends at its provider too, without waiting for that.
        """
        session = self._sessions.close(refresh_token)
        proof = session.proof if session else None
        if session and proof and proof.sealed_refresh and self._provider_renewal is not None:
            revoking = Deferred.fromCoroutine(self._provider_renewal.revoke(session))
            revoking.addErrback(self._revocation_failed)
        return session

    def _revocation_failed(self, failure: Failure) -> None:
        if isinstance(failure.value, CtllmError):
            self._log.info(
                "The provider has not revoked the refresh token of a session that ended: {error}",
                error=failure.getErrorMessage(),
            )
        else:
            self._log.failure("Revoking a session at its provider failed", failure)

    def _read(self, refresh_token: str, client: ClientType) -> Session:
        session = self._sessions.read(refresh_token)
        if session.client != client:
            raise Unauthorized(f"This session does not belong to a {client}. Log in again.")
        self._access.check_user(session.user, session.auth_time)
        return session

    def _require_proof(self, session: Session | None) -> None:
        """Raise ProviderTokenRequired if the proof of `session` has expired."""
        if session and session.proof and self._now() >= session.proof.expires_at:
            raise ProviderTokenRequired(
                "Your provider must confirm that you are still signed in there: the desktop sends "
                "a fresh token of the provider when it renews its session."
            )

    async def _verify(self, provider_token: str) -> AccessGrant:
        if self._verifier is None:
            raise Unauthorized("This cloud has no OpenID provider. Log in with an invite link.")
        return await self._verifier.verify(provider_token)

    # -- a desktop sends a token that it got from the provider

    async def _renew_desktop(
        self, refresh_token: str, session: Session, provider_token: str
    ) -> None:
        try:
            grant = await self._verify(provider_token)
        except GroupNotAllowed as refused:
            self._end_access_of(session.user, refused)
            self._sessions.close(refresh_token)
            raise
        self._store_consent(refresh_token, grant, "")

    # -- for a browser, the cloud asks the provider

    async def _renew_browser(self, refresh_token: str) -> None:
        """Ask the provider, one at a time for each session: a refresh token may be used once.

        It goes on if the client disconnects: the next refresh token must not be lost.
        """
        session_id = session_id_of(refresh_token)
        waiters = self._asking.get(session_id)
        if waiters is not None:
            return await waiters.wait()
        waiters = self._asking[session_id] = Waiters()
        answer = waiters.wait()
        asking = Deferred.fromCoroutine(self._ask_provider(refresh_token))
        asking.addBoth(partial(self._provider_answered, session_id))
        await answer

    def _provider_answered(self, session_id: str, result: Failure | None) -> None:
        waiters = self._asking.pop(session_id)
        if not isinstance(result, Failure):
            waiters.succeed(None)
        elif isinstance(result.value, Exception) and waiters:
            waiters.fail(result.value)
        elif not isinstance(result.value, CtllmError):
            self._log.failure("Renewing a session at its provider failed", result)

    async def _ask_provider(self, refresh_token: str) -> None:
        session = self._sessions.read(refresh_token)  # as the renewal before this one left it
        proof = session.proof
        if proof is None or self._now() < _ask_at(proof):
            return
        if self._provider_renewal is None:
            self._require_proof(session)
            return
        try:
            renewed = await self._provider_renewal.renew(session)
        except GroupNotAllowed as refused:
            self._end_access_of(session.user, refused)
            self._sessions.close(refresh_token)
            raise
        except Unauthorized:
            self._sessions.close(refresh_token)  # the provider has ended it
            raise
        except CtllmError:
            if self._now() >= proof.expires_at:
                raise
            # What the provider said last still holds.
            ask_at = min(self._now() + ASK_AGAIN_AFTER, proof.expires_at)
            later = replace(session, proof=replace(proof, ask_at=ask_at))
            self._sessions.renew(refresh_token, later)
            return
        self._store_consent(refresh_token, renewed.grant, renewed.sealed_refresh, renewed.ask_at)

    # -- what the provider says

    def _store_consent(
        self, refresh_token: str, grant: AccessGrant, sealed_refresh: str, ask_at: float = 0.0
    ) -> None:
        """Store what a fresh provider token says; raises Unauthorized for that of another user.

        A token that is older than the last one says nothing new: who presents it again does not
        get back a group that the user has lost.
        """
        session = self._sessions.read(refresh_token)
        if session.proof is None or session.user.id != grant.user.id:
            raise Unauthorized("The provider token belongs to another user. Log in again.")
        self._access.check_user(session.user, session.auth_time)
        proof = replace(session.proof, sealed_refresh=sealed_refresh, ask_at=ask_at)
        if grant.expires_at >= proof.expires_at:
            proof = replace(proof, expires_at=grant.expires_at)
            session = replace(session, user=grant.user, tier=grant.tier)
            self._record_consent(session.user)
        self._sessions.renew(refresh_token, replace(session, proof=proof))

    def _end_access_of(self, user: User, refused: GroupNotAllowed) -> None:
        """End the user's access everywhere, if it is this user whom the provider refuses."""
        if not isinstance(refused.user, User) or refused.user.id != user.id:
            raise Unauthorized("The provider token belongs to another user. Log in again.")
        self._access.end_access(user)


def _ask_at(proof: ProviderProof) -> float:
    """Return from when a browser's renewal asks the provider."""
    return proof.ask_at or proof.expires_at - RENEW_PROOF_BEFORE
