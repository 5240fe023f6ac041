"""Heads and reasons from the other end of a tunnel, which may be anybody's."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import h11
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.errors import BadGateway, BadRequest, ProtocolViolation, RequestHeaderFieldsTooLarge
from ctllm.http.message.head import (
    RequestHead,
    ResponseHead,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from ctllm.http.message.request_parser import check_request_head, split_target
from ctllm.tunnel.frames import MAX_HEAD, Hello, Reason, Status, decode_json_payload
from tests.unit.fakes import FakeResponseSink
from tests.unit.test_tunnel import Client, connected

TOKEN = st.text("abcXYZ019!#$%&'*+-.^_`|~", min_size=1).map(str.encode)
VALUE = st.binary().map(lambda raw: raw.translate(None, b"\r\n\0"))
HEADERS = st.lists(st.tuples(TOKEN, VALUE)).map(tuple)
TARGET = st.text("/abc?&=%25~ü", max_size=20).map(lambda text: b"/" + text.encode())


def request(**changed: Any) -> bytes:
    return json.dumps({"method": "GET", "target": "/", "headers": [], **changed}).encode()


class Requests(SynchronousTestCase):
    """OPEN payloads."""

    @given(TOKEN, TARGET, HEADERS, st.integers(0, 10**6))
    @example(b"M-SEARCH", b"/", (), 0)
    def test_there_and_back(self, method: bytes, target: bytes, headers: Any, resume: int) -> None:
        """Whatever the serving side lets in arrives as it was: every method, every byte."""
        head = RequestHead(method, target, headers)
        self.assertEqual(decode_request(encode_request(head, resume)), (head, resume))

    def test_hostile(self) -> None:
        """What could become another request on Ollama's connection is refused."""
        for changed in (
            {"method": "GET / HTTP/1.1\r\nX:"},
            {"method": ""},
            {"method": "GE T"},
            {"method": "GÄT"},
            {"method": "G\u0100T"},
            {"target": ""},
            {"target": "http://evil/"},
            {"target": "/ HTTP/1.1"},
            {"target": "/\r\n"},
            {"target": "/\u007f"},
            {"target": "/\u0100"},
            {"headers": [["X", "a\r\nY: b"]]},
            {"headers": [["X", "a\nb"]]},
            {"headers": [["X", "a\0b"]]},
            {"headers": [["X:", "a"]]},
            {"headers": [["", "a"]]},
            {"headers": [["X Y", "a"]]},
            {"headers": [["Ü", "a"]]},
            {"headers": [["X", "\u0100"]]},
            {"headers": [["X"]]},
            {"resume": -1},
            {"resume": "1"},
            {"more": 1},
        ):
            with self.assertRaises(ValueError, msg=changed):
                decode_request(request(**changed))
        decode_request(request())

    @given(st.binary())
    @example(b'{"method":"\xff"}')
    def test_rubbish(self, raw: bytes) -> None:
        """It is a ValueError, and never anything else."""
        for decode in (decode_request, decode_response):
            self.assertRaises(ValueError, decode, raw)


class Answers(SynchronousTestCase):
    """HEAD payloads."""

    @given(st.integers(200, 599), VALUE, HEADERS)
    def test_there_and_back(self, status: int, reason: bytes, headers: Any) -> None:
        """Every status, reason and header arrives as it was."""
        head = ResponseHead(status, reason, headers)
        self.assertEqual(decode_response(encode_response(head)), head)

    def test_hostile(self) -> None:
        """What could become another answer on a client's connection is refused."""
        for changed in (
            {"status": 101},
            {"status": 199},
            {"status": 600},
            {"reason": "OK\r\nX: y"},
            {"headers": [["X", "a\r\n\r\nb"]]},
        ):
            raw = json.dumps({"status": 200, "reason": "", "headers": [], **changed}).encode()
            self.assertRaises(ValueError, decode_response, raw)


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
        large.caller.write_head(ResponseHead(200, b"", ((b"X", b'"' * MAX_HEAD),)))
        other.caller.write_head(ResponseHead(200))
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


class AsTheServerReadsThem(SynchronousTestCase):
    """h11 and the tunnel agree on what a head may be."""

    @given(st.sampled_from([b"GET", b"A-B", b"x"]), TARGET, HEADERS)
    def test_what_h11_reads_the_tunnel_takes(
        self, method: bytes, target: bytes, headers: Any
    ) -> None:
        """A client cannot break the tunnel by a head that its server let in."""
        lines = b"".join(b"%s: %s\r\n" % header for header in headers)
        raw = method + b" " + target + b" HTTP/1.1\r\nHost: x\r\n" + lines + b"\r\n"
        connection = h11.Connection(h11.SERVER)
        try:
            asked, plain = split_target(raw)
            connection.receive_data(plain)
            event = connection.next_event()
            assert isinstance(event, h11.Request)
            head = check_request_head(event, asked, raw)
        except (h11.RemoteProtocolError, BadRequest):
            return
        self.assertEqual(decode_request(encode_request(head, 0))[0], head)
