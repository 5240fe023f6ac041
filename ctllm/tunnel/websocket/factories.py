"""What makes the two ends of a tunnel's WebSocket, and the options of both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketServerFactory

from ctllm.common.memory_budget import MemoryBudget
from ctllm.http.timeouts import HANDSHAKE_TIMEOUT
from ctllm.tunnel.frames import MAX_MESSAGE, SUBPROTOCOL
from ctllm.tunnel.websocket.transport import BridgeSocket, ProxySocket

_OPTIONS = {
    "maxMessagePayloadSize": MAX_MESSAGE,
    "maxFramePayloadSize": MAX_MESSAGE,
    "openHandshakeTimeout": HANDSHAKE_TIMEOUT,
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
        budget: MemoryBudget | None = None,
    ) -> None:
        super().__init__(reactor=clock)
        self._made = (clock, greeted, budget)
        self.pings = (interval, deadline)
        self.open = 0  # how many sockets there are
        self.setProtocolOptions(**_OPTIONS)

    def buildProtocol(self, addr: object) -> ProxySocket:
        """A socket for one bridge."""
        self.open += 1
        socket = ProxySocket(*self._made)
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
