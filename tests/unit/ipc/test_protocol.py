"""`ctllm.ipc.protocol`: requests, responses and events as lines of JSON."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.errors import BadRequest
from ctllm.ipc import protocol

SECRET = "5e" * 32
NONCE = "ab" * 32


class ProtocolTests(SynchronousTestCase):
    def error_of(self, line: bytes) -> str:
        error: BadRequest = self.assertRaises(BadRequest, protocol.parse_request, line)
        return error.message

    def test_parses_every_command(self) -> None:
        more = {
            "AUTH": {"nonce": NONCE, "proof": "0" * 64},
            "PREFER": {"preference": "never"},
            "LOGIN": {"link": "https://c.example/#invite=x"},
            "BEGIN_LOGIN": {"cloud_url": "https://c.example"},
        }
        for number, command in enumerate(protocol.COMMANDS):
            line = json.dumps({"id": number, "command": command, **more.get(command, {})})
            request = protocol.parse_request(line.encode())
            self.assertEqual(request.id, number)
            self.assertEqual(json.loads(protocol.encode_request(request))["command"], command)

    def test_routing_policy_is_sent_as_preference(self) -> None:
        line = protocol.encode_request(protocol.Prefer(1, policy="auto"))
        self.assertEqual(json.loads(line), {"command": "PREFER", "id": 1, "preference": "auto"})

    def test_error_says_what_is_wrong_with_a_request(self) -> None:
        for line, text in (
            (b"hello", "one JSON object"),
            (b"[1]", "one JSON object"),
            (b'{"id":1}', "Unknown command ''"),
            (b'{"id":1,"command":"show"}', "Unknown command 'show'. The commands are AUTH, STATUS"),
            (b'{"id":1,"command":7}', "Unknown command"),
            (b'{"command":"SHOW"}', "SHOW: .*id"),
            (b'{"id":1.5,"command":"SHOW"}', "SHOW: "),
            (b'{"id":1,"command":"PREFER"}', "PREFER: .*preference"),
            (b'{"id":1,"command":"PREFER","preference":"mine"}', "PREFER: .*mine"),
            (b'{"id":1,"command":"SHOW","window":1}', "SHOW: .*window"),
            (b"[" * 100_000, "one JSON object"),
            (b'{"id":1,"command":"\xff"}', "one JSON object"),
        ):
            self.assertRegex(self.error_of(line), text)

    @given(st.binary(max_size=200))
    def test_any_line_is_a_request_or_bad_request(self, line: bytes) -> None:
        protocol.parse_request_id(line)
        try:
            protocol.parse_request(line)
        except BadRequest as error:
            self.assertTrue(error.message)

    def test_request_id_is_read_from_invalid_requests(self) -> None:
        self.assertEqual(protocol.parse_request_id(b'{"id":"a"}'), "a")
        self.assertIsNone(protocol.parse_request_id(b'{"id":[1]}'))
        self.assertIsNone(protocol.parse_request_id(b'{"id":"%s"}' % (b"x" * 100)))
        self.assertIsNone(protocol.parse_request_id(b"?"))

    def test_messages_of_the_daemon_are_parsed(self) -> None:
        answer = protocol.parse_message(protocol.encode_response(7, {"a": 1}))
        assert isinstance(answer, protocol.Response)
        self.assertEqual((answer.id, answer.ok, bytes(answer.data)), (7, True, b'{"a":1}'))
        event = protocol.parse_message(protocol.encode_event("status", [1]))
        assert isinstance(event, protocol.Event)
        self.assertEqual((event.event, bytes(event.data)), ("status", b"[1]"))
        self.assertRaises(BadRequest, protocol.parse_message, b'{"x":1}')

    def test_proof_depends_on_secret_role_challenge_and_nonce(self) -> None:
        proofs = {
            protocol.compute_proof(secret, who, challenge, nonce)
            for secret in (SECRET, "00" * 32)
            for who in ("client", "daemon")
            for challenge in ("a", "b")
            for nonce in ("a", "b")
        }
        self.assertEqual(len(proofs), 16)
