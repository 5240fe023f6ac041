"""A tunnel on a WebSocket: both real ends, over memory."""

from __future__ import annotations

from typing import Any

import txaio
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.test.iosim import FakeTransport, connect
from twisted.trial.unittest import SynchronousTestCase

from ctllm.errors import DesktopLost, ProtocolViolation
from ctllm.http.message.head import RequestHead, ResponseHead
from ctllm.tunnel.frames import Desktop
from ctllm.tunnel.initiator import Initiator
from ctllm.tunnel.responder import Responder, ResponderStream
from ctllm.tunnel.websocket.factories import BridgeWebSocketFactory, ProxyWebSocketFactory
from ctllm.tunnel.websocket.protocols import BridgeWebSocket, ProxyWebSocket
from tests.unit.fakes import FakeRequestSink, FakeResponseSink

PING, DEADLINE = 20.0, 10.0
POST = RequestHead(b"POST", b"/api/chat")


class Transport(FakeTransport):
    """One that has addresses, as autobahn wants them."""

    def getPeer(self) -> Any:
        return IPv4Address("TCP", "127.0.0.1", 1)

    getHost = getPeer


class Case(SynchronousTestCase):
    """An initiator and an responder, each on its end."""

    def setUp(self) -> None:
        self.clock = Clock()
        # autobahn keeps its time by this, whatever reactor it is given.
        self.patch(txaio.config, "loop", self.clock)
        self.initiator = Initiator(1 << 18, 30, 8)
        self.responder = Responder(
            1 << 18,
            30,
            8,
            request_handler=self.accept,
            resume_buffer_bytes=0,
            desktop=Desktop("a" * 32, "home"),
        )
        self.callers: list[ResponderStream] = []
        self.calls: list[FakeRequestSink] = []
        self.closings: list[tuple[int | None, str]] = []
        self.refused: str = ""
        self.opened = 0
        self.connect()

    def accept(self, head: RequestHead, caller: ResponderStream) -> FakeRequestSink:
        self.callers.append(caller)
        self.calls.append(FakeRequestSink())
        return self.calls[-1]

    def connect(self) -> None:
        clock: Any = self.clock
        self.proxy = ProxyWebSocketFactory(clock, self.greeted, PING, DEADLINE).buildProtocol(None)
        factory = BridgeWebSocketFactory(
            "ws://127.0.0.1:1/ws/tunnel", {"Authorization": "Bearer t"}, clock, self.make,
            PING, DEADLINE,
        )  # fmt: skip
        self.bridge = factory.buildProtocol(None)
        self.pump = connect(
            self.proxy, Transport(self.proxy, True), self.bridge, Transport(self.bridge, False)
        )
        self.settle()

    def make(self) -> BridgeWebSocket:
        return BridgeWebSocket(
            self.clock,
            self.responder,
            self.open,
            lambda *closing: self.closings.append(closing[:2]),
        )

    def open(self, socket: BridgeWebSocket) -> None:
        self.opened += 1
        self.responder.connection_made()

    def greeted(self, socket: ProxyWebSocket, message: bytes) -> None:
        if self.refused:
            raise ProtocolViolation(self.refused)
        socket.attach_tunnel(self.initiator)
        self.initiator.receive_message(message)

    def settle(self) -> None:
        self.clock.advance(0)
        while self.pump.pump():
            self.clock.advance(0)

    def wait(self, seconds: float) -> None:
        for _ in range(int(seconds * 2)):
            self.clock.advance(0.5)
            self.settle()

    def ask(self) -> FakeResponseSink:
        heard = FakeResponseSink()
        self.initiator.start_request(POST, heard).finish()
        self.settle()
        return heard

    @property
    def connected(self) -> bool:
        return self.initiator.is_established and self.responder.is_established


