"""One tree of errors: each has a wire code, an HTTP status and a sentence for people.

The wire code travels in tunnels and in JSON answers, so it never changes once released. The
message says what is wrong, where, and what to do about it.
"""

from __future__ import annotations

from typing import ClassVar

#: The statuses below 500 that time may mend: a slow body, a conflict, too early, too many, left.
_TRANSIENT = frozenset((408, 409, 425, 429, 499))


class CtllmError(Exception):
    """The root. `code` is for programs, `status` is HTTP's, `retry_after` is in seconds."""

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
        """Whether the same request would be refused again, however often it is sent."""
        return 400 <= self.status < 500 and self.status not in _TRANSIENT


class BadConfiguration(CtllmError):
    """A key or a value of the configuration cannot be used; the start stops."""

    code = "bad_configuration"


class BadRequest(CtllmError):
    """The request cannot be understood."""

    code = "bad_request"
    status = 400


class Unauthorized(CtllmError):
    """Nobody, or nobody that we can verify, is asking."""

    code = "unauthenticated"
    status = 401


class Forbidden(CtllmError):
    """We know who asks; this is not theirs to do."""

    code = "forbidden"
    status = 403


class NotFound(CtllmError):
    """There is no such thing, or not for this user."""

    code = "not_found"
    status = 404


class MethodNotAllowed(CtllmError):
    """The thing exists and does not do that. `allow` is the Allow header's value."""

    code = "method_not_allowed"
    status = 405

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class NotRunning(CtllmError):
    """No daemon answers where one is asked."""

    code = "not_running"
    status = 503


class NoWindow(CtllmError):
    """The page is in a browser, which is not ours to hide."""

    code = "no_window"
    status = 409


class Gone(CtllmError):
    """What was asked for existed and is not kept any more."""

    code = "gone"
    status = 410


class ContentTooLarge(CtllmError):
    """A body is larger than this place takes."""

    code = "too_large"
    status = 413


class RequestTimeout(CtllmError):
    """A body did not arrive within the time that this place gives it."""

    code = "too_slow"
    status = 408


class UnsupportedMediaType(CtllmError):
    """The body is of a kind that this place does not read."""

    code = "unsupported_media_type"
    status = 415


class UpgradeRequired(CtllmError):
    """The request is for another protocol than the one that this place speaks."""

    code = "upgrade_required"
    status = 426


class RequestHeaderFieldsTooLarge(CtllmError):
    """The request line and headers are larger than this place takes."""

    code = "head_too_large"
    status = 431


class ClientDisconnected(CtllmError):
    """The client left before the answer was whole."""

    code = "cancelled"
    status = 499


class TooManyRequests(CtllmError):
    """One user has as much under way as one user may; others are served."""

    code = "too_many_requests"
    status = 429
    retry_after = 10


class BadGateway(CtllmError):
    """Whatever we asked (Ollama, a proxy) broke off or made no sense."""

    code = "upstream_failed"
    status = 502


class DesktopLost(CtllmError):
    """The desktop had taken the request and did not come back in time."""

    code = "desktop_lost"
    status = 502


class DesktopOffline(CtllmError):
    """No desktop of this user is connected."""

    code = "desktop_offline"
    status = 503
    retry_after = 5


class OllamaDown(CtllmError):
    """The desktop is there; its Ollama is not."""

    code = "ollama_down"
    status = 503
    retry_after = 5


class ProxyUnavailable(CtllmError):
    """This user's streaming proxy cannot be started or reached now."""

    code = "proxy_unavailable"
    status = 503
    retry_after = 5


class ServiceUnavailable(CtllmError):
    """A limit is reached; what runs goes on."""

    code = "overloaded"
    status = 503
    retry_after = 10


class ProtocolViolation(CtllmError):
    """The other end of a tunnel broke its rules; it is told and dropped."""

    code = "protocol_violation"
    status = 502


def _tree(root: type[CtllmError]) -> dict[str, type[CtllmError]]:
    found = {root.code: root}
    for branch in root.__subclasses__():
        found.update(_tree(branch))
    return found


_BY_CODE = _tree(CtllmError)


def error_from_wire(code: str, message: str) -> CtllmError:
    """Make the error that a peer named by its wire `code`; an unknown code is an upstream failure.

    A code that needs more than a message (405) never travels in a tunnel and counts as unknown.
    """
    kind = _BY_CODE.get(code, BadGateway)
    return BadGateway(message) if kind is MethodNotAllowed else kind(message)
