"""The bridge: dials the cloud, carries the tunnel, and comes back when the connection is lost."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import urlsplit

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.ssl import optionsForClientTLS
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from ctllm.desktop.redial import pause
from ctllm.errors import CtllmError, DesktopLost, Unauthenticated, UpstreamFailed
from ctllm.http.sockets import BridgeSockets
from ctllm.http.websocket import BridgeSocket
from ctllm.wire.answerer import Answerer
from ctllm.wire.frames import Reason, printable

#: Seconds between looks for a sign-in, while there is none.
LOOK = 0.5
#: Seconds after which a sign-in that the cloud refused is tried again, if it is still the same.
REFUSED = 60.0
#: Seconds after which a connection worked, whatever was said at its end.
STEADY = 30.0

#: How autobahn says that the cloud did not believe the token.
_REFUSED = re.compile(r"\[40[13]\]")


class Tokens(Protocol):
    """What the bridge needs of a `Session`."""

    @property
    def sign_in(self) -> Any:
        """Where to dial; raises Unauthenticated."""

    async def token(self) -> str:
        """What to show there; raises CtllmError."""

    def distrust(self) -> None:
        """Get another token next time."""

    def version(self) -> int:
        """Changes when somebody signs in or out."""


class Bridge(Service):
    """Keeps one tunnel up. `state` is for people: signed out, connecting, connected, or why not."""

    _log = Logger()

    def __init__(
        self, tunnel: Answerer, session: Tokens, reactor: Any, ping: tuple[float, float]
    ) -> None:
        self.state = "stopped"
        self.reason = ""
        self.on_state: Callable[[], None] = lambda: None
        self._tunnel = tunnel
        tunnel.on_greeted = self._greeted
        tunnel.on_bye = self._dismissed
        self._session = session
        self._reactor = reactor
        self._ping = ping
        self._worked = False
        self._bye = ""
        self._life: Deferred[None] | None = None
        self._socket: BridgeSocket | None = None
        self._farewell: Deferred[None] | None = None
        self._signed_in: Any = None  # what the connection of now was made with
        self._tick = LoopingCall(self._every_second)
        self._tick.clock = reactor

    def startService(self) -> None:
        """Dial, for as long as the service runs."""
        super().startService()
        self._tick.start(1.0)
        self._life = Deferred.fromCoroutine(self._live())
        self._life.addErrback(self._died)

    def stopService(self) -> Deferred[None] | None:
        """Tell the clients that are being answered, and hang up; fires when that was sent."""
        super().stopService()
        if self._tick.running:
            self._tick.stop()
        if self._life is not None:
            self._life.cancel()
        self._tunnel.dismiss(DesktopLost("the desktop was stopped"))
        socket = self._socket
        if socket is None:
            return None
        self._farewell = Deferred()
        socket.leave(self._tunnel.outgoing())
        return self._farewell

    def _every_second(self) -> None:
        self._tunnel.sweep(self._reactor.seconds())
        if self._socket is not None and not self._still_signed_in():
            self._tunnel.dismiss(DesktopLost("the desktop was signed out"))
            self._socket.leave(self._tunnel.outgoing())

    def _still_signed_in(self) -> bool:
        """Whether the connection is whose it should be: `ctllm logout` is another process."""
        try:
            return bool(self._session.sign_in == self._signed_in)
        except Unauthenticated:
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
            self._worked, self._bye = False, ""
            seen = self._session.version()
            try:
                await self._connection(self._session.sign_in.cloud_url)
            except Unauthenticated as error:
                self._become("signed out", error.message)
                await self._change_of_sign_in(seen)
                continue
            except CtllmError as error:
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
            good = self._worked and (not self._bye or self._reactor.seconds() - began > STEADY)
            failures = 0 if good else failures + 1
            await self._wait(pause(failures, random.random, bool(self._tunnel.exchanges)))

    async def _change_of_sign_in(self, seen: int) -> None:
        until = self._reactor.seconds() + REFUSED
        while self._session.version() == seen and self._reactor.seconds() < until:
            await self._wait(LOOK)

    def _wait(self, seconds: float) -> Deferred[None]:
        return deferLater(self._reactor, seconds)

    async def _connection(self, url: str) -> None:
        """One connection, from dialling to its end; raises CtllmError with the reason."""
        self._become("connecting")
        self._signed_in = self._session.sign_in
        token = await self._session.token()
        over: Deferred[tuple[bool, str]] = Deferred()
        sockets = BridgeSockets(
            "ws" + url.removeprefix("http") + "/ws/tunnel",
            {"Authorization": f"Bearer {token}"},
            self._reactor,
            lambda: BridgeSocket(self._reactor, self._tunnel, self._opened, self._closed(over)),
            *self._ping,
        )
        try:
            await _dialler(url, self._reactor).connect(sockets)
        except CancelledError:
            raise
        except Exception as error:
            # Whatever the network says (refused, no such name, bad certificate), it is the reason.
            raise UpstreamFailed(f"{url} cannot be reached: {error}") from error
        opened, why = await over
        if not opened and _REFUSED.search(why):
            self._session.distrust()
        raise UpstreamFailed(f"the connection to {url} ended: {self._bye or why}")

    def _greeted(self) -> None:
        self._worked = True
        self._become("connected")

    def _dismissed(self, reason: Reason) -> None:
        self._bye = printable(reason.message)

    def _opened(self, socket: BridgeSocket) -> None:
        self._socket = socket
        self._tunnel.connected()

    def _closed(self, over: Deferred[tuple[bool, str]]) -> Callable[[int | None, str], None]:
        def closed(code: int | None, reason: str) -> None:
            opened, self._socket = self._socket is not None, None
            farewell, self._farewell = self._farewell, None
            if farewell is not None:
                farewell.callback(None)
            if not over.called:
                over.callback((opened, reason or f"closed with code {code}"))

        return closed

    def _become(self, state: str, reason: str = "") -> None:
        if (state, reason) == (self.state, self.reason):
            return
        if state != "connecting":
            self._log.info("bridge: {state} {reason}", state=state, reason=reason)
        self.state, self.reason = state, reason
        self.on_state()


def _dialler(url: str, reactor: Any) -> Any:
    parts = urlsplit(url)
    host = parts.hostname or ""
    secure = parts.scheme == "https"
    endpoint: Any = HostnameEndpoint(
        reactor, host, parts.port or (443 if secure else 80), timeout=10
    )
    return wrapClientTLS(optionsForClientTLS(host), endpoint) if secure else endpoint
