"""Heads and reasons from the other end of a tunnel, which may be anybody's."""

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

TOKEN = st.text("abcXYZ019!#$%&'*+-.^_`|~", min_size=1).map(str.encode)
VALUE = st.binary().map(lambda raw: raw.translate(None, b"\r\n\0"))
HEADERS = st.lists(st.tuples(TOKEN, VALUE)).map(tuple)
TARGET = st.text("/abc?&=%25~ü", max_size=20).map(lambda text: b"/" + text.encode())


class Payloads(SynchronousTestCase):
    """The other JSON of a tunnel."""

    @given(st.sampled_from([Hello, Status, Reason]), st.binary())
    @example(Reason, b'{"code":"\xff","message":""}')
    @example(Status, b'{"ollama":"\xc3"}')
    def test_rubbish(self, kind: Any, raw: bytes) -> None:
        """It is told as a violation of the protocol, and never anything else."""
        with contextlib.suppress(ProtocolViolation):
            decode_json_payload(raw, kind)


class TooLargeForAFrame(SynchronousTestCase):
    """A head that is within HTTP's limits may be too large as JSON: the tunnel must not suffer."""

    def test_a_request(self) -> None:
        """It is refused by itself; other exchanges go on."""
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

    def test_an_answer(self) -> None:
        """Its own exchange fails; other exchanges go on."""
        pair = connected()
        asked: list[Client] = [pair.ask(), pair.ask()]
        pair.settle()
        large, other = pair.works.values()
        large.sink.write_head(ResponseHead(200, b"", ((b"X", b'"' * MAX_HEAD),)))
        other.sink.write_head(ResponseHead(200))
        pair.settle()
        self.assertIsInstance(asked[0].over, BadGateway)
        self.assertIsInstance(large.over, BadGateway)
        self.assertEqual((asked[1].over, asked[1].heard), (None, ResponseHead(200)))

    def test_any_method_passes_a_tunnel(self) -> None:
        """One that Ollama does not know is for Ollama to refuse; the tunnel stays."""
        pair = connected()
        heard = FakeResponseSink()
        pair.initiator.start_request(RequestHead(b"M-SEARCH", b"/"), heard)
        pair.ask()
        pair.settle()
        self.assertEqual(
            [work.asked.method for work in pair.works.values()], [b"M-SEARCH", b"POST"]
        )
