"""One connection of the bridge to the cloud."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ctllm.common.sanitize import MAX_LOGGED_CHARS, sanitize_line
from ctllm.desktop.credential_file import Login
from ctllm.errors import (
    BadGateway,
    CtllmError,
    GroupNotAllowed,
    Unauthorized,
    UserDisabled,
)
from ctllm.reactor.interfaces import Clock, Endpoint
from ctllm.tunnel.responder import Responder
from ctllm.tunnel.websocket.factories import BridgeWebSocketFactory
from ctllm.tunnel.websocket.protocols import BridgeWebSocket

#: What autobahn's reason for a failed handshake has where the cloud rejected the token.
_REJECTED = re.compile(r"\[40[13]\]")


class TokenProvider(Protocol):
    """What the bridge needs of a `CloudSession`."""

    @property
    def login(self) -> Login:
        """The current login; raises Unauthorized without one."""

    async def access_token(self) -> str:
        """Return an access token; raises CtllmError."""

    def discard_tokens(self) -> None:
        """Forget the access token: the cloud rejected it."""

    def credentials_version(self) -> int:
        """Return a number that changes with the credentials."""


class ConnectionEvents(Protocol):
    """What a connection reports: `opened` and later `failed`, or one of the others alone."""

    def opened(self) -> None:
        """The WebSocket handshake succeeded."""

    def failed(self, error: CtllmError) -> None:
        """The attempt failed, or the connection was closed."""

    def unauthorized(self, error: CtllmError) -> None:
        """There is no login, or the cloud rejected it or its user."""


class BridgeConnection:
    """A connection, from the request for an access token to its close."""

    _log = Logger()

    def __init__(
        self,
        tunnel: Responder,
        session: TokenProvider,
        clock: Clock,
        ping: tuple[float, float],
        endpoint_for: Callable[[str], Endpoint],
        events: ConnectionEvents,
    ) -> None:
        self.started_at = clock.seconds()
        self.credentials_version = 0
        self.login: Login | None = None
        self.is_open = False
        self.bye_message = ""  # the reason in the proxy's BYE
        self._tunnel = tunnel
        self._session = session
        self._clock = clock
        self._ping = ping
        self._endpoint_for = endpoint_for
        self._events = events
        self._attempt: Deferred[None] | None = None
        self._socket: BridgeWebSocket | None = None
        self._is_cancelled = False

    def connect(self) -> None:
        """Start to connect."""
        self._attempt = Deferred.fromCoroutine(self._connect())
        self._attempt.addErrback(self._attempt_failed)

    def cancel(self) -> None:
        """Give up an attempt; nothing more is reported."""
        self._is_cancelled = True
        if self._attempt is not None:
            self._attempt.cancel()
        if self._socket is not None and self._socket.transport is not None:
            self._socket.transport.abortConnection()

    def abort(self) -> None:
        """Close an open connection at once."""
        assert self._socket is not None
        self._socket.transport.abortConnection()

    def close(self) -> None:
        """Send what the tunnel has to send, then close an open connection."""
        assert self._socket is not None
        self._socket.close_gracefully(self._tunnel.next_message())

    @property
    def peer_host(self) -> str:
        """The IP address at the other end, or an empty string."""
        if self._socket is None or not self.is_open:
            return ""
        return str(getattr(self._socket.transport.getPeer(), "host", ""))

    @property
    def bytes_transferred(self) -> tuple[int, int]:
        """The bytes sent and received since the connection is open."""
        if self._socket is None or not self.is_open:
            return 0, 0
        return self._socket.bytes_sent, self._socket.bytes_received

    async def _connect(self) -> None:
        self.credentials_version = self._session.credentials_version()
        self.login = self._session.login
        url = self.login.cloud_url
        token = await self._session.access_token()
        if self._session.login != self.login:  # the token may be that of the next one
            raise BadGateway("The login has changed meanwhile.")
        factory = BridgeWebSocketFactory(
            "ws" + url.removeprefix("http") + "/ws/tunnel",
            {"Authorization": f"Bearer {token}"},
            self._clock,
            self._build_socket,
            *self._ping,
        )
        try:
            await self._endpoint_for(url).connect(factory)
        except CancelledError:
            raise
        except Exception as error:
            # Any error of the network: refused, no such name, bad certificate.
            raise BadGateway(f"Cannot connect to {url}: {error}") from error

    def _attempt_failed(self, reason: Failure) -> None:
        if self._is_cancelled:
            return  # a library may have made another error of the cancellation
        error = reason.value
        if isinstance(error, Unauthorized | UserDisabled | GroupNotAllowed):
            self._events.unauthorized(error)
        elif isinstance(error, CtllmError):
            self._events.failed(error)
        else:
            # A defect must not end the attempts: nobody may be there to restart the desktop.
            self._log.failure("Connecting to the cloud failed with an internal error", reason)
            self._events.failed(CtllmError(f"Internal error: {error}"))

    def _build_socket(self) -> BridgeWebSocket:
        self._socket = BridgeWebSocket(self._clock, self._tunnel, self._opened, self._closed)
        return self._socket

    def _opened(self, socket: BridgeWebSocket) -> None:
        self.is_open = True
        self._events.opened()

    def _closed(self, code: int | None, reason: str, retry_after: int | None) -> None:
        if self._is_cancelled:
            return
        assert self.login is not None
        if not self.is_open and _REJECTED.search(reason):
            self._session.discard_tokens()
        # The reason comes from the cloud, or from whatever server answers in its place.
        reason = (
            self.bye_message
            or sanitize_line(reason, MAX_LOGGED_CHARS)
            or f"closed with code {code}"
        )
        what = "Lost the connection to" if self.is_open else "Cannot connect to"
        self._events.failed(
            BadGateway(f"{what} {self.login.cloud_url}: {reason}", retry_after=retry_after)
        )
