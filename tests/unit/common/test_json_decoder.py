"""Any defect of JSON is one error."""

from __future__ import annotations

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from ctllm.common.json_decoder import InvalidJson, decode_json, decode_object_pairs
from ctllm.errors import BadRequest, ProtocolViolation
from ctllm.http.message.head import decode_request, decode_response
from ctllm.ipc.protocol import parse_message, parse_request, parse_request_id
from ctllm.tunnel.frames import Reason, decode_json_payload

DEEP = b"[" * 100_000 + b"]" * 100_000


class Named(msgspec.Struct):
    """The fields that are decoded; others are ignored."""

    name: str = ""


class DecodeTests(SynchronousTestCase):
    def test_refuses_invalid_json(self) -> None:
        """Text that is not JSON, of another type, not UTF-8, out of range or nested deeply."""
        for text in (
            b"",
            b"{",
            b"[]",
            b"\xff",
            b'{"name": "\xff"}',
            b'{"name": "\\ud800"}',
            b'{"name": 5}',
            b'{"name": "m"} x',
            b'{"x": ' + DEEP + b"}",
            b'{"x": ' + b'{"x": ' * 100_000,
            DEEP,
        ):
            error = self.assertRaises(InvalidJson, decode_json, text, Named)
            self.assertLess(len(str(error)), 200)
        for number in (b"1" * 5000, b"1e999", b"NaN"):
            self.assertRaises(InvalidJson, decode_json, number, float)
        self.assertRaises(InvalidJson, decode_json, DEEP, object)
        self.assertRaises(InvalidJson, decode_json, DEEP, msgspec.Raw)

    def test_accepts_bytes_text_and_raw(self) -> None:
        for text in (b'{"name": "m"}', '{"name": "m"}', msgspec.Raw(b'{"name": "m"}')):
            self.assertEqual(decode_json(text, Named), Named("m"))

    def test_decode_object_pairs_keeps_order_and_duplicates(self) -> None:
        members = decode_object_pairs(b'{"a": 1, "A": {"b": 2}, "a": [3]}')
        self.assertEqual(members, [("a", 1), ("A", [("b", 2)]), ("a", [3])])
        for text in (b"[]", b"", b'{"a": \xff}', b'{"a": ' + DEEP + b"}", DEEP):
            self.assertRaises(InvalidJson, decode_object_pairs, text)
        self.assertRaises(InvalidJson, decode_object_pairs, b'{"a": 1}', 7)

    def test_refuses_text_over_the_maximum_size(self) -> None:
        text = b'"%b"' % (b"a" * 10)
        self.assertEqual(decode_json(text, str, 12), "a" * 10)
        for given in (text, text.decode(), msgspec.Raw(text)):
            self.assertRaises(InvalidJson, decode_json, given, str, 11)


class CallerTests(SynchronousTestCase):
    """Each protocol refuses deeply nested JSON in its own way."""

    def test_the_tunnel_raises_its_errors(self) -> None:
        self.assertRaises(ProtocolViolation, decode_json_payload, DEEP, Reason)
        self.assertRaises(ValueError, decode_request, b'{"method": ' + DEEP + b"}")
        self.assertRaises(ValueError, decode_response, b'{"status": ' + DEEP + b"}")

    def test_the_ipc_raises_bad_request(self) -> None:
        line = b'{"command": "STATUS", "id": ' + DEEP + b"}"
        self.assertRaises(BadRequest, parse_request, line)
        self.assertIsNone(parse_request_id(line))
        self.assertRaises(BadRequest, parse_message, b'{"event": "status", "data": ' + DEEP + b"}")
