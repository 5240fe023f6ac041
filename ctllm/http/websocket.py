"""A tunnel on a WebSocket: messages in and out, backpressure, keep-alive.

autobahn keeps the protocol's rules. Whatever became ready in one turn of the reactor leaves in one
message; while the socket is full the tunnel keeps its bytes, within its windows. Whether the other
side lives, `liveness` says: an answer may be silent for as long as it likes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autobahn.twisted.websocket import (
    WebSocketClientFactory,
    WebSocketClientProtocol,
    WebSocketServerFactory,
    WebSocketServerProtocol,
)
from autobahn.websocket.types import ConnectionDeny
from twisted.internet.interfaces import ITCPTransport
from twisted.logger import Logger

from ctllm.errors import ProtocolViolation
from ctllm.http.faces import Clock, Timer
from ctllm.http.liveness import Pinged
from ctllm.http.messages import Messages, written
from ctllm.http.prompt import write_now
from ctllm.wire.frames import MAX_MESSAGE, SUBPROTOCOL
from ctllm.wire.tunnel import Tunnel

#: WebSocket close codes (RFC 6455, section 7.4.1).
GOING_AWAY, PROTOCOL_ERROR = 1001, 1002


class TunnelSocket(Pinged):
    """What both ends of the WebSocket do; mixed into autobahn's protocols.

    The tunnel is given by `carry`, at once by a bridge, after HELLO by a proxy.
    """

    transport: Any
    masks: bool  # clients do
    state: int
    STATE_OPEN: int
    data: bytes
    current_frame: object
    inside_message: bool
    sendCloseFrame: Callable[..., None]
    _log = Logger()

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.tunnel: Tunnel[Any] | None = None
        self.gone = False
        self._flushing: Timer | None = None
        self._full = False
        self._messages = Messages(masked=not self.masks, limit=MAX_MESSAGE)

    def carry(self, tunnel: Tunnel[Any]) -> None:
        """Let `tunnel` speak through this socket."""
        self.tunnel = tunnel
        tunnel.wake = self._wake

    # -- sending

    def _wake(self) -> None:
        if self._flushing is None and not self._full and not self.gone:
            self._flushing = self.clock.callLater(0, self._flush)

    def _flush(self) -> None:
        self._flushing = None
        while not self._full and not self.gone and self.tunnel is not None:
            message = self.tunnel.outgoing()
            if not message:
                return
            self._say(message)

    def _say(self, message: bytes) -> None:
        if self.state == self.STATE_OPEN:
            write_now(self.transport, written(message, self.masks))
        else:
            self.gone = True  # the other side is closing, and `onClose` is still to come

    def pauseProducing(self) -> None:
        """The socket is full."""
        self._full = True

    def resumeProducing(self) -> None:
        """The socket has room."""
        self._full = False
        self._wake()

    def stopProducing(self) -> None:
        """The socket is closing; `onClose` tells the rest."""

    # -- autobahn's side

    def onOpen(self) -> None:
        """Agreed on being a WebSocket."""
        if ITCPTransport.providedBy(self.transport):
            # autobahn tries before it knows its own options, and small messages wait 40 ms.
            self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, True)
        self.life.begin(*self.factory.pings)
        self.opened()

    def dataReceived(self, data: bytes) -> None:
        """Take plain frames by the short way; autobahn gets the rest, and all of the handshake."""
        self.life.heard()
        if self.state != self.STATE_OPEN or self._library_is_busy:
            super().dataReceived(data)  # type: ignore[misc]
            return
        messages, rest = self._messages.feed(data)
        for message in messages:
            self.onMessage(message, True)
        if rest:
            super().dataReceived(rest)  # type: ignore[misc]

    @property
    def _library_is_busy(self) -> bool:
        """Whether autobahn is in the middle of a frame or a message."""
        return bool(self.data or self.current_frame is not None or self.inside_message)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """One message of whole frames."""
        self.life.understood()
        if self.gone:
            return  # it was under way when this side closed
        try:
            if not isBinary:
                raise ProtocolViolation("a text message where frames are expected")
            self.heard(payload)
        except ProtocolViolation as error:
            self._violated(error)

    def _violated(self, error: ProtocolViolation) -> None:
        self._log.warn("the other end of a tunnel is dropped: {error}", error=error.message)
        if self.tunnel is not None:
            self._say(self.tunnel.violated(error))
        self._close(PROTOCOL_ERROR, error.message[:40].encode())

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """The connection is over; the exchanges wait for another."""
        self.gone = True
        self.life.end()
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        tunnel, self.tunnel = self.tunnel, None
        if tunnel is not None:
            tunnel.disconnected(self.clock.seconds())
        self.closed(code, reason or "")

    def leave(self, message: bytes = b"") -> None:
        """Say `message` and close in order."""
        if message and not self.gone:
            self._say(message)
        self._close(GOING_AWAY)

    def _close(self, code: int, reason: bytes = b"") -> None:
        self.gone = True
        # autobahn's own sendClose takes none but an application's codes.
        self.sendCloseFrame(code, reason)

    # -- what the two ends do differently

    def opened(self) -> None:
        """The connection is open."""

    def heard(self, message: bytes) -> None:
        """A message came; raises ProtocolViolation."""
        assert self.tunnel is not None
        self.tunnel.receive(message)

    def closed(self, code: int | None, reason: str) -> None:
        """The connection is over, and the tunnel knows."""


class ProxySocket(TunnelSocket, WebSocketServerProtocol):  # type: ignore[misc]
    """The proxy's end. `greeted` gets the first message and says whose tunnel it is."""

    masks = False

    def __init__(self, clock: Clock, greeted: Callable[[ProxySocket, bytes], None]) -> None:
        super().__init__(clock)
        self._greeted = greeted
        self.on_closed: Callable[[], None] = lambda: None

    def onConnect(self, request: Any) -> str:
        """Speak only our own protocol."""
        if SUBPROTOCOL not in request.protocols:
            raise ConnectionDeny(400, f"this speaks {SUBPROTOCOL}")
        return SUBPROTOCOL

    def heard(self, message: bytes) -> None:
        """The first message is for whoever finds the tunnel, the rest for the tunnel."""
        if self.tunnel is None:
            self._greeted(self, message)
        else:
            self.tunnel.receive(message)

    def closed(self, code: int | None, reason: str) -> None:
        """The bridge left."""
        self.on_closed()


