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

from ctllm.common.memory_budget import MemoryBudget, unlimited_budget
from ctllm.errors import ProtocolViolation
from ctllm.fastpath.direct_write import write_now
from ctllm.fastpath.websocket_internals import is_between_messages, send_close
from ctllm.http.timeouts import HANDSHAKE_TIMEOUT
from ctllm.reactor.failures import make_failure
from ctllm.reactor.interfaces import Clock, Timer
from ctllm.reactor.timeout import Timeout
from ctllm.tunnel.frames import MAX_MESSAGE, SUBPROTOCOL
from ctllm.tunnel.peer import TunnelPeer
from ctllm.tunnel.websocket.frames import FrameDecoder, encode_frame
from ctllm.tunnel.websocket.keepalive import KeepaliveMixin

#: WebSocket close codes (RFC 6455, section 7.4.1).
GOING_AWAY, PROTOCOL_ERROR = 1001, 1002
#: As many frames a message may have: networks cut at kilobytes, and messages have two megabytes.
MAX_FRAGMENTS = 1024


class TunnelWebSocket(KeepaliveMixin):
    """What both ends of the WebSocket do; mixed into autobahn's protocols.

    The tunnel is given by `carry`, at once by a bridge, after HELLO by a proxy.
    """

    transport: Any
    masks: bool  # clients do
    state: int
    STATE_OPEN: int
    _log = Logger()

    def __init__(self, clock: Clock, budget: MemoryBudget | None = None) -> None:
        super().__init__(clock)
        self.tunnel: TunnelPeer[Any] | None = None
        self.is_closing = False
        self.close_reason = ""  # why this side closed, where the other side was at fault
        self._scheduled_flush: Timer | None = None
        self._paused = False
        self._frame_decoder = FrameDecoder(masked=not self.masks, max_payload=MAX_MESSAGE)
        self._partial_frame_size = 0  # bytes of a frame that is not whole
        self._budget = unlimited_budget() if budget is None else budget
        self._fragment_count = 0  # of the message that autobahn is reading
        self._hello_timeout = Timeout(clock, self._hello_timed_out)
        self.bytes_sent = self.bytes_received = 0

    def attach_tunnel(self, tunnel: TunnelPeer[Any]) -> None:
        """Let `tunnel` speak through this socket."""
        self.tunnel = tunnel
        tunnel.wake = self._schedule_flush
        tunnel.on_crash = self._stream_failed

    def _stream_failed(self, error: Exception) -> None:
        self._log.failure("an exchange of a tunnel failed", make_failure(error))

    # -- sending

    def _schedule_flush(self) -> None:
        if self._scheduled_flush is None and not self._paused and not self.is_closing:
            self._scheduled_flush = self.clock.callLater(0, self._flush)

    def _flush(self) -> None:
        self._scheduled_flush = None
        while not self._paused and not self.is_closing and self.tunnel is not None:
            message = self.tunnel.next_message()
            if not message:
                return
            self._send_message(message)

    def _send_message(self, message: bytes) -> None:
        if self.state == self.STATE_OPEN:
            self.bytes_sent += len(message)
            write_now(self.transport, encode_frame(message, self.masks))
        else:
            self.is_closing = True  # the other side is closing, and `onClose` is still to come

    def pauseProducing(self) -> None:
        """The socket is full."""
        self._paused = True

    def resumeProducing(self) -> None:
        """The socket has room."""
        self._paused = False
        self._schedule_flush()

    def stopProducing(self) -> None:
        """The socket is closing; `onClose` tells the rest."""

    # -- autobahn's side

    def onOpen(self) -> None:
        """Agreed on being a WebSocket."""
        if ITCPTransport.providedBy(self.transport):
            # autobahn tries before it knows its own options, and small messages wait 40 ms.
            self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, True)
        self.keepalive.start(*self.factory.keepalive_options)
        self._hello_timeout.start(HANDSHAKE_TIMEOUT)
        self.connection_opened()

    def dataReceived(self, data: bytes) -> None:
        """Take plain frames by the short way; autobahn gets the rest, and all of the handshake."""
        self.keepalive.data_received()
        self.bytes_received += len(data)
        if self.state != self.STATE_OPEN or not is_between_messages(self):
            super().dataReceived(data)  # type: ignore[misc]
            return
        messages, rest = self._frame_decoder.feed(data)
        if len(self._frame_decoder) != self._partial_frame_size:
            self._count_partial_frame(len(self._frame_decoder))
        for message in messages:
            self.onMessage(message, True)
        if rest:
            super().dataReceived(rest)  # type: ignore[misc]

    def _count_partial_frame(self, size: int) -> None:
        more, self._partial_frame_size = size - self._partial_frame_size, size
        if more > 0:
            self._budget.reserve(more)
        else:
            self._budget.release(-more)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """One message of whole frames."""
        self.keepalive.frame_received()
        if self.is_closing:
            return  # it was under way when this side closed
        try:
            if not isBinary:
                raise ProtocolViolation("a text message where frames are expected")
            self.message_received(payload)
        except ProtocolViolation as error:
            self._protocol_violated(error)

    def onMessageBegin(self, isBinary: bool) -> None:
        """A message that autobahn reads: one in pieces, mostly."""
        self._fragment_count = 0
        super().onMessageBegin(isBinary)  # type: ignore[misc]

    def onMessageFrameBegin(self, length: int) -> None:
        """A piece of it; empty ones cost memory, too, and no limit of bytes counts them."""
        self._fragment_count += 1
        if self._fragment_count == MAX_FRAGMENTS:
            self._protocol_violated(ProtocolViolation("a message in too many pieces"))
        super().onMessageFrameBegin(length)  # type: ignore[misc]

    def onPing(self, payload: bytes) -> None:
        """Answer, unless what was said before is not even being read."""
        if self._paused:
            self.keepalive.frame_received()
        else:
            super().onPing(payload)

    def _protocol_violated(self, error: ProtocolViolation) -> None:
        self._log.warn("the other end of a tunnel is dropped: {error}", error=error.message)
        if self.tunnel is not None:
            self._send_message(self.tunnel.terminate(error))
        self._start_close(PROTOCOL_ERROR, error.message[:40].encode())

    def _hello_timed_out(self) -> None:
        """Close a connection whose other side has not said HELLO in time.

        No exchange has gone over it, so none ends with it.
        """
        if self.is_closing or (self.tunnel is not None and self.tunnel.is_established):
            return
        self.close_reason = f"no HELLO came for {HANDSHAKE_TIMEOUT:g} seconds"
        self._log.warn("a tunnel is closed: {why}", why=self.close_reason)
        self._start_close(PROTOCOL_ERROR, self.close_reason.encode())

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """The connection is over; the exchanges wait for another."""
        self.is_closing = True
        self._hello_timeout.cancel()
        self._count_partial_frame(0)
        self.keepalive.stop()
        if self._scheduled_flush is not None:
            self._scheduled_flush.cancel()
            self._scheduled_flush = None
        tunnel, self.tunnel = self.tunnel, None
        if tunnel is not None:
            tunnel.connection_lost(self.clock.seconds())
        self.connection_closed(code, self.close_reason or reason or "")

    def close_gracefully(self, message: bytes = b"") -> None:
        """Say `message` and close in order."""
        if message and not self.is_closing:
            self._send_message(message)
        self._start_close(GOING_AWAY)

    def _start_close(self, code: int, reason: bytes = b"") -> None:
        self.is_closing = True
        send_close(self, code, reason)

    # -- what the two ends do differently

    def connection_opened(self) -> None:
        """The connection is open."""

    def message_received(self, message: bytes) -> None:
        """A message came; raises ProtocolViolation."""
        assert self.tunnel is not None
        self.tunnel.receive_message(message)

    def connection_closed(self, code: int | None, reason: str) -> None:
        """The connection is over, and the tunnel knows."""


