"""`ctllm.cloud.stream_probe`: the response that shows whether something buffers."""

from __future__ import annotations

import re

from ctllm.cloud.stream_probe import INTERVAL, LINES, MAX_CONCURRENT
from tests.unit.cloud.gateway_case import GatewayCase
from tests.unit.fakes import MemoryTransport

REQUEST = b"GET /ctllm/health/stream HTTP/1.1\r\nHost: cloud.example\r\n\r\n"


class StreamProbeTests(GatewayCase):
    """Lines with pauses, for clients without a token."""

    def request(self) -> MemoryTransport:
        transport = self.connect()
        transport.protocol.dataReceived(REQUEST)
        return transport

    def lines(self, transport: MemoryTransport) -> list[str]:
        return re.findall(r'"line":(\d)', transport.take_written().decode())

    def test_each_line_is_sent_at_its_time(self) -> None:
        transport = self.request()
        written = transport.take_written().decode()
        self.assertIn("200 OK", written)
        self.assertIn("\r\nDate: ", written)
        self.assertIn('{"line":1,"lines":5,"seconds":0.0}\n', written)
        self.assertNotIn("accel", written.lower())
        for number in range(2, LINES + 1):
            self.clock.advance(INTERVAL - 0.01)
            self.assertEqual(transport.take_written(), b"")
            self.clock.advance(0.02)
            written = transport.take_written().decode()
            sent = f'"line":{number},"lines":{LINES},"seconds":{0.21 * (number - 1):.2f}'
            self.assertIn(sent, written)
        self.assertTrue(written.endswith("0\r\n\r\n"), "The response does not end.")

    def test_clients_beyond_the_limit_get_503(self) -> None:
        transports = [self.request() for _ in range(MAX_CONCURRENT)]
        refused = self.request().take_written().decode()
        self.assertIn(" 503 ", refused)
        self.assertIn("Retry-After: 1\r\n", refused)
        self.clock.advance(INTERVAL * LINES)
        self.assertTrue(all(each.take_written() for each in transports))
        for _ in range(LINES):
            self.clock.advance(INTERVAL)
        self.assertEqual(self.lines(self.request()), ["1"])

    def test_a_client_that_disconnects_makes_room_and_leaves_no_timer(self) -> None:
        before = len(self.clock.getDelayedCalls())
        for _ in range(MAX_CONCURRENT * 2):
            transport = self.request()
            self.assertEqual(self.lines(transport), ["1"])
            transport.disconnect()
        self.assertEqual(len(self.clock.getDelayedCalls()), before)
