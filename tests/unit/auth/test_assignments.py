"""Assignments: for one waiting proxy, of one key, for a minute."""

from __future__ import annotations

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.trial.unittest import SynchronousTestCase

from ctllm.auth.assignments import (
    ASSIGNMENT,
    LIFETIME_SECONDS,
    encode_assignment,
    verify_assignment,
)
from ctllm.auth.jws import LEEWAY, decode_public_key, encode_public_key
from ctllm.auth.session_assertions import ASSERTION
from ctllm.errors import Unauthorized

WAITING, USERS, NOW = "ctllm-proxy-w1", "ctllm-proxy-a", 1_700_000_000.0


class AssignmentTests(SynchronousTestCase):
    """What a waiting proxy accepts."""

    def setUp(self) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.public_key = decode_public_key(encode_public_key(self.key))

    def sign(self, claims: bytes, key: Ed25519PrivateKey | None = None) -> bytes:
        return ASSIGNMENT.sign(key or self.key, claims).encode()

    def verify(self, token: bytes, now: float = NOW, waiting_id: str = WAITING) -> str:
        return verify_assignment(self.public_key, waiting_id, token, now)

    def test_names_the_proxy_that_the_waiting_one_becomes(self) -> None:
        """For a minute, and the leeway of clocks."""
        token = self.sign(encode_assignment(WAITING, USERS, NOW))
        self.assertEqual(self.verify(token), USERS)
        self.assertEqual(self.verify(token, NOW + LIFETIME_SECONDS + LEEWAY - 1), USERS)
        for now in (NOW + LIFETIME_SECONDS + LEEWAY, NOW - 31):
            self.assertRaises(Unauthorized, self.verify, token, now)

    def test_is_of_no_use_to_another_proxy_or_by_another_key(self) -> None:
        """Nor is an assertion with the same claims, or a changed token."""
        claims = encode_assignment(WAITING, USERS, NOW)
        token = self.sign(claims)
        self.assertRaises(Unauthorized, self.verify, token, NOW, "ctllm-proxy-w2")
        for wrong in (
            self.sign(claims, Ed25519PrivateKey.generate()),
            ASSERTION.sign(self.key, claims).encode(),
            self.sign(claims[:-1] + b',"more":1}'),
            self.sign(encode_assignment(WAITING, "", NOW)),
            self.sign(msgspec.json.encode({**msgspec.json.decode(claims), "iss": "other"})),
            token[:-4],
            b"",
            b"\xff",
        ):
            self.assertRaises(Unauthorized, self.verify, wrong)
