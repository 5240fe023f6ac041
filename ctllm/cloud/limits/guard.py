"""Guards the verification of credentials: limits failed attempts, and records what is refused."""

from __future__ import annotations

from collections.abc import Callable

from ctllm.auth.api_keys import PREFIX
from ctllm.cloud.audit import AuditLog, IdentityEvent
from ctllm.cloud.identity import PROXY_PREFIX, AccessGrant, User
from ctllm.cloud.limits.attempts import KNOWN_FOR, AttemptLimiter, is_costly
from ctllm.cloud.metrics import Metrics
from ctllm.errors import (
    CtllmError,
    Forbidden,
    GroupNotAllowed,
    NoCredentials,
    ProviderTokenRequired,
    RateLimited,
    SignInRequired,
    TooManyRequests,
    Unauthorized,
    UserDisabled,
)
from ctllm.http.credentials import presented_signature, presented_tokens
from ctllm.http.message.head import RequestHead
from ctllm.http.server.request import ServerRequest

#: Errors of clients that have done nothing wrong: they did not sign in yet, or begin to.
_INVITATIONS = (NoCredentials, ProviderTokenRequired, SignInRequired)
#: Errors of credentials that were presented and are not good.
_FAILURES = (Unauthorized, GroupNotAllowed, UserDisabled)
_SESSION_PATH, _RENEWAL_PATH = b"/ctllm/session", b"/ctllm/session/token"


class CredentialGuard:
    """Limits the failed attempts of each address; audits and counts refused requests.

    `now` returns epoch seconds.
    """

    def __init__(
        self,
        attempts: AttemptLimiter,
        audit: AuditLog,
        metrics: Metrics,
        now: Callable[[], float],
    ) -> None:
        self._attempts = attempts
        self._audit = audit
        self._metrics = metrics
        self._now = now

    def admit(self, request: ServerRequest, credential: str) -> None:
        """Raise RateLimited for a credential whose check costs too much after many failures."""
        self._attempts.admit(request.client_address, credential, is_login=_is_login(request.head))

    def accept(self, request: ServerRequest, credential: str, grant: AccessGrant) -> None:
        """Record that `request` was authenticated with `credential`."""
        # A token expires with its grant. A key of a machine gets new grants.
        lifetime = grant.expires_at - self._now() if is_costly(credential) else KNOWN_FOR
        self._attempts.succeeded(credential, lifetime)
        if grant.credential_id:
            self._audit.record_identity(
                "key.used",
                grant.user.id,
                address=request.client_address,
                credential=grant.credential_id,
            )

    def refuse(
        self, request: ServerRequest, grant: AccessGrant | None, error: CtllmError
    ) -> CtllmError:
        """Record that `request` is refused with `error`, and return the error to respond with.

        `grant` is that of the client, or None if it did not authenticate. Too many failed attempts
        become RateLimited.
        """
        if isinstance(error, _INVITATIONS) or not isinstance(
            error, Unauthorized | Forbidden | TooManyRequests
        ):
            return error
        if grant is None and isinstance(error, _FAILURES):
            error = self._count_failure(request, error)
        self._metrics.request_refused(error.code)
        self._record(request, grant, error)
        return error

    def record_refused_by_proxy(
        self, proxy_id: str, grant: AccessGrant | None, number: int
    ) -> None:
        """Record so many requests that a user's proxy refused, as too many were in progress.

        The address of the client is not known.
        """
        self._metrics.request_refused(TooManyRequests.code, number)
        self._audit.record_identity(
            "request.refused",
            user_hash=proxy_id.removeprefix(PROXY_PREFIX),
            credential="" if grant is None else grant.credential_id,
            reason=TooManyRequests.code,
            number=number,
        )

    def _count_failure(self, request: ServerRequest, error: CtllmError) -> CtllmError:
        self._metrics.authentication_failed()
        try:
            self._attempts.failed(
                request.client_address,
                is_login=_is_login(request.head),
                was_cheap=_was_cheap(request.head),
            )
        except RateLimited as limited:
            return limited
        return error

    def _record(self, request: ServerRequest, grant: AccessGrant | None, error: CtllmError) -> None:
        user = grant.user if grant is not None else getattr(error, "user", None)
        self._audit.record_identity(
            _event(request.head, grant),
            user.id if isinstance(user, User) else "",
            address=request.client_address,
            credential="" if grant is None else grant.credential_id,
            reason=error.code,
        )


def _is_login(head: RequestHead) -> bool:
    """Whether `head` begins a session, or asks about the invite that would begin one."""
    is_session = head.method == b"POST" and head.path.startswith(_SESSION_PATH)
    return is_session and head.path != _RENEWAL_PATH


def _was_cheap(head: RequestHead) -> bool:
    """Whether the refused credentials of `head` cost no cryptography."""
    is_sign_in = head.path.startswith(_SESSION_PATH)
    is_signed = bool(presented_signature(head)) or any(map(is_costly, presented_tokens(head)))
    return not is_sign_in and not is_signed


def _event(head: RequestHead, grant: AccessGrant | None) -> IdentityEvent:
    if grant is not None:
        return "request.refused"
    if (head.method, head.path) == (b"POST", _RENEWAL_PATH):
        return "session.renewal_refused"
    if head.path.startswith(_SESSION_PATH):
        return "login.refused"
    if any(token.startswith(PREFIX) for token in presented_tokens(head)):
        return "key.refused"
    return "request.refused"
