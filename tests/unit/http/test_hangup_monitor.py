"""Connections that are not read, and what becomes of them when their other side hangs up."""

from __future__ import annotations

import socket
import struct

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from ctllm.http.hangup_monitor import (
    FIRST_INTERVAL,
    HangupMonitor,
    enable_tcp_keepalive,
    has_hung_up,
)


class Held(StringTransport):
    """A transport on one end of a real connection."""

    aborted = False

    def __init__(self, end: socket.socket) -> None:
        super().__init__()
        self.end = end

    def getHandle(self) -> socket.socket:
        return self.end

    def abortConnection(self) -> None:
        self.aborted = True


class AttentionTests(SynchronousTestCase):
    """One connection."""

    def setUp(self) -> None:
        self.clock = Clock()
        ours, self.theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(self.theirs.close)
        self.held = Held(ours)
        self.attention = HangupMonitor(self.clock)
        self.theirs.sendall(b"unread")

    def pass_time(self) -> None:
        self.clock.pump([FIRST_INTERVAL] * 5)

    def test_while_it_lives(self) -> None:
        """Nothing happens to one that is merely not read; read again, it is not looked at."""
        self.attention.set_reading(self.held, False)
        self.assertEqual(self.held.producerState, "paused")
        self.pass_time()
        self.assertFalse(self.held.aborted)
        self.attention.set_reading(self.held, True)
        self.assertEqual((self.held.producerState, self.clock.getDelayedCalls()), ("producing", []))

    def test_closed(self) -> None:
        """It is aborted soon after the other side closed, though there is something to read."""
        self.attention.set_reading(self.held, False)
        self.pass_time()
        self.theirs.close()
        self.assertFalse(self.held.aborted)
        self.pass_time()
        self.assertTrue(self.held.aborted)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_half_closed(self) -> None:
        """Saying no more is hanging up."""
        self.attention.set_reading(self.held, False)
        self.theirs.shutdown(socket.SHUT_WR)
        self.pass_time()
        self.assertTrue(self.held.aborted)

    def test_over(self) -> None:
        """One that is over is not looked at any more."""
        self.attention.set_reading(self.held, False)
        self.attention.stop()
        self.theirs.close()
        self.pass_time()
        self.assertFalse(self.held.aborted)

    def test_said_twice(self) -> None:
        """To ignore what is ignored, or read what is read, changes nothing."""
        self.attention.set_reading(self.held, True)
        self.attention.set_reading(self.held, False)
        self.attention.set_reading(self.held, False)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_a_reset(self) -> None:
        """The same over TCP, closed without order."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            theirs = socket.create_connection(server.getsockname())
            ours, _ = server.accept()
        self.addCleanup(ours.close)
        theirs.sendall(b"unread")
        self.assertFalse(has_hung_up(Held(ours)))
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
        self.assertTrue(has_hung_up(Held(ours)))

    def test_what_cannot_be_known(self) -> None:
        """A transport without a socket has not hung up; one under TLS is asked for its socket."""
        self.assertFalse(has_hung_up(StringTransport()))
        secured = StringTransport()
        secured.wrappedProtocol = None
        secured.transport = self.held
        self.assertFalse(has_hung_up(secured))
        self.theirs.close()
        self.assertTrue(has_hung_up(secured))

    def test_the_system_asks_silent_ones(self) -> None:
        """A client that left with much unsent may never tell of its end."""
        with socket.socket() as plain:
            held = Held(plain)
            held.setTcpKeepAlive = lambda on: plain.setsockopt(  # type: ignore[attr-defined]
                socket.SOL_SOCKET, socket.SO_KEEPALIVE, on
            )
            enable_tcp_keepalive(held)
            self.assertTrue(plain.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
            if hasattr(socket, "TCP_KEEPIDLE"):
                idle = plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
                self.assertLessEqual(idle, 60)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            enable_tcp_keepalive(Held(ours))