class ProxyWebSocket(TunnelWebSocket, WebSocketServerProtocol):  # type: ignore[misc]
    """The proxy's end. `greeted` gets the first message and says whose tunnel it is."""

    masks = False

    def __init__(
        self,
        clock: Clock,
        on_first_message: Callable[[ProxyWebSocket, bytes], None],
        budget: MemoryBudget | None = None,
    ) -> None:
        super().__init__(clock, budget)
        self._on_first_message = on_first_message
        self.on_closed: Callable[[], None] = lambda: None

    def onConnect(self, request: Any) -> str:
        """Speak only our own protocol."""
        if SUBPROTOCOL not in request.protocols:
            raise ConnectionDeny(400, f"this speaks {SUBPROTOCOL}")  # type: ignore[no-untyped-call]
        return SUBPROTOCOL

    def message_received(self, message: bytes) -> None:
        """The first message is for whoever finds the tunnel, the rest for the tunnel."""
        if self.tunnel is None:
            self._on_first_message(self, message)
        else:
            self.tunnel.receive_message(message)

    def connection_closed(self, code: int | None, reason: str) -> None:
        """The bridge left."""
        self.factory.open_connections -= 1
        self.on_closed()


class BridgeWebSocket(TunnelWebSocket, WebSocketClientProtocol):  # type: ignore[misc]
    """The bridge's end, which dialled."""

    masks = True

    def __init__(
        self,
        clock: Clock,
        tunnel: TunnelPeer[Any],
        on_open: Callable[[BridgeWebSocket], None],
        on_closed: Callable[[int | None, str, int | None], None],
    ) -> None:
        super().__init__(clock)
        self._tunnel = tunnel
        self._on_open = on_open
        self._on_closed = on_closed
        self.tunnel_opened = False

    def connection_opened(self) -> None:
        """The tunnel may speak."""
        self.tunnel_opened = True
        self.attach_tunnel(self._tunnel)
        self._on_open(self)

    def connection_closed(self, code: int | None, reason: str) -> None:
        """The proxy, or something on the way, closed; or it never opened."""
        self._on_closed(code, reason, self._retry_after())

    def _retry_after(self) -> int | None:
        """In how many seconds to come again, where the answer was no WebSocket but said that."""
        if self.tunnel_opened:
            return None
        said = str(getattr(self, "http_headers", {}).get("retry-after", ""))
        return int(said) if said.isascii() and said.isdigit() and len(said) < 9 else None
