"""Peers that hang up while their connection is not read."""

from __future__ import annotations

import socket
import struct
from typing import Any

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from ctllm.http.hangup_monitor import (
    FIRST_INTERVAL,
    HangupMonitor,
    enable_tcp_keepalive,
    has_hung_up,
)


class SocketTransport(StringTransport):
    """A transport of one end of a real connection."""

    aborted = False
    protocol: Any = None

    def __init__(self, end: socket.socket) -> None:
        super().__init__()
        self.end = end

    def getHandle(self) -> socket.socket:
        return self.end

    def abortConnection(self) -> None:
        self.aborted = True


class HangupMonitorTests(SynchronousTestCase):
    """A connection, one end of a socket pair."""

    def setUp(self) -> None:
        self.clock = Clock()
        ours, self.theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(self.theirs.close)
        self.transport = SocketTransport(ours)
        self.monitor = HangupMonitor(self.clock)
        self.theirs.sendall(b"unread")

    def advance(self) -> None:
        self.clock.pump([FIRST_INTERVAL] * 5)

    def test_leaves_a_paused_connection_alone_while_its_peer_lives(self) -> None:
        self.monitor.set_reading(self.transport, False)
        self.assertEqual(self.transport.producerState, "paused")
        self.advance()
        self.assertFalse(self.transport.aborted)
        self.monitor.set_reading(self.transport, True)
        self.assertEqual(
            (self.transport.producerState, self.clock.getDelayedCalls()), ("producing", [])
        )

    def test_aborts_a_paused_connection_that_the_peer_closed(self) -> None:
        self.monitor.set_reading(self.transport, False)
        self.advance()
        self.theirs.close()
        self.assertFalse(self.transport.aborted)
        self.advance()
        self.assertTrue(self.transport.aborted)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_aborts_a_paused_connection_that_the_peer_half_closed(self) -> None:
        self.monitor.set_reading(self.transport, False)
        self.theirs.shutdown(socket.SHUT_WR)
        self.advance()
        self.assertTrue(self.transport.aborted)

    def test_does_not_poll_after_stop(self) -> None:
        self.monitor.set_reading(self.transport, False)
        self.monitor.stop()
        self.theirs.close()
        self.advance()
        self.assertFalse(self.transport.aborted)

    def test_pausing_or_resuming_twice_changes_nothing(self) -> None:
        self.monitor.set_reading(self.transport, True)
        self.monitor.set_reading(self.transport, False)
        self.monitor.set_reading(self.transport, False)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_has_hung_up_after_a_reset(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            theirs = socket.create_connection(server.getsockname())
            ours, _ = server.accept()
        self.addCleanup(ours.close)
        theirs.sendall(b"unread")
        self.assertFalse(has_hung_up(SocketTransport(ours)))
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
        self.assertTrue(has_hung_up(SocketTransport(ours)))

    def test_has_hung_up_asks_the_socket_beneath_tls(self) -> None:
        """And is False for a transport without a socket."""
        self.assertFalse(has_hung_up(StringTransport()))
        secured: Any = StringTransport()
        secured.wrappedProtocol = None
        secured.transport = self.transport
        self.assertFalse(has_hung_up(secured))
        self.theirs.close()
        self.assertTrue(has_hung_up(secured))

    def test_enable_tcp_keepalive_sets_the_options_of_tcp_alone(self) -> None:
        """And leaves a UNIX socket alone."""
        with socket.socket() as sock:
            transport = SocketTransport(sock)
            transport.setTcpKeepAlive = lambda on: sock.setsockopt(  # type: ignore[attr-defined]
                socket.SOL_SOCKET, socket.SO_KEEPALIVE, on
            )
            enable_tcp_keepalive(transport)
            self.assertTrue(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
            if hasattr(socket, "TCP_KEEPIDLE"):
                idle = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
                self.assertLessEqual(idle, 60)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            enable_tcp_keepalive(SocketTransport(ours))
