"""A tunnel on a WebSocket: messages in and out, backpressure, keep-alive.

autobahn keeps the protocol's rules. Whatever became ready in one turn of the reactor leaves in one
message; while the socket is full the tunnel keeps its bytes, within its windows. Whether the other
side lives, `liveness` says: an answer may be silent for as long as it likes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autobahn.twisted.websocket import (
    WebSocketClientProtocol,
    WebSocketServerProtocol,
)
from autobahn.websocket.types import ConnectionDeny
from twisted.internet.interfaces import ITCPTransport
from twisted.logger import Logger
from twisted.python.failure import Failure

from ctllm.common.memory_budget import MemoryBudget, unlimited
from ctllm.errors import ProtocolViolation
from ctllm.fastpath.direct_write import write_now
from ctllm.http.timeouts import HANDSHAKE_TIMEOUT
from ctllm.reactor.interfaces import Clock, Timer
from ctllm.reactor.timeout import Timeout
from ctllm.tunnel.frames import MAX_MESSAGE, SUBPROTOCOL
from ctllm.tunnel.peer import TunnelPeer
from ctllm.tunnel.websocket.frames import Messages, written
from ctllm.tunnel.websocket.keepalive import Pinged

#: WebSocket close codes (RFC 6455, section 7.4.1).
GOING_AWAY, PROTOCOL_ERROR = 1001, 1002
#: As many frames a message may have: networks cut at kilobytes, and messages have two megabytes.
MOST_PIECES = 1024


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

    def __init__(self, clock: Clock, budget: MemoryBudget | None = None) -> None:
        super().__init__(clock)
        self.tunnel: TunnelPeer[Any] | None = None
        self.gone = False
        self.complaint = ""  # why this side closed, where the other side was at fault
        self._flushing: Timer | None = None
        self._full = False
        self._messages = Messages(masked=not self.masks, limit=MAX_MESSAGE)
        self._half = 0  # bytes of a frame that is not whole
        self._budget = unlimited() if budget is None else budget
        self._pieces = 0  # of the message that autobahn is reading
        self._greeting = Timeout(clock, self._not_greeted)
        self.bytes_sent = self.bytes_heard = 0

    def carry(self, tunnel: TunnelPeer[Any]) -> None:
        """Let `tunnel` speak through this socket."""
        self.tunnel = tunnel
        tunnel.wake = self._wake
        tunnel.on_crash = self._crashed

    def _crashed(self, error: Exception) -> None:
        self._log.failure("an exchange of a tunnel failed", Failure(error))

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
            self.bytes_sent += len(message)
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
        self._greeting.set(HANDSHAKE_TIMEOUT)
        self.opened()

    def dataReceived(self, data: bytes) -> None:
        """Take plain frames by the short way; autobahn gets the rest, and all of the handshake."""
        self.life.heard()
        self.bytes_heard += len(data)
        if self.state != self.STATE_OPEN or self._library_is_busy:
            super().dataReceived(data)  # type: ignore[misc]
            return
        messages, rest = self._messages.feed(data)
        if len(self._messages) != self._half:
            self._count_half(len(self._messages))
        for message in messages:
            self.onMessage(message, True)
        if rest:
            super().dataReceived(rest)  # type: ignore[misc]

    def _count_half(self, held: int) -> None:
        more, self._half = held - self._half, held
        if more > 0:
            self._budget.reserve(more)
        else:
            self._budget.release(-more)

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

    def onMessageBegin(self, isBinary: bool) -> None:
        """A message that autobahn reads: one in pieces, mostly."""
        self._pieces = 0
        super().onMessageBegin(isBinary)  # type: ignore[misc]

    def onMessageFrameBegin(self, length: int) -> None:
        """A piece of it; empty ones cost memory, too, and no limit of bytes counts them."""
        self._pieces += 1
        if self._pieces == MOST_PIECES:
            self._violated(ProtocolViolation("a message in too many pieces"))
        super().onMessageFrameBegin(length)  # type: ignore[misc]

    def onPing(self, payload: bytes) -> None:
        """Answer, unless what was said before is not even being read."""
        if self._full:
            self.life.understood()
        else:
            super().onPing(payload)

    def _violated(self, error: ProtocolViolation) -> None:
        self._log.warn("the other end of a tunnel is dropped: {error}", error=error.message)
        if self.tunnel is not None:
            self._say(self.tunnel.violated(error))
        self._close(PROTOCOL_ERROR, error.message[:40].encode())

    def _not_greeted(self) -> None:
        """Close a connection whose other side has not said HELLO in time.

        No exchange has gone over it, so none ends with it.
        """
        if self.gone or (self.tunnel is not None and self.tunnel.up):
            return
        self.complaint = f"no HELLO came for {HANDSHAKE_TIMEOUT:g} seconds"
        self._log.warn("a tunnel is closed: {why}", why=self.complaint)
        self._close(PROTOCOL_ERROR, self.complaint.encode())

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """The connection is over; the exchanges wait for another."""
        self.gone = True
        self._greeting.cancel()
        self._count_half(0)
        self.life.end()
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        tunnel, self.tunnel = self.tunnel, None
        if tunnel is not None:
            tunnel.disconnected(self.clock.seconds())
        self.closed(code, self.complaint or reason or "")

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

    def __init__(
        self,
        clock: Clock,
        greeted: Callable[[ProxySocket, bytes], None],
        budget: MemoryBudget | None = None,
    ) -> None:
        super().__init__(clock, budget)
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
        self.factory.open -= 1
        self.on_closed()


class BridgeSocket(TunnelSocket, WebSocketClientProtocol):  # type: ignore[misc]
    """The bridge's end, which dialled."""

    masks = True

    def __init__(
        self,
        clock: Clock,
        tunnel: TunnelPeer[Any],
        on_open: Callable[[BridgeSocket], None],
        on_closed: Callable[[int | None, str, int | None], None],
    ) -> None:
        super().__init__(clock)
        self._tunnel = tunnel
        self._on_open = on_open
        self._on_closed = on_closed
        self.tunnel_opened = False

    def opened(self) -> None:
        """The tunnel may speak."""
        self.tunnel_opened = True
        self.carry(self._tunnel)
        self._on_open(self)

    def closed(self, code: int | None, reason: str) -> None:
        """The proxy, or something on the way, closed; or it never opened."""
        self._on_closed(code, reason, self._retry_after())

    def _retry_after(self) -> int | None:
        """In how many seconds to come again, where the answer was no WebSocket but said that."""
        if self.tunnel_opened:
            return None
        said = str(getattr(self, "http_headers", {}).get("retry-after", ""))
        return int(said) if said.isascii() and said.isdigit() and len(said) < 9 else None
