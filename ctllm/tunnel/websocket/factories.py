"""The factories of the two ends of a tunnel's WebSocket, and autobahn's options for both."""

from __future__ import annotations

from collections.abc import Callable

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketServerFactory

from ctllm.common.memory_budget import MemoryBudget
from ctllm.http.request_timeout import TIMEOUT_HEADER
from ctllm.http.timeouts import HANDSHAKE_TIMEOUT, TUNNEL_TIMEOUT
from ctllm.reactor.interfaces import Clock
from ctllm.tunnel.frames import MAX_MESSAGE, SUBPROTOCOL
from ctllm.tunnel.websocket.protocols import BridgeWebSocket, ProxyWebSocket

_OPTIONS = {
    "maxMessagePayloadSize": MAX_MESSAGE,
    "maxFramePayloadSize": MAX_MESSAGE,
    "openHandshakeTimeout": HANDSHAKE_TIMEOUT,
    "closeHandshakeTimeout": 2,
    "utf8validateIncoming": False,
}


class ProxyWebSocketFactory(WebSocketServerFactory):
    """Builds the proxy's ends.

    They ping every `ping_interval` seconds and close after another `ping_timeout` of silence.
    """

    noisy = False

    def __init__(
        self,
        clock: Clock,
        on_first_message: Callable[[ProxyWebSocket, bytes], None],
        ping_interval: float,
        ping_timeout: float,
        budget: MemoryBudget | None = None,
    ) -> None:
        super().__init__(reactor=clock)  # type: ignore[no-untyped-call]
        self._protocol_arguments = (clock, on_first_message, budget)
        self.keepalive_options = (ping_interval, ping_timeout)
        self.open_connections = 0
        self.setProtocolOptions(**_OPTIONS)  # type: ignore[no-untyped-call]

    def buildProtocol(self, addr: object) -> ProxyWebSocket:
        """Build the protocol of a new connection."""
        self.open_connections += 1
        socket = ProxyWebSocket(*self._protocol_arguments)
        socket.factory = self
        return socket


class BridgeWebSocketFactory(WebSocketClientFactory):
    """Builds the bridge's end, by `build`, for `url`; `headers` carry its access token.

    It tells the cloud for how long it waits for the response.
    """

    noisy = False

    def __init__(
        self,
        url: str,
        headers: dict[str, str],
        clock: Clock,
        build: Callable[[], BridgeWebSocket],
        ping_interval: float,
        ping_timeout: float,
    ) -> None:
        timeout = {TIMEOUT_HEADER.decode(): str(round(TUNNEL_TIMEOUT * 1000))}
        super().__init__(  # type: ignore[no-untyped-call]
            url,
            protocols=[SUBPROTOCOL],
            headers={**headers, **timeout},
            reactor=clock,
            useragent="ctllm",
        )
        self._build = build
        self.keepalive_options = (ping_interval, ping_timeout)
        options = {**_OPTIONS, "openHandshakeTimeout": TUNNEL_TIMEOUT}
        self.setProtocolOptions(**options)  # type: ignore[no-untyped-call]

    def buildProtocol(self, addr: object) -> BridgeWebSocket:
        """Build the protocol of one attempt."""
        socket = self._build()
        socket.factory = self
        return socket