class BridgeSocket(TunnelSocket, WebSocketClientProtocol):  # type: ignore[misc]
    """The bridge's end, which dialled."""

    masks = True

    def __init__(
        self,
        clock: Clock,
        tunnel: Tunnel[Any],
        on_open: Callable[[BridgeSocket], None],
        on_closed: Callable[[int | None, str], None],
    ) -> None:
        super().__init__(clock)
        self._tunnel = tunnel
        self._on_open = on_open
        self._on_closed = on_closed

    def opened(self) -> None:
        """The tunnel may speak."""
        self.carry(self._tunnel)
        self._on_open(self)

    def closed(self, code: int | None, reason: str) -> None:
        """The proxy, or something on the way, closed; or it never opened."""
        self._on_closed(code, reason)


_OPTIONS = {
    "maxMessagePayloadSize": MAX_MESSAGE,
    "maxFramePayloadSize": MAX_MESSAGE,
    "openHandshakeTimeout": 10,
    "closeHandshakeTimeout": 2,
    "utf8validateIncoming": False,
}


class ProxySockets(WebSocketServerFactory):
    """Makes the proxy's ends; pings each `interval` seconds, gives up after `deadline` without."""

    noisy = False

    def __init__(
        self,
        clock: Any,
        greeted: Callable[[ProxySocket, bytes], None],
        interval: float,
        deadline: float,
    ) -> None:
        super().__init__(reactor=clock)
        self._clock, self._greeted = clock, greeted
        self.pings = (interval, deadline)
        self.setProtocolOptions(**_OPTIONS)

    def buildProtocol(self, addr: object) -> ProxySocket:
        """A socket for one bridge."""
        socket = ProxySocket(self._clock, self._greeted)
        socket.factory = self
        return socket


class BridgeSockets(WebSocketClientFactory):
    """Makes the bridge's end for `url`; `headers` carry its token."""

    noisy = False

    def __init__(
        self,
        url: str,
        headers: dict[str, str],
        clock: Any,
        make: Callable[[], BridgeSocket],
        interval: float,
        deadline: float,
    ) -> None:
        super().__init__(
            url, protocols=[SUBPROTOCOL], headers=headers, reactor=clock, useragent="ctllm"
        )
        self._make = make
        self.pings = (interval, deadline)
        self.setProtocolOptions(**_OPTIONS)

    def buildProtocol(self, addr: object) -> BridgeSocket:
        """The socket of one attempt."""
        socket = self._make()
        socket.factory = self
        return socket
