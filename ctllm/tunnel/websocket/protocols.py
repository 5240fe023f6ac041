"""The WebSocket protocols at the two ends of a tunnel, on autobahn's.

autobahn implements RFC 6455; plain frames bypass it (`ctllm.tunnel.websocket.frames`). All data
that becomes ready in one turn of the reactor is sent in one message. While the transport's buffer
is full, the tunnel keeps its data, within its windows. Streams may be silent for any time: only
`ctllm.tunnel.websocket.keepalive` decides whether the peer is alive.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from autobahn.twisted.websocket import (
    WebSocketClientProtocol,
    WebSocketServerProtocol,
)
from autobahn.websocket.types import ConnectionDeny, ConnectionRequest
from twisted.internet.interfaces import ITCPTransport
from twisted.logger import Logger

from ctllm.common.memory_budget import MemoryBudget, unlimited_budget
from ctllm.errors import CtllmError, DesktopLost, ProtocolViolation
from ctllm.fastpath.direct_write import write_now
from ctllm.fastpath.end_of_turn import end_of_turn
from ctllm.fastpath.websocket_internals import is_between_messages, send_close
from ctllm.http.timeouts import HANDSHAKE_TIMEOUT
from ctllm.reactor.failures import make_failure
from ctllm.reactor.interfaces import Clock
from ctllm.reactor.timeout import Timeout
from ctllm.tunnel.frames import MAX_MESSAGE, SUBPROTOCOL
from ctllm.tunnel.peer import TunnelPeer
from ctllm.tunnel.websocket.frames import FrameDecoder, encode_frame
from ctllm.tunnel.websocket.keepalive import KeepaliveMixin

#: WebSocket close codes (RFC 6455, section 7.4.1).
GOING_AWAY, PROTOCOL_ERROR = 1001, 1002
#: The most fragments of a message. Intermediaries fragment at kilobytes; messages have megabytes.
MAX_FRAGMENTS = 1024
#: Seconds for which a connection may close in order, after its user's access has ended.
ENDED_ACCESS_GRACE = 1.0


class TunnelWebSocket(KeepaliveMixin):
    """The part that both ends share; mixed into autobahn's protocols.

    `attach_tunnel` sets the tunnel: at a bridge when the connection opens, at a proxy after HELLO.
    """

    transport: Any
    masks: bool  # whether this end is the client
    state: int
    STATE_OPEN: int
    _log = Logger()

    def __init__(self, clock: Clock, budget: MemoryBudget | None = None) -> None:
        super().__init__(clock)
        self.tunnel: TunnelPeer[Any] | None = None
        self.is_closing = False
        self.close_reason = ""  # if this end closed because of the peer
        self._call_at_end_of_turn = end_of_turn(clock)
        self._is_flush_scheduled = False
        self._paused = False
        self._frame_decoder = FrameDecoder(masked=not self.masks, max_payload=MAX_MESSAGE)
        self._partial_frame_size = 0
        self._budget = unlimited_budget() if budget is None else budget
        self._fragment_count = 0  # of the message that autobahn is reading
        self._on_closed: Callable[[], None] | None = None
        self._hello_timeout = Timeout(clock, self._hello_timed_out)
        self.bytes_sent = self.bytes_received = 0

    @property
    def latency_ms(self) -> float | None:
        """The round-trip time of the last ping, in milliseconds, or None before its pong."""
        latency = self.keepalive.latency
        return None if latency is None else round(latency * 1000, 1)

    def attach_tunnel(
        self, tunnel: TunnelPeer[Any], on_closed: Callable[[], None] | None = None
    ) -> None:
        """Exchange the messages of `tunnel` on this connection; call `on_closed` at its end."""
        self.tunnel = tunnel
        self._on_closed = on_closed
        tunnel.attach_connection(self)

    def stream_failed(self, stream_id: bytes, error: Exception) -> None:
        """Log an exception raised by a sink of a stream."""
        self._log.failure(
            "Stream {request_id} of a tunnel failed",
            make_failure(error),
            request_id=stream_id.hex(),
        )

    # -- sending

    def schedule_flush(self) -> None:
        """Send what the tunnel has to send, at the end of this turn of the reactor."""
        if not self._is_flush_scheduled and not self._paused and not self.is_closing:
            self._is_flush_scheduled = True
            self._call_at_end_of_turn(self._flush)

    def _flush(self) -> None:
        self._is_flush_scheduled = False
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
            self.is_closing = True  # the peer has started to close; `onClose` follows

    def pauseProducing(self) -> None:
        """Stop sending: the transport's buffer is full."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Send again."""
        self._paused = False
        self.schedule_flush()

    def stopProducing(self) -> None:
        """Do nothing: `onClose` follows."""

    # -- called by autobahn

    def onOpen(self) -> None:
        """Start the timers after the opening handshake."""
        if ITCPTransport.providedBy(self.transport):
            # autobahn sets this before its options are known; else small messages wait 40 ms.
            self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, True)
        self.keepalive.start(*self.factory.keepalive_options)
        self._hello_timeout.start(HANDSHAKE_TIMEOUT)
        self.connection_opened()

    def dataReceived(self, data: bytes) -> None:
        """Decode plain frames; pass the handshake and all other frames to autobahn."""
        self.bytes_received += len(data)
        if self.state != self.STATE_OPEN or not is_between_messages(self):
            self.keepalive.data_received()
            super().dataReceived(data)  # type: ignore[misc]
            return
        messages, rest = self._frame_decoder.feed(data)
        partial_frame_size = len(self._frame_decoder)
        if partial_frame_size != self._partial_frame_size:
            self._count_partial_frame(partial_frame_size)
        if not messages:
            self.keepalive.data_received()
        for message in messages:
            self.onMessage(message, True)  # records that data was received, too
        if rest:
            super().dataReceived(rest)  # type: ignore[misc]

    def _count_partial_frame(self, size: int) -> None:
        growth, self._partial_frame_size = size - self._partial_frame_size, size
        if growth > 0:
            self._budget.reserve(growth)
        else:
            self._budget.release(-growth)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Process a complete message."""
        self.keepalive.frame_received()
        if self.is_closing:
            return
        try:
            if not isBinary:
                raise ProtocolViolation("a text message; a tunnel has binary messages only")
            self.message_received(payload)
        except ProtocolViolation as error:
            self._protocol_violated(error)

    def onMessageBegin(self, isBinary: bool) -> None:
        """Count the fragments of a message that autobahn reads."""
        self._fragment_count = 0
        super().onMessageBegin(isBinary)  # type: ignore[misc]

    def onMessageFrameBegin(self, length: int) -> None:
        """Limit the fragments: empty ones take memory, too, and no limit of bytes counts them."""
        self._fragment_count += 1
        if self._fragment_count == MAX_FRAGMENTS:
            self._protocol_violated(
                ProtocolViolation(f"a message of {MAX_FRAGMENTS} fragments or more")
            )
        super().onMessageFrameBegin(length)  # type: ignore[misc]

    def onPing(self, payload: bytes) -> None:
        """Answer, unless the peer does not read what was sent before."""
        if self._paused:
            self.keepalive.frame_received()
        else:
            super().onPing(payload)

    def _protocol_violated(self, error: ProtocolViolation) -> None:
        self._log.warn("A tunnel violated the protocol: {error}", error=error.message)
        if self.tunnel is not None:
            self._send_message(self.tunnel.terminate(error))
        self._start_close(PROTOCOL_ERROR, error.message[:40].encode())

    def _hello_timed_out(self) -> None:
        """Close the connection; no stream is on it before HELLO."""
        if self.is_closing or (self.tunnel is not None and self.tunnel.is_established):
            return
        self.close_reason = f"no HELLO within {HANDSHAKE_TIMEOUT:g} seconds"
        self._log.warn("A tunnel is closed: {why}", why=self.close_reason)
        self._start_close(PROTOCOL_ERROR, self.close_reason.encode())

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """Detach the tunnel: its streams wait for another connection."""
        self.is_closing = True
        self._hello_timeout.cancel()
        self._count_partial_frame(0)
        self.keepalive.stop()
        tunnel, self.tunnel = self.tunnel, None
        if tunnel is not None:
            tunnel.connection_lost(self.clock.seconds())
        self.connection_closed(code, self.close_reason or reason or "")
        on_closed, self._on_closed = self._on_closed, None
        if on_closed is not None:
            on_closed()

    def close_gracefully(self, message: bytes = b"") -> None:
        """Send `message`, if any, and start the closing handshake."""
        if message and not self.is_closing:
            self._send_message(message)
        self._start_close(GOING_AWAY)

    def _start_close(self, code: int, reason: bytes = b"") -> None:
        self.is_closing = True
        send_close(self, code, reason)

    # -- overridden by the two ends

    def connection_opened(self) -> None:
        """Prepare the tunnel after the opening handshake."""

    def message_received(self, message: bytes) -> None:
        """Process a message of the tunnel; raises ProtocolViolation."""
        assert self.tunnel is not None
        self.tunnel.receive_message(message)

    def connection_closed(self, code: int | None, reason: str) -> None:
        """Clean up; the tunnel is already detached."""


def access_ended_error(error: CtllmError) -> DesktopLost:
    """Return the error of the streams of a desktop whose access has ended with `error`."""
    return DesktopLost(f"The cloud has disconnected the desktop: {error}")


class ProxyWebSocket(TunnelWebSocket, WebSocketServerProtocol):  # type: ignore[misc]
    """The proxy's end; `on_first_message` gets the first message and attaches the tunnel."""

    masks = False

    def __init__(
        self,
        clock: Clock,
        on_first_message: Callable[[ProxyWebSocket, bytes], None],
        budget: MemoryBudget | None = None,
    ) -> None:
        super().__init__(clock, budget)
        self.authorized_until = math.inf  # in the seconds of `clock`
        self.max_desktops = 0  # of the user who authorized it; 0 without a limit of their own
        self.grant = b""  # of the access that it was opened with, sealed
        self.on_released: Callable[[], None] = lambda: None  # called when it is closed
        self._on_first_message = on_first_message
        self._has_access = True
        self._cut_off = Timeout(clock, self._abort_connection)

    def onConnect(self, request: ConnectionRequest) -> str:
        """Accept the tunnel's subprotocol only."""
        if SUBPROTOCOL not in request.protocols:
            raise ConnectionDeny(  # type: ignore[no-untyped-call]
                400, f"The subprotocol must be {SUBPROTOCOL}."
            )
        return SUBPROTOCOL

    def message_received(self, message: bytes) -> None:
        """Attach the tunnel with the first message; process the others."""
        if self.tunnel is None:
            self._on_first_message(self, message)
        else:
            self.tunnel.receive_message(message)

    def connection_closed(self, code: int | None, reason: str) -> None:
        """Update the factory's count."""
        self._cut_off.cancel()
        self.factory.open_connections -= 1
        self.on_released()

    def end_access(self, error: CtllmError) -> None:
        """Close the connection in order, because its user's access has ended with `error`.

        Its streams end at once, on both ends, and nothing more is received. A peer that does not
        close its end is cut off after ENDED_ACCESS_GRACE: it may be hostile.
        """
        if not self._has_access:
            return
        self._has_access = False
        self._cut_off.start(ENDED_ACCESS_GRACE)
        if self.state == self.STATE_OPEN:
            self.close_gracefully(self._end_tunnel(error))
        self.is_closing = True

    def _end_tunnel(self, error: CtllmError) -> bytes:
        """Fail all streams; return what tells the desktop of that, and BYE. b"" before HELLO."""
        if self.tunnel is None:
            return b""
        self.tunnel.reset_all(access_ended_error(error))
        return self.tunnel.next_message() + self.tunnel.terminate(error)

    def _abort_connection(self) -> None:
        self.transport.abortConnection()


class BridgeWebSocket(TunnelWebSocket, WebSocketClientProtocol):  # type: ignore[misc]
    """The bridge's end, which connects.

    `on_closed` gets the close code and reason, and the seconds to wait before another attempt if
    the response to the handshake named them.
    """

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
        self._on_connection_closed = on_closed
        self.tunnel_opened = False

    def connection_opened(self) -> None:
        """Attach the tunnel."""
        self.tunnel_opened = True
        self.attach_tunnel(self._tunnel)
        self._on_open(self)

    def connection_closed(self, code: int | None, reason: str) -> None:
        """Report the end of the connection, or of an attempt that failed."""
        self._on_connection_closed(code, reason, self._retry_after())

    def _retry_after(self) -> int | None:
        """Return the seconds of a Retry-After header in a response that refused the upgrade."""
        if self.tunnel_opened:
            return None
        value = str(getattr(self, "http_headers", {}).get("retry-after", ""))
        return int(value) if value.isascii() and value.isdigit() and len(value) < 9 else None
