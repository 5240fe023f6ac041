"""JSON payloads of a tunnel: invalid ones, and heads that are too large for a frame."""

from __future__ import annotations

import contextlib
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.errors import BadGateway, ProtocolViolation, RequestHeaderFieldsTooLarge
from ctllm.http.message.head import (
    RequestHead,
    ResponseHead,
)
from ctllm.tunnel.frames import MAX_HEAD, Hello, Reason, Status, decode_json_payload
from tests.unit.fakes import FakeResponseSink
from tests.unit.tunnel.test_tunnel import Client, connected


class PayloadTests(SynchronousTestCase):
    @given(st.sampled_from([Hello, Status, Reason]), st.binary())
    @example(Reason, b'{"code":"\xff","message":""}')
    @example(Status, b'{"ollama":"\xc3"}')
    def test_an_invalid_payload_is_a_protocol_violation(self, kind: Any, raw: bytes) -> None:
        with contextlib.suppress(ProtocolViolation):
            decode_json_payload(raw, kind)


class HeadTests(SynchronousTestCase):
    """A head within the limits of HTTP may exceed the limit of a frame, which has it as JSON."""

    def test_a_request_head_too_large_for_a_frame_is_refused(self) -> None:
        """Other streams go on."""
        pair = connected()
        other = pair.ask()
        large = RequestHead(b"GET", b"/", ((b"X", b'"' * MAX_HEAD),))
        self.assertRaises(
            RequestHeaderFieldsTooLarge, pair.initiator.start_request, large, FakeResponseSink()
        )
        pair.settle()
        self.assertEqual(
            (pair.initiator.is_established, len(pair.works), other.over), (True, 1, None)
        )

    def test_a_response_head_too_large_for_a_frame_fails_its_stream(self) -> None:
        """Other streams go on."""
        pair = connected()
        clients: list[Client] = [pair.ask(), pair.ask()]
        pair.settle()
        large, other = pair.works.values()
        large.sink.write_head(ResponseHead(200, b"", ((b"X", b'"' * MAX_HEAD),)))
        other.sink.write_head(ResponseHead(200))
        pair.settle()
        self.assertIsInstance(clients[0].over, BadGateway)
        self.assertIsInstance(large.over, BadGateway)
        self.assertEqual((clients[1].over, clients[1].heard), (None, ResponseHead(200)))

    def test_forwards_unknown_methods(self) -> None:
        pair = connected()
        sink = FakeResponseSink()
        pair.initiator.start_request(RequestHead(b"M-SEARCH", b"/"), sink)
        pair.ask()
        pair.settle()
        self.assertEqual(
            [work.asked.method for work in pair.works.values()], [b"M-SEARCH", b"POST"]
        )
