"""What follows the refusal of a request: it is counted, and written to the audit log."""

from __future__ import annotations

from ctllm.auth.api_keys import PREFIX
from ctllm.cloud.audit import AuditLog, IdentityEvent
from ctllm.cloud.identity import AccessGrant
from ctllm.cloud.limits.attempts import AttemptLimiter
from ctllm.cloud.metrics import Metrics
from ctllm.errors import (
    CtllmError,
    Forbidden,
    NoCredentials,
    ProviderTokenRequired,
    RateLimited,
    SignInRequired,
    TooManyRequests,
    Unauthorized,
)
from ctllm.http.credentials import presented_tokens
from ctllm.http.message.head import RequestHead
from ctllm.http.server.request import ServerRequest

#: Errors of clients that have done nothing wrong: they did not sign in yet, or begin to.
_INVITATIONS = (NoCredentials, ProviderTokenRequired, SignInRequired)
_SESSION_PATH, _RENEWAL_PATH = b"/ctllm/session", b"/ctllm/session/token"


class Refusals:
    """Records refused requests, and counts failed attempts of their client's address."""

    def __init__(self, attempts: AttemptLimiter, audit: AuditLog, metrics: Metrics) -> None:
        self._attempts = attempts
        self._audit = audit
        self._metrics = metrics

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
        if grant is None and not isinstance(error, TooManyRequests):
            error = self._count_attempt(request, error)
        self._metrics.request_refused(error.code)
        self._record(request, grant, error)
        return error

    def _count_attempt(self, request: ServerRequest, error: CtllmError) -> CtllmError:
        if not _presents_credentials(request.head):
            return error
        self._metrics.authentication_failed()
        try:
            self._attempts.failed(request.client_address)
        except RateLimited as limited:
            return limited
        return error

    def _record(
        self, request: ServerRequest, grant: AccessGrant | None, error: CtllmError
    ) -> None:
        self._audit.record_identity(
            _event(request.head, grant),
            "" if grant is None else grant.user.id,
            address=request.client_address,
            credential="" if grant is None else grant.credential_id,
            reason=error.code,
        )


def _presents_credentials(head: RequestHead) -> bool:
    """Whether a refusal of `head` may be that of a credential, and not only of an origin."""
    return head.path.startswith(_SESSION_PATH) or bool(
        presented_tokens(head) or presented_signature(head)
    )


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
