"""Ends of a tunnel that keep to its form and still want too much: each has a bound."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ctllm.errors import ProtocolViolation
from ctllm.http.message.head import RequestHead
from ctllm.proxy.app import MAX_TUNNELS
from ctllm.tunnel.frames import (
    CONNECTION_ID,
    MAX_MODELS,
    Desktop,
    FrameKind,
    Hello,
    Status,
    decode_json_payload,
    encode_frame,
    encode_json_frame,
)
from ctllm.tunnel.initiator import Initiator
from ctllm.tunnel.peer import MAX_CLOSED_IDS, MAX_CONTROL_FRAMES
from ctllm.tunnel.responder import Responder
from tests.unit.fakes import FakeRequestSink, FakeResponseSink
from tests.unit.proxy.test_app import Case as ProxyCase

HELLO = encode_json_frame(FrameKind.HELLO, CONNECTION_ID, Hello(1, 1000, Desktop("d" * 32, "d")))
OPEN = b'{"method":"GET","target":"/","headers":[],"resume":9}'


class Proxy(ProxyCase):
    """At a proxy."""

    def test_as_many_sockets_as_desktops_need(self) -> None:
        """One more gets 503: those that say no HELLO count, too."""
        serve = self.sign("use", "serve")
        upgrade = (
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            "Sec-WebSocket-Protocol: ctllm.tunnel.v1\r\n"
        )
        wires = []
        for _ in range(MAX_TUNNELS):
            self.wire = self.connect()
            self.assertEqual(self.ask("GET /ws/tunnel", serve, upgrade)[0], 101)
            wires.append(self.wire)
        self.wire = self.connect()
        self.assertEqual(self.ask("GET /ws/tunnel", serve, upgrade)[0], 503)
        wires[0].disconnect()
        self.wire = self.connect()
        self.assertEqual(self.ask("GET /ws/tunnel", serve, upgrade)[0], 101)


class Frames(SynchronousTestCase):
    """At both ends of the tunnel."""

    def responder(self) -> Responder:
        made = Responder(
            1000,
            30,
            4,
            request_handler=lambda head, caller: FakeRequestSink(),
            resume_buffer_bytes=0,
            desktop=Desktop("d" * 32, "d"),
        )
        made.connection_made()
        made.receive_message(encode_json_frame(FrameKind.HELLO, CONNECTION_ID, Hello(1, 1000)))
        made.next_message()
        return made

    def initiator(self, most: int = 4) -> Initiator:
        made = Initiator(1000, 30, most)
        made.receive_message(HELLO)
        made.next_message()
        return made

    def test_a_proxy_that_opens_beyond_the_limit(self) -> None:
        """Each is refused, and what is remembered of them has a bound."""
        end: Any = self.responder()
        for number in range(3 * MAX_CLOSED_IDS):
            end.receive_message(encode_frame(FrameKind.OPEN, b"%016d" % number, OPEN))
            if number % 100 == 0:
                end.next_message()
        self.assertEqual(len(end.streams), 4)
        self.assertLessEqual(len(end._closed_ids), MAX_CLOSED_IDS)

    def test_a_desktop_that_reads_nothing(self) -> None:
        """What it is to be told has a bound; it is dropped, and no client hears of it."""
        end: Any = self.initiator(most=MAX_CONTROL_FRAMES * 2)
        callers = [FakeResponseSink() for _ in range(MAX_CONTROL_FRAMES + 10)]
        for caller in callers:
            asking = end.start_request(RequestHead(b"GET", b"/"), caller)
            asking.collect_frames(1000, [])  # the OPEN left
            asking.cancel(ProtocolViolation("left"))
        self.assertEqual(len(end._control_frames), MAX_CONTROL_FRAMES)
        late = encode_frame(FrameKind.ACK, asking.id, bytes(8))  # which alone would be fine
        self.assertRaises(ProtocolViolation, end.receive_message, late)
        end.connection_lost(0.0)
        end.receive_message(HELLO)
        self.assertTrue(end.is_established)

    def test_a_desktop_with_more_models_than_anybody(self) -> None:
        """As many as a list may name are taken; one more is a violation."""
        end = self.initiator()
        models = tuple(f"m{number}\x00\x1b" for number in range(MAX_MODELS))
        end.receive_message(
            encode_json_frame(FrameKind.STATUS, CONNECTION_ID, Status("up", "", models))
        )
        assert end.status is not None
        self.assertEqual(len(end.status.models), MAX_MODELS)
        more = encode_json_frame(FrameKind.STATUS, CONNECTION_ID, Status("up", "", (*models, "m")))
        self.assertRaises(ProtocolViolation, end.receive_message, more)

    def test_what_is_said_of_a_bad_payload_is_fit_for_a_log(self) -> None:
        """The words of whoever sent it may be in there, but neither many nor unprintable."""
        payload = b'{"\\u001b[2J\\n%b":1}' % (b"x" * 5000)
        error = self.assertRaises(ProtocolViolation, decode_json_payload, payload, Hello)
        self.assertTrue(error.message.isprintable())
        self.assertLess(len(error.message), 300)
