"""Limits of what one end of a tunnel stores for the other."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ctllm.errors import ProtocolViolation
from ctllm.http.message.head import RequestHead
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
    encode_offset_frame,
    split_frames,
)
from ctllm.tunnel.initiator import Initiator
from ctllm.tunnel.peer import MAX_CLOSED_IDS, MAX_CONTROL_FRAMES
from ctllm.tunnel.responder import Responder
from tests.unit.fakes import FakeRequestSink, FakeResponseSink

HELLO = encode_json_frame(FrameKind.HELLO, CONNECTION_ID, Hello(1, 1000, Desktop("d" * 32, "d")))
OPEN = b'{"method":"GET","target":"/","headers":[],"resume":9}'


class PeerLimitTests(SynchronousTestCase):
    def create_responder(self) -> Responder:
        responder = Responder(
            1000,
            30,
            4,
            request_handler=lambda head, sink: FakeRequestSink(),
            resume_buffer_bytes=0,
            desktop=Desktop("d" * 32, "d"),
        )
        responder.connection_made()
        responder.receive_message(encode_json_frame(FrameKind.HELLO, CONNECTION_ID, Hello(1, 1000)))
        responder.next_message()
        return responder

    def create_initiator(self, max_streams: int = 4) -> Initiator:
        initiator = Initiator(1000, 30, max_streams)
        initiator.receive_message(HELLO)
        initiator.next_message()
        return initiator

    def test_the_responder_refuses_streams_beyond_the_limit(self) -> None:
        """The ids of refused streams are forgotten, the oldest first."""
        responder = self.create_responder()
        for number in range(3 * MAX_CLOSED_IDS):
            responder.receive_message(encode_frame(FrameKind.OPEN, b"%016d" % number, OPEN))
            if number % 100 == 0:
                responder.next_message()
        self.assertEqual(len(responder.streams), 4)
        late = [encode_offset_frame(FrameKind.ACK, b"%016d" % n, 0) for n in range(number + 1)]
        responder.receive_message(b"".join(late[-MAX_CLOSED_IDS:]))
        oldest = late[-MAX_CLOSED_IDS - 1]
        self.assertRaises(ProtocolViolation, responder.receive_message, oldest)

    def test_a_peer_that_does_not_read_is_a_protocol_violation(self) -> None:
        """The clients get no exception. The next connection works."""
        initiator: Any = self.create_initiator(max_streams=MAX_CONTROL_FRAMES * 2)
        sinks = [FakeResponseSink() for _ in range(MAX_CONTROL_FRAMES + 10)]
        for sink in sinks:
            stream = initiator.start_request(RequestHead(b"GET", b"/"), sink)
            stream.collect_frames(1000, [])  # OPEN is sent
            stream.cancel(ProtocolViolation("left"))
        late = encode_frame(FrameKind.ACK, stream.id, bytes(8))  # which is valid
        self.assertRaises(ProtocolViolation, initiator.receive_message, late)
        self.assertEqual(len(list(split_frames(initiator.next_message()))), MAX_CONTROL_FRAMES)
        initiator.connection_lost(0.0)
        initiator.receive_message(HELLO)
        self.assertTrue(initiator.is_established)

    def test_a_status_with_too_many_models_is_a_protocol_violation(self) -> None:
        initiator = self.create_initiator()
        models = tuple(f"m{number}\x00\x1b" for number in range(MAX_MODELS))
        initiator.receive_message(
            encode_json_frame(FrameKind.STATUS, CONNECTION_ID, Status("up", "", models))
        )
        assert initiator.status is not None
        self.assertEqual(len(initiator.status.models), MAX_MODELS)
        too_many = encode_json_frame(
            FrameKind.STATUS, CONNECTION_ID, Status("up", "", (*models, "m"))
        )
        self.assertRaises(ProtocolViolation, initiator.receive_message, too_many)

    def test_the_error_of_an_invalid_payload_is_short_and_printable(self) -> None:
        """It may quote the payload."""
        payload = b'{"\\u001b[2J\\n%b":1}' % (b"x" * 5000)
        error = self.assertRaises(ProtocolViolation, decode_json_payload, payload, Hello)
        self.assertTrue(error.message.isprintable())
        self.assertLess(len(error.message), 300)
