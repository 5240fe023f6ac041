"""`ctllm.http.message.head`: heads in the frames of a tunnel, whose peer may send anything."""

from __future__ import annotations

import json
from typing import Any

import h11
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.errors import BadRequest
from ctllm.http.message.head import (
    RequestHead,
    ResponseHead,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from ctllm.http.message.request_parser import check_request_head, split_target

TOKEN = st.text("abcXYZ019!#$%&'*+-.^_`|~", min_size=1).map(str.encode)
VALUE = st.binary().map(lambda raw: raw.translate(None, b"\r\n\0"))
HEADERS = st.lists(st.tuples(TOKEN, VALUE)).map(tuple)
TARGET = st.text("/abc?&=%25~ü", max_size=20).map(lambda text: b"/" + text.encode())


def encoded_request(**changed: Any) -> bytes:
    return json.dumps({"method": "GET", "target": "/", "headers": [], **changed}).encode()


class EncodedRequestHeadTests(SynchronousTestCase):
    @given(TOKEN, TARGET, HEADERS, st.integers(0, 10**6))
    @example(b"M-SEARCH", b"/", (), 0)
    def test_decodes_any_head_that_was_encoded(
        self, method: bytes, target: bytes, headers: Any, resume: int
    ) -> None:
        head = RequestHead(method, target, headers)
        self.assertEqual(decode_request(encode_request(head, resume)), (head, resume))

    def test_refuses_what_would_be_another_request_at_ollama(self) -> None:
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
                decode_request(encoded_request(**changed))
        decode_request(encoded_request())

    @given(st.binary())
    @example(b'{"method":"\xff"}')
    def test_arbitrary_bytes_raise_value_error_only(self, raw: bytes) -> None:
        for decode in (decode_request, decode_response):
            self.assertRaises(ValueError, decode, raw)


class EncodedResponseHeadTests(SynchronousTestCase):
    @given(st.integers(200, 599), VALUE, HEADERS)
    def test_decodes_any_head_that_was_encoded(
        self, status: int, reason: bytes, headers: Any
    ) -> None:
        head = ResponseHead(status, reason, headers)
        self.assertEqual(decode_response(encode_response(head)), head)

    def test_refuses_what_would_be_another_response_at_a_client(self) -> None:
        for changed in (
            {"status": 101},
            {"status": 199},
            {"status": 600},
            {"reason": "OK\r\nX: y"},
            {"headers": [["X", "a\r\n\r\nb"]]},
        ):
            raw = json.dumps({"status": 200, "reason": "", "headers": [], **changed}).encode()
            self.assertRaises(ValueError, decode_response, raw)


class ParsedRequestHeadTests(SynchronousTestCase):
    @given(st.sampled_from([b"GET", b"A-B", b"x"]), TARGET, HEADERS)
    def test_any_head_that_the_server_accepts_can_be_sent_in_a_tunnel(
        self, method: bytes, target: bytes, headers: Any
    ) -> None:
        lines = b"".join(b"%s: %s\r\n" % header for header in headers)
        raw = method + b" " + target + b" HTTP/1.1\r\nHost: x\r\n" + lines + b"\r\n"
        connection = h11.Connection(h11.SERVER)
        try:
            target_found, ascii_head = split_target(raw)
            connection.receive_data(ascii_head)
            event = connection.next_event()
            assert isinstance(event, h11.Request)
            head = check_request_head(event, target_found, raw)
        except (h11.RemoteProtocolError, BadRequest):
            return
        self.assertEqual(decode_request(encode_request(head, 0))[0], head)
