"""The limits of a WebSocket whose peer keeps to the protocol and still takes too much."""

from __future__ import annotations

from typing import Any

from ctllm.http.timeouts import HANDSHAKE_TIMEOUT
from ctllm.tunnel.websocket.protocols import MAX_FRAGMENTS, BridgeWebSocket
from tests.unit.tunnel.websocket.test_protocols import Case


class SilentBridgeTests(Case):
    """A bridge that sends no HELLO."""

    def bridge_opened(self, socket: BridgeWebSocket) -> None:
        pass

    def test_is_closed_after_the_handshake_timeout_though_it_answers_pings(self) -> None:
        self.wait(HANDSHAKE_TIMEOUT - 1)
        self.assertEqual(self.closings, [])
        self.wait(2)
        self.assertEqual([code for code, _ in self.closings], [1002])
        self.assertEqual(self.proxy.factory.open_connections, 0)


class LimitTests(Case):
    """A bridge that has sent HELLO."""

    def test_a_bridge_that_sent_hello_stays_connected_and_is_counted_once(self) -> None:
        self.wait(HANDSHAKE_TIMEOUT * 3)
        self.assertEqual((self.connected, self.proxy.factory.open_connections), (True, 1))

    def test_pings_are_not_answered_while_the_transport_is_full(self) -> None:
        self.proxy.pauseProducing()
        written: list[bytes] = []
        bridge: Any = self.bridge
        self.patch(self.proxy.transport, "write", written.append)
        for _ in range(100):
            bridge.sendPing(b"x")
        self.settle()
        self.assertEqual(written, [])
        self.proxy.resumeProducing()
        bridge.sendPing(b"x")
        self.settle()
        self.assertEqual(len(written), 1)

    def test_too_many_fragments_are_a_violation(self) -> None:
        for fragments, is_allowed in ((MAX_FRAGMENTS - 2, True), (MAX_FRAGMENTS + 1, False)):
            self.bridge.beginMessage(isBinary=True)
            for _ in range(fragments):
                self.bridge.sendMessageFrame(b"")
            self.bridge.endMessage()
            self.settle()
            self.assertEqual(self.connected, is_allowed)
