"""The limit of a proxy's tunnels."""

from __future__ import annotations

from ctllm.proxy.app import MAX_TUNNELS
from tests.unit.proxy.test_app import Case


class TunnelLimitTests(Case):
    def test_a_tunnel_beyond_the_limit_gets_429(self) -> None:
        """Tunnels without HELLO count, too."""
        assertion = self.sign("use", "serve")
        upgrade = (
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            "Sec-WebSocket-Protocol: ctllm.tunnel.v1\r\n"
        )
        transports = []
        for _ in range(MAX_TUNNELS):
            self.wire = self.connect()
            self.assertEqual(self.ask("GET /ws/tunnel", assertion, upgrade)[0], 101)
            transports.append(self.wire)
        self.wire = self.connect()
        self.assertEqual(self.ask("GET /ws/tunnel", assertion, upgrade)[0], 429)
        transports[0].disconnect()
        self.wire = self.connect()
        self.assertEqual(self.ask("GET /ws/tunnel", assertion, upgrade)[0], 101)
