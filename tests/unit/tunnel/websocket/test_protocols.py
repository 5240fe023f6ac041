"""The tunnel on a WebSocket: both real ends, over memory."""

from __future__ import annotations

from typing import Any, cast

import txaio
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.test.iosim import FakeTransport, connect
from twisted.trial.unittest import SynchronousTestCase

from ctllm.errors import DesktopLost, ProtocolViolation, Unauthorized
from ctllm.http.message.head import RequestHead, ResponseHead
from ctllm.tunnel.frames import Desktop, Reason
from ctllm.tunnel.initiator import Initiator
from ctllm.tunnel.responder import Responder, ResponderStream
from ctllm.tunnel.websocket.factories import BridgeWebSocketFactory, ProxyWebSocketFactory
from ctllm.tunnel.websocket.protocols import (
    ENDED_ACCESS_GRACE,
    BridgeWebSocket,
    ProxyWebSocket,
)
from tests.unit.fakes import FakeRequestSink, FakeResponseSink, MemoryTransport

PING_INTERVAL, PING_TIMEOUT = 20.0, 10.0
POST = RequestHead(b"POST", b"/api/chat")
UPGRADE = (
    b"GET /ws/tunnel HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Protocol: ctllm.tunnel.v1\r\n\r\n"
)


class Transport(FakeTransport):
    """A transport with addresses, which autobahn needs."""

    def getPeer(self) -> Any:
        return IPv4Address("TCP", "127.0.0.1", 1)

    getHost = getPeer


class Case(SynchronousTestCase):
    """An initiator and a responder, each at its end."""

    def setUp(self) -> None:
        self.clock = Clock()
        # autobahn takes its timers from here, not from the reactor that it is given.
        self.patch(cast(Any, txaio).config, "loop", self.clock)
        self.initiator = Initiator(1 << 18, 30, 8)
        self.responder = Responder(
            1 << 18,
            30,
            8,
            request_handler=self.accept,
            resume_buffer_bytes=0,
            desktop=Desktop("a" * 32, "home"),
        )
        self.streams: list[ResponderStream] = []
        self.requests: list[FakeRequestSink] = []
        self.closings: list[tuple[int | None, str]] = []
        self.refused: str = ""
        self.opened = 0
        self.connect()

    def accept(self, head: RequestHead, stream: ResponderStream) -> FakeRequestSink:
        self.streams.append(stream)
        self.requests.append(FakeRequestSink())
        return self.requests[-1]

    def connect(self) -> None:
        clock: Any = self.clock
        self.proxy = ProxyWebSocketFactory(
            clock, self.first_message_received, PING_INTERVAL, PING_TIMEOUT
        ).buildProtocol(None)
        factory = BridgeWebSocketFactory(
            "ws://127.0.0.1:1/ws/tunnel", {"Authorization": "Bearer t"}, clock, self.build,
            PING_INTERVAL, PING_TIMEOUT,
        )  # fmt: skip
        self.bridge = factory.buildProtocol(None)
        self.pump = connect(
            self.proxy, Transport(self.proxy, True), self.bridge, Transport(self.bridge, False)
        )
        self.settle()

    def build(self) -> BridgeWebSocket:
        return BridgeWebSocket(
            self.clock,
            self.responder,
            self.bridge_opened,
            lambda *closing: self.closings.append(closing[:2]),
        )

    def bridge_opened(self, socket: BridgeWebSocket) -> None:
        self.opened += 1
        self.responder.connection_made()

    def first_message_received(self, socket: ProxyWebSocket, message: bytes) -> None:
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

    def start_request(self) -> FakeResponseSink:
        sink = FakeResponseSink()
        self.initiator.start_request(POST, sink).finish()
        self.settle()
        return sink

    @property
    def connected(self) -> bool:
        return self.initiator.is_established and self.responder.is_established


class CarryingTests(Case):
    """An open connection."""

    def test_carries_a_request_and_its_response(self) -> None:
        sink = self.start_request()
        self.streams[0].write_head(ResponseHead(200))
        self.streams[0].write(b"hi")
        self.streams[0].finish()
        self.settle()
        self.assertEqual((bytes(sink.body), sink.outcome), (b"hi", "end"))

    def test_sends_what_becomes_ready_in_one_turn_in_one_message(self) -> None:
        self.start_request()
        sent: list[bytes] = []
        process = self.proxy.onMessage

        def on_message(message: bytes, is_binary: bool) -> None:
            sent.append(message)
            process(message, is_binary)

        self.patch(self.proxy, "onMessage", on_message)
        self.streams[0].write_head(ResponseHead(200))
        for _ in range(5):
            self.streams[0].write(b"line\n")
        self.assertEqual(sent, [])
        self.settle()
        self.assertEqual(len(sent), 1)

    def test_writes_nothing_while_the_transport_is_full(self) -> None:
        sink = self.start_request()
        self.bridge.pauseProducing()
        self.streams[0].write_head(ResponseHead(200))
        self.streams[0].finish()
        self.settle()
        self.assertIsNone(sink.head)
        self.bridge.resumeProducing()
        self.settle()
        self.assertEqual(sink.outcome, "end")

    def test_stays_open_while_pings_are_answered(self) -> None:
        sink = self.start_request()
        self.wait(400)
        self.assertEqual((self.connected, sink.outcome, self.closings), (True, None, []))

    def test_both_ends_close_when_the_network_is_dead(self) -> None:
        self.start_request()
        for _ in range(int(PING_INTERVAL + PING_TIMEOUT + 5)):
            self.clock.advance(1)  # and the pump moves nothing
        self.assertTrue(self.pump.clientIO.disconnecting)
        self.assertTrue(self.pump.serverIO.disconnecting)


