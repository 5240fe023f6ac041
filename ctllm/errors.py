"""The errors of ctllm: each has a code, an HTTP status and a message for people.

The code is part of tunnel frames and of JSON responses, so it never changes once released. The
message says what is wrong, where, and what to do.
"""

from __future__ import annotations

from typing import ClassVar

#: The statuses below 500 after which the same request may succeed later.
_TRANSIENT = frozenset((408, 409, 425, 429, 499))


class CtllmError(Exception):
    """The base class. `code` is for programs, `status` is of HTTP, `retry_after` in seconds."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    retry_after: int | None = None

    def __init__(self, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        if retry_after is not None:
            self.retry_after = retry_after

    @property
    def is_permanent(self) -> bool:
        """Whether the same request will be refused again."""
        return 400 <= self.status < 500 and self.status not in _TRANSIENT


class BadConfiguration(CtllmError):
    """The configuration has an invalid key or value, so the process does not start."""

    code = "bad_configuration"


class BadRequest(CtllmError):
    """The request is invalid."""

    code = "bad_request"
    status = 400


class Unauthorized(CtllmError):
    """The request has no valid credentials.

    `challenge_error` is the error of the challenge in the response (RFC 6750, section 3.1), or
    empty if no token was sent.
    """

    code = "unauthenticated"
    status = 401
    challenge_error: str = ""


class NoCredentials(Unauthorized):
    """The request has no credentials at all, so nobody attempted anything."""


class UserChanged(Unauthorized):
    """The session was another user's, who is not logged in on this desktop any more."""

    code = "user_changed"


class ProviderTokenRequired(Unauthorized):
    """The session goes on, but its renewal needs a fresh token of the user's OpenID provider."""

    code = "provider_token_required"


class SignInRequired(Unauthorized):
    """A person has to sign in at `signin_url`, which `ollama` opens, and approve the client."""

    code = "sign_in_required"

    def __init__(self, message: str, *, signin_url: str = "") -> None:
        super().__init__(message)
        self.signin_url = signin_url


class Forbidden(CtllmError):
    """The credentials do not allow the request."""

    code = "forbidden"
    status = 403


class UserDisabled(Forbidden):
    """An administrator has disabled `user`; signing in again does not help."""

    code = "user_disabled"

    def __init__(self, message: str, *, user: object = None) -> None:
        super().__init__(message)
        self.user = user


class GroupNotAllowed(Forbidden):
    """The user's OpenID provider names no group that may sign in. `user` is who was refused."""

    code = "group_not_allowed"

    def __init__(self, message: str, *, user: object = None) -> None:
        super().__init__(message)
        self.user = user


class NotFound(CtllmError):
    """There is no such resource, or not for this user."""

    code = "not_found"
    status = 404


class MethodNotAllowed(CtllmError):
    """The resource does not support the method. `allow` is the Allow header's value."""

    code = "method_not_allowed"
    status = 405

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class NotRunning(CtllmError):
    """The daemon is not running."""

    code = "not_running"
    status = 503


class Conflict(CtllmError):
    """The request does not fit the present state of what it concerns."""

    code = "conflict"
    status = 409


class NoWindow(CtllmError):
    """The page is in a browser, and has no window that ctllm could hide."""

    code = "no_window"
    status = 409


class Gone(CtllmError):
    """The resource existed, and is not stored any more."""

    code = "gone"
    status = 410


class PreconditionFailed(CtllmError):
    """The resource has changed since the version that the request is based on.

    `revision` is the present one; None if the resource does not exist.
    """

    code = "precondition_failed"
    status = 412

    def __init__(self, message: str, *, revision: int | None = None) -> None:
        super().__init__(message)
        self.revision = revision


class PreconditionRequired(CtllmError):
    """The request must say which version of the resource it is based on."""

    code = "precondition_required"
    status = 428


class ContentTooLarge(CtllmError):
    """The request body exceeds a limit of size."""

    code = "too_large"
    status = 413


class RequestTimeout(CtllmError):
    """A part of the request did not arrive in time."""

    code = "too_slow"
    status = 408


class RangeNotSatisfiable(CtllmError):
    """An offset is beyond the end of what there is."""

    code = "range_not_satisfiable"
    status = 416


class UnsupportedMediaType(CtllmError):
    """The request body has an unsupported media type."""

    code = "unsupported_media_type"
    status = 415


class UpgradeRequired(CtllmError):
    """The request is for an upgrade to a protocol that is not supported."""

    code = "upgrade_required"
    status = 426


class RequestHeaderFieldsTooLarge(CtllmError):
    """The request line and headers exceed a limit of size or number."""

    code = "head_too_large"
    status = 431


class ClientDisconnected(CtllmError):
    """The client disconnected before the response was complete."""

    code = "cancelled"
    status = 499


class TooManyRequests(CtllmError):
    """One user has reached a limit; other users are served."""

    code = "too_many_requests"
    status = 429
    retry_after = 10


class RateLimited(TooManyRequests):
    """A user, key or address has done too much in a minute. After `retry_after` it may go on."""

    code = "rate_limit_exceeded"


class BadGateway(CtllmError):
    """The upstream (Ollama, a proxy) broke off, or its response is invalid."""

    code = "upstream_failed"
    status = 502


class DesktopLost(CtllmError):
    """The desktop disconnected during the request, and did not reconnect in time."""

    code = "desktop_lost"
    status = 502


class DesktopOffline(CtllmError):
    """No desktop of this user is connected."""

    code = "desktop_offline"
    status = 503
    retry_after = 5


class OllamaDown(CtllmError):
    """The desktop is connected, but cannot reach its Ollama."""

    code = "ollama_down"
    status = 503
    retry_after = 5


class ProxyUnavailable(CtllmError):
    """The user's streaming proxy cannot be started or reached."""

    code = "proxy_unavailable"
    status = 503
    retry_after = 5


class ServiceUnavailable(CtllmError):
    """A limit is reached; requests in progress continue."""

    code = "overloaded"
    status = 503
    retry_after = 10


class SecretStoreUnavailable(CtllmError):
    """The keyring or file with this desktop's tokens is locked, absent or cannot be written."""

    code = "secret_store_unavailable"
    status = 503


class InsufficientStorage(CtllmError):
    """The disk is full, or a limit of what may be stored is reached. Nothing was changed."""

    code = "insufficient_storage"
    status = 507


class ConversationDamaged(CtllmError):
    """The file of a conversation was changed or is incomplete; it was left where it is."""

    code = "conversation_damaged"
    status = 500


class ProtocolViolation(CtllmError):
    """The peer broke the tunnel's protocol, so its connection is closed."""

    code = "protocol_violation"
    status = 502


def _errors_by_code(base: type[CtllmError]) -> dict[str, type[CtllmError]]:
    found: dict[str, type[CtllmError]] = {}
    for subclass in base.__subclasses__():
        found.update(_errors_by_code(subclass))
    return {**found, base.code: base}


_BY_CODE = _errors_by_code(CtllmError)


def error_from_wire(code: str, message: str) -> CtllmError:
    """Make the error with `code`, as a peer sent it; BadGateway for an unknown code.

    A code that needs more than a message (405) is never sent in a tunnel, and counts as unknown.
    """
    kind = _BY_CODE.get(code, BadGateway)
    return BadGateway(message) if kind is MethodNotAllowed else kind(message)
