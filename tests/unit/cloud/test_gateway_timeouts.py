"""Timeouts and limits of the gateway for slow and incomplete requests."""

from __future__ import annotations

from typing import Any

from ctllm.http.timeouts import DEFAULT_TIMEOUTS, SMALL_BODY_TIMEOUT
from tests.unit.cloud.gateway_case import GatewayCase
from tests.unit.fakes import MemoryTransport


class GatewayTimeoutTests(GatewayCase):
    def open_connection(self) -> tuple[Any, MemoryTransport]:
        """Return a connection to the gateway, and its transport."""
        connection, transport = self.factory.buildProtocol(None), MemoryTransport()
        transport.protocol = connection
        connection.makeConnection(transport)
        return connection, transport

    def test_a_head_sent_byte_by_byte_gets_408_at_the_timeout(self) -> None:
        """A byte does not restart the timeout."""
        connection, transport = self.open_connection()
        for byte in b"GET /health HTTP/1.1\r\nHost: x\r\n":
            connection.dataReceived(bytes((byte,)))
            self.clock.advance(DEFAULT_TIMEOUTS.head / 20)
            if transport.closed:
                break
        self.assertIn(b"HTTP/1.1 408 ", transport.take_written())
        self.assertEqual(transport.closed, "half")
        self.clock.advance(DEFAULT_TIMEOUTS.linger)
        self.assertEqual(transport.closed, "abort")

    def test_blank_lines_do_not_restart_the_keep_alive_timeout(self) -> None:
        """They may precede a request."""
        connection, transport = self.open_connection()
        for _ in range(10):
            connection.dataReceived(b"\r\n")
            self.clock.advance(DEFAULT_TIMEOUTS.keep_alive / 5)
        self.assertEqual(transport.closed, "abort")

    def test_a_small_body_sent_slowly_gets_408_at_the_timeout(self) -> None:
        """A sign-in needs no token, so anybody can send one."""
        connection, transport = self.open_connection()
        connection.dataReceived(
            b"POST /ctllm/session HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000\r\n\r\n"
        )
        for _ in range(4):
            connection.dataReceived(b" ")
            self.clock.advance(SMALL_BODY_TIMEOUT / 4)
        self.assertIn(b"HTTP/1.1 408 ", transport.take_written())
        self.clock.advance(DEFAULT_TIMEOUTS.keep_alive)
        self.assertEqual(transport.closed, "abort")
        connection.connectionLost()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_head_of_exactly_64_kib_without_an_end_is_read_on(self) -> None:
        """One more byte gets 431."""
        connection, transport = self.open_connection()
        connection.dataReceived((b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 65536)[:65536])
        self.assertEqual(transport.producerState, "producing")
        connection.dataReceived(b"a")
        self.assertIn(b"HTTP/1.1 431 ", transport.take_written())

    def test_an_invalid_head_request_gets_400_without_a_body(self) -> None:
        connection, transport = self.open_connection()
        connection.dataReceived(b"HEAD nonsense HTTP/1.1\r\nHost: x\r\n\r\n")
        response = transport.take_written()
        self.assertIn(b"HTTP/1.1 400 ", response)
        self.assertTrue(response.endswith(b"\r\n\r\n"))