class ClosingTests(Case):
    """The ends of connections."""

    def test_a_graceful_close_by_either_end_loses_no_stream(self) -> None:
        for leaver in ("proxy", "bridge"):
            sink = self.start_request()
            getattr(self, leaver).close_gracefully()
            self.settle()
            self.wait(5)
            self.assertEqual(
                (self.initiator.is_established, self.responder.is_established),
                (False, False),
                leaver,
            )
            self.connect()
            self.streams[-1].write_head(ResponseHead(200))
            self.streams[-1].finish()
            self.settle()
            self.assertEqual(sink.outcome, "end")
        self.assertEqual(self.closings[0][0], 1001)
        self.assertEqual((self.opened, len(self.closings)), (3, 2))

    def test_what_becomes_ready_during_the_close_waits_for_the_next_connection(self) -> None:
        sink = self.start_request()
        self.bridge.close_gracefully()
        self.streams[0].write_head(ResponseHead(200))
        self.clock.advance(0)
        self.proxy.sendCloseFrame(1001, b"")
        self.initiator.start_request(POST, FakeResponseSink())
        self.bridge.close_gracefully()
        self.proxy.close_gracefully(b"more")
        self.settle()
        self.wait(5)
        self.assertFalse(self.initiator.is_established)
        self.connect()
        self.streams[0].finish()
        self.settle()
        self.assertEqual((sink.outcome, len(self.streams)), ("end", 2))

    def test_a_violation_ends_every_stream_on_both_ends(self) -> None:
        sink = self.start_request()
        self.bridge.sendMessage(bytes(21), isBinary=True)
        self.settle()
        self.wait(5)
        self.assertIsInstance(sink.outcome, ProtocolViolation)
        self.assertIsInstance(self.requests[0].calls[-1], ProtocolViolation)
        self.assertEqual(self.closings[0][0], 1002)

    def test_a_text_message_is_a_violation(self) -> None:
        self.proxy.sendMessage(b"hello", isBinary=False)
        self.settle()
        self.wait(5)
        self.assertEqual(len(self.closings), 1)

    def test_a_refused_bridge_gets_the_reason(self) -> None:
        self.bridge.close_gracefully()
        self.settle()
        self.wait(5)
        self.closings.clear()
        self.refused = "ü" * 500
        self.connect()
        self.wait(5)
        ((code, reason),) = self.closings
        self.assertEqual((code, reason[:1]), (1002, "ü"))

    def test_streams_of_a_lost_connection_expire(self) -> None:
        sink = self.start_request()
        self.pump.clientIO.abortConnection()
        self.settle()
        self.assertFalse(self.initiator.is_established)
        self.initiator.remove_expired(self.clock.seconds() + 31)
        self.assertIsInstance(sink.outcome, DesktopLost)
        self.wait(60)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class EndedAccessTests(Case):
    """A tunnel whose user's access ends."""

    ERROR = Unauthorized("You are logged out.")

    def test_both_ends_are_told_why_at_once(self) -> None:
        sink, byes = self.start_request(), list[Reason]()
        self.responder.add_bye_observer(byes.append)
        self.streams[0].write_head(ResponseHead(200))
        self.settle()
        self.proxy.end_access(self.ERROR)
        self.assertIsInstance(sink.outcome, DesktopLost)
        self.assertIn("You are logged out.", str(sink.outcome))
        self.settle()
        self.assertEqual(byes, [Reason("unauthenticated", "You are logged out.")])
        error = self.requests[0].calls[-1]
        self.assertIsInstance(error, DesktopLost)
        self.assertIn("You are logged out.", str(error))
        self.assertEqual([code for code, _ in self.closings], [1001])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nothing_is_relayed_meanwhile(self) -> None:
        """Neither what was on the way nor what a hostile desktop sends."""
        sink = self.start_request()
        self.streams[0].write_head(ResponseHead(200))
        self.streams[0].write(b"late")
        self.clock.advance(0)
        self.proxy.end_access(self.ERROR)
        self.assertFalse(self.initiator.is_established)
        self.bridge.sendMessage(bytes(21), isBinary=True)
        self.settle()
        self.assertEqual((sink.head, bytes(sink.body)), (None, b""))
        self.assertIsInstance(sink.outcome, DesktopLost)

    def test_a_desktop_that_does_not_close_its_end_is_cut_off(self) -> None:
        self.start_request()
        self.proxy.pauseProducing()  # it does not read either
        self.proxy.end_access(self.ERROR)
        self.clock.advance(ENDED_ACCESS_GRACE - 0.1)
        self.proxy.end_access(self.ERROR)
        self.assertFalse(self.pump.serverIO.disconnecting)
        self.clock.advance(0.1)
        self.assertTrue(self.pump.serverIO.disconnecting)

    def test_a_connection_before_hello_or_in_its_handshake_closes_too(self) -> None:
        for is_open in (True, False):
            clock: Any = self.clock
            factory = ProxyWebSocketFactory(
                clock, self.first_message_received, PING_INTERVAL, PING_TIMEOUT
            )
            socket, wire = factory.buildProtocol(None), MemoryTransport()
            socket.makeConnection(wire)
            if is_open:
                socket.dataReceived(UPGRADE)
            socket.end_access(self.ERROR)
            self.clock.advance(ENDED_ACCESS_GRACE)
            self.assertEqual(wire.closed, "abort")
            socket.connectionLost(Failure(ConnectionAborted()))
            self.assertEqual(factory.open_connections, 0)
