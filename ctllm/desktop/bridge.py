"""The bridge: dials the cloud, carries the tunnel, and comes back when the connection is lost."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import urlsplit

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from ctllm.common.sanitize import MAX_LOGGED_CHARS, sanitize_line
from ctllm.desktop.cloud_endpoint import endpoint_for_url
from ctllm.desktop.proxy_environment import is_loopback
from ctllm.desktop.reconnect_backoff import reconnect_delay
from ctllm.errors import BadGateway, CtllmError, DesktopLost, Unauthorized
from ctllm.reactor.periodic import PeriodicCall
from ctllm.reactor.services import Service
from ctllm.tunnel.frames import Reason
from ctllm.tunnel.responder import Responder
from ctllm.tunnel.websocket.factories import BridgeWebSocketFactory
from ctllm.tunnel.websocket.protocols import BridgeWebSocket

#: Seconds between looks for a sign-in, while there is none.
LOGIN_POLL_INTERVAL = 0.5
#: Seconds after which a sign-in that the cloud refused is tried again, if it is still the same.
REJECTED_LOGIN_RETRY = 60.0
#: Seconds after which a connection worked, whatever was said at its end.
STABLE_AFTER = 30.0

#: How autobahn says that the cloud did not believe the token.
_REFUSED = re.compile(r"\[40[13]\]")


class TokenProvider(Protocol):
    """What the bridge needs of a `Session`."""

    @property
    def login(self) -> Any:
        """Where to dial; raises Unauthenticated."""

    async def access_token(self) -> str:
        """What to show there; raises CtllmError."""

    def discard_tokens(self) -> None:
        """Get another token next time."""

    def credentials_version(self) -> int:
        """Changes when somebody signs in or out."""


class Bridge(Service):
    """Keeps one tunnel up. `state` is for people: signed out, connecting, connected, or why not."""

    _log = Logger()

    def __init__(
        self, tunnel: Responder, session: TokenProvider, reactor: Any, ping: tuple[float, float]
    ) -> None:
        self._sent = self._heard = 0  # bytes, on connections that are over
        self.peer = ""  # the address of the cloud's host, once there was a connection
        self.state = "stopped"
        self.reason = ""
        self.on_state: Callable[[], None] = lambda: None
        self._tunnel = tunnel
        tunnel.add_established_observer(self._greeted)
        tunnel.add_bye_observer(self._dismissed)
        self._session = session
        self._reactor = reactor
        self._ping = ping
        self._worked = False
        self._bye = ""
        self._life: Deferred[None] | None = None
        self._socket: BridgeWebSocket | None = None
        self._farewell: Deferred[None] | None = None
        self._nap: Deferred[None] | None = None  # until the next attempt
        self._dialling: Deferred[Any] | None = None
        self._hurried = False
        self._plain = ""  # the address of which it was said that it is not encrypted
        self._signed_in: Any = None  # what the connection of now was made with
        self._tick = PeriodicCall(self._every_second, reactor, "looking after the tunnel")

    def startService(self) -> None:
        """Dial, for as long as the service runs."""
        super().startService()
        self._tick.start(1.0)
        self._life = Deferred.fromCoroutine(self._live())
        self._life.addErrback(self._died)

    def stopService(self) -> Deferred[None] | None:
        """Tell the clients that are being answered, and hang up; fires when that was sent."""
        super().stopService()
        self._tick.stop()
        if self._life is not None:
            self._life.cancel()
        self._tunnel.reset_all(DesktopLost("the desktop was stopped"))
        socket = self._socket
        if socket is None:
            return None
        self._farewell = Deferred()
        socket.close_gracefully(self._tunnel.next_message())
        return self._farewell

    @property
    def traffic(self) -> tuple[int, int, int]:
        """Exchanges under way, bytes sent and bytes received since the start."""
        sent, heard = self._sent, self._heard
        if self._socket is not None:
            sent, heard = sent + self._socket.bytes_sent, heard + self._socket.bytes_received
        return len(self._tunnel.streams), sent, heard

    def reconnect_now(self, why: str) -> None:
        """The network is another one, or time has jumped: what there was is worth nothing.

        Dial at once, whatever was being waited for. Answers under way go on over the new one.
        """
        self._log.info("bridge: dialling again, for {why}", why=why)
        self._hurried = True
        if self._nap is not None:
            nap, self._nap = self._nap, None
            nap.callback(None)
        elif self._dialling is not None:
            self._dialling.cancel()
        elif self._socket is not None:
            self._socket.transport.abortConnection()

    def _every_second(self) -> None:
        self._tunnel.remove_expired(self._reactor.seconds())
        if self._socket is not None and not self._still_signed_in():
            self._tunnel.reset_all(DesktopLost("the desktop was signed out"))
            self._socket.close_gracefully(self._tunnel.next_message())

    def _still_signed_in(self) -> bool:
        """Whether the connection is whose it should be: `ctllm logout` is another process."""
        try:
            return bool(self._session.login == self._signed_in)
        except Unauthorized:
            return False
        except CtllmError:
            return True  # a file that cannot be read just now signs nobody out

    def _died(self, reason: Any) -> None:
        if not isinstance(reason.value, CancelledError):
            self._log.failure("the bridge broke", reason)

    async def _live(self) -> None:
        failures = 0
        while True:
            began = self._reactor.seconds()
            self._worked, self._bye, self._hurried = False, "", False
            asked: int | None = None  # how long the cloud wants us to wait
            seen = self._session.credentials_version()
            try:
                await self._connection(self._session.login.cloud_url)
            except Unauthorized as error:
                # Nobody takes up what is under way: whoever signs in next may be somebody else.
                self._tunnel.fail_all(DesktopLost("the desktop was signed out"))
                self._become("signed out", error.message)
                await self._change_of_sign_in(seen)
                continue
            except CtllmError as error:
                asked = error.retry_after
                self._become("error", error.message)
            except CancelledError:
                raise
            except Exception as error:
                # A bug must not leave the desktop unreachable until somebody restarts it.
                self._log.failure("the bridge stumbled")
                self._become("error", f"something in ctllm broke: {error}")
            if not self.running:
                return  # being cancelled may have looked like any other failure
            # A network that cuts again and again must not be answered by staying away for longer
            # and longer. What was ended with a BYE may end in the same way at once.
            good = self._worked and (
                not self._bye or self._reactor.seconds() - began > STABLE_AFTER
            )
            failures = 0 if good else failures + 1
            if not self._hurried:
                awaited = bool(self._tunnel.streams)
                await self._wait(reconnect_delay(failures, random.random, awaited, asked))
            if self._hurried:  # before the wait or in it
                failures = 0

    async def _change_of_sign_in(self, seen: int) -> None:
        until = self._reactor.seconds() + REJECTED_LOGIN_RETRY
        while self._session.credentials_version() == seen and self._reactor.seconds() < until:
            await self._wait(LOGIN_POLL_INTERVAL)

    async def _wait(self, seconds: float) -> None:
        """Wait, unless it is `hurry` that comes first."""
        nap = self._nap = Deferred()
        timer = self._reactor.callLater(seconds, nap.callback, None)
        try:
            await nap
        finally:
            self._nap = None
            if timer.active():
                timer.cancel()

    async def _connection(self, url: str) -> None:
        """One connection, from dialling to its end; raises CtllmError with the reason."""
        self._become("connecting")
        self._signed_in = self._session.login
        token = await self._session.access_token()
        over: Deferred[tuple[bool, str, int | None]] = Deferred()
        sockets = BridgeWebSocketFactory(
            "ws" + url.removeprefix("http") + "/ws/tunnel",
            {"Authorization": f"Bearer {token}"},
            self._reactor,
            lambda: BridgeWebSocket(self._reactor, self._tunnel, self._opened, self._closed(over)),
            *self._ping,
        )
        try:
            self._dialling = endpoint_for_url(url, self._reactor).connect(sockets)
            await self._dialling
        except CancelledError:
            if not self._hurried:
                raise
            raise BadGateway("dialling began anew") from None
        except Exception as error:
            # Whatever the network says (refused, no such name, bad certificate), it is the reason.
            raise BadGateway(f"{url} cannot be reached: {error}") from error
        finally:
            self._dialling = None
        opened, why, later = await over
        if not opened and _REFUSED.search(why):
            self._session.discard_tokens()
        said = f"the connection to {url} ended: {self._bye or why}"
        raise BadGateway(said, retry_after=later)

    def _greeted(self) -> None:
        self._worked = True
        self._warn_of_plain_http()
        self._become("connected")

    def _warn_of_plain_http(self) -> None:
        url = self._signed_in.cloud_url
        parts = urlsplit(url)
        if parts.scheme == "http" and not is_loopback(parts.hostname or "") and url != self._plain:
            self._plain = url
            self._log.warn("{url} is not encrypted: whoever is on the way reads all", url=url)

    def _dismissed(self, reason: Reason) -> None:
        self._bye = sanitize_line(reason.message, MAX_LOGGED_CHARS)

    def _opened(self, socket: BridgeWebSocket) -> None:
        self._socket = socket
        self.peer = str(getattr(socket.transport.getPeer(), "host", ""))
        self._tunnel.connection_made()

    def _closed(
        self, over: Deferred[tuple[bool, str, int | None]]
    ) -> Callable[[int | None, str, int | None], None]:
        def closed(code: int | None, reason: str, later: int | None) -> None:
            socket, self._socket = self._socket, None
            opened = socket is not None
            if socket is not None:
                self._sent += socket.bytes_sent
                self._heard += socket.bytes_received
            farewell, self._farewell = self._farewell, None
            if farewell is not None:
                farewell.callback(None)
            if not over.called:
                said = sanitize_line(
                    reason, MAX_LOGGED_CHARS
                )  # the cloud's word, or that of whoever answers there
                over.callback((opened, said or f"closed with code {code}", later))

        return closed

    def _become(self, state: str, reason: str = "") -> None:
        if (state, reason) == (self.state, self.reason):
            return
        if state != "connecting":
            self._log.info("bridge: {state} {reason}", state=state, reason=reason)
        self.state, self.reason = state, reason
        try:
            self.on_state()
        except Exception:
            self._log.failure("the bridge's state could not be told; the bridge goes on")
