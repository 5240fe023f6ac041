"""How a sign-in with a provider may fail, as words for the page: it has a sentence for each."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from ctllm.errors import (
    BadRequest,
    CtllmError,
    Forbidden,
    GroupNotAllowed,
    RateLimited,
    Unauthorized,
    UserDisabled,
)


class LoginError(StrEnum):
    """Why nobody was signed in."""

    DENIED = "denied"
    EXPIRED = "expired"
    FAILED = "failed"
    NOT_ALLOWED = "not_allowed"
    DISABLED = "disabled"
    LIMITED = "limited"
    REVOKED = "revoked"
    UNAVAILABLE = "unavailable"
    UNKNOWN = "unknown"


class LoginFailed(Forbidden):
    """A sign-in failed. `outcome` is for the page, the message for the log: it has no secret."""

    def __init__(self, outcome: LoginError, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome


#: The errors of a callback (RFC 6749, section 4.1.2.1; OpenID Connect Core, section 3.1.2.6).
_CALLBACK_ERRORS: Mapping[str, LoginError] = {
    "access_denied": LoginError.DENIED,
    "consent_required": LoginError.DENIED,
    "interaction_required": LoginError.DENIED,
    "login_required": LoginError.DENIED,
    "server_error": LoginError.UNAVAILABLE,
    "temporarily_unavailable": LoginError.UNAVAILABLE,
}
#: What errors say, the first that matches first.
_OUTCOMES: tuple[tuple[type[CtllmError], LoginError], ...] = (
    (GroupNotAllowed, LoginError.NOT_ALLOWED),
    (UserDisabled, LoginError.DISABLED),
    (Unauthorized, LoginError.FAILED),
    (BadRequest, LoginError.FAILED),
    (RateLimited, LoginError.LIMITED),
    (CtllmError, LoginError.UNAVAILABLE),
)


def outcome_of(error: CtllmError) -> LoginError:
    """Return what the page says about `error`."""
    if isinstance(error, LoginFailed):
        return error.outcome
    return next(outcome for kind, outcome in _OUTCOMES if isinstance(error, kind))


def callback_error(word: str) -> LoginFailed:
    """Return the error for the parameter `error` of a callback."""
    outcome = _CALLBACK_ERRORS.get(word, LoginError.FAILED)
    return LoginFailed(outcome, "The provider has refused the sign-in.")