class Carrying(Case):
    """While it is open."""

    def test_an_exchange(self) -> None:
        """It goes over and comes back."""
        heard = self.ask()
        self.callers[0].write_head(ResponseHead(200))
        self.callers[0].write(b"hi")
        self.callers[0].finish()
        self.settle()
        self.assertEqual((bytes(heard.body), heard.outcome), (b"hi", "end"))

    def test_one_turn_is_one_message(self) -> None:
        """Whatever became ready in one turn leaves together, in the next."""
        self.ask()
        sent: list[bytes] = []
        hear = self.proxy.onMessage
        self.proxy.onMessage = lambda m, isBinary: (sent.append(m), hear(m, isBinary))
        self.callers[0].write_head(ResponseHead(200))
        for _ in range(5):
            self.callers[0].write(b"line\n")
        self.assertEqual(sent, [])
        self.settle()
        self.assertEqual(len(sent), 1)

    def test_a_full_socket_keeps_the_bytes_in_the_tunnel(self) -> None:
        """Nothing is written while there is no room; then it goes on."""
        heard = self.ask()
        self.bridge.pauseProducing()
        self.callers[0].write_head(ResponseHead(200))
        self.callers[0].finish()
        self.settle()
        self.assertIsNone(heard.head)
        self.bridge.resumeProducing()
        self.settle()
        self.assertEqual(heard.outcome, "end")

    def test_silence_is_no_death(self) -> None:
        """While pings are answered an exchange may be silent for as long as it likes."""
        heard = self.ask()
        self.wait(400)
        self.assertEqual((self.connected, heard.outcome, self.closings), (True, None, []))

    def test_no_answer_to_pings_is(self) -> None:
        """A dead network is noticed by both ends, each for itself, within its time."""
        self.ask()
        for _ in range(int(PING + DEADLINE + 5)):
            self.clock.advance(1)  # and the pump moves nothing
        self.assertTrue(self.pump.clientIO.disconnecting)
        self.assertTrue(self.pump.serverIO.disconnecting)


class Closing(Case):
    """How connections end."""

    def test_leaving(self) -> None:
        """Either side may; the other hears that it was going away, and no exchange is lost."""
        for leaver in ("proxy", "bridge"):
            heard = self.ask()
            getattr(self, leaver).close_gracefully()
            self.settle()
            self.wait(5)
            self.assertEqual(
                (self.initiator.is_established, self.responder.is_established),
                (False, False),
                leaver,
            )
            self.connect()
            self.callers[-1].write_head(ResponseHead(200))
            self.callers[-1].finish()
            self.settle()
            self.assertEqual(heard.outcome, "end")
        self.assertEqual(self.closings[0][0], 1001)
        self.assertEqual((self.opened, len(self.closings)), (3, 2))

    def test_what_becomes_ready_while_it_closes(self) -> None:
        """It waits for the next connection, on whichever side; nothing is raised."""
        heard = self.ask()
        self.bridge.close_gracefully()
        self.callers[0].write_head(ResponseHead(200))
        self.clock.advance(0)
        self.proxy.sendCloseFrame(1001, b"")
        self.initiator.start_request(POST, FakeResponseSink())
        self.bridge.close_gracefully()
        self.proxy.close_gracefully(b"more")
        self.settle()
        self.wait(5)
        self.assertFalse(self.initiator.is_established)
        self.connect()
        self.callers[0].finish()
        self.settle()
        self.assertEqual((heard.outcome, len(self.callers)), ("end", 2))

    def test_a_violation(self) -> None:
        """The other end is told why, and every exchange ends with the error, on both sides."""
        heard = self.ask()
        self.bridge.sendMessage(bytes(21), isBinary=True)
        self.settle()
        self.wait(5)
        self.assertIsInstance(heard.outcome, ProtocolViolation)
        self.assertIsInstance(self.calls[0].calls[-1], ProtocolViolation)
        self.assertEqual(self.closings[0][0], 1002)

    def test_a_text_message(self) -> None:
        """It is a violation too."""
        self.proxy.sendMessage(b"hello", isBinary=False)
        self.settle()
        self.wait(5)
        self.assertEqual(len(self.closings), 1)

    def test_refused_at_the_greeting(self) -> None:
        """A bridge that the proxy does not want hears why, in whatever language."""
        self.bridge.close_gracefully()
        self.settle()
        self.wait(5)
        self.closings.clear()
        self.refused = "ü" * 500
        self.connect()
        self.wait(5)
        ((code, reason),) = self.closings
        self.assertEqual((code, reason[:1]), (1002, "ü"))

    def test_lost_without_a_word(self) -> None:
        """The exchanges wait for their time; then they are lost. No timer stays behind."""
        heard = self.ask()
        self.pump.clientIO.abortConnection()
        self.settle()
        self.assertFalse(self.initiator.is_established)
        self.initiator.remove_expired(self.clock.seconds() + 31)
        self.assertIsInstance(heard.outcome, DesktopLost)
        self.wait(60)
        self.assertEqual(self.clock.getDelayedCalls(), [])
