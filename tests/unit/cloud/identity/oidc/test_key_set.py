"""`ctllm.cloud.identity.oidc.key_set`: the public keys of a provider."""

from __future__ import annotations

import json
from typing import Any

import jwt
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.identity.oidc.key_set import MAX_KEYS, PublicKey, parse_key_set, select_keys
from ctllm.cloud.identity.oidc.metadata import parse_metadata
from ctllm.cloud.identity.oidc.token_parser import parse_token
from ctllm.errors import BadGateway
from tests.unit.cloud.identity.oidc.tokens import ec_key, ed_key, jwk, key_set, rsa_key, sign


def only(key: dict[str, Any]) -> PublicKey | None:
    """Return the key of a set that has one, or None if it is left out."""
    found = parse_key_set(key_set(key))
    return found[0] if found else None


def is_verified(key: PublicKey | None, token: str) -> bool:
    parsed = parse_token(token)
    assert key is not None
    return key.verifies(parsed.algorithm, parsed.signed, parsed.signature)


class KeySetTests(SynchronousTestCase):
    def test_each_type_of_key_verifies_its_algorithms(self) -> None:
        for key, algorithms in (
            (rsa_key(), ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
            (ec_key(), ("ES256",)),
            (ed_key(), ("EdDSA",)),
        ):
            public = only(jwk(key))
            for algorithm in algorithms:
                self.assertTrue(is_verified(public, sign(key, algorithm)), algorithm)

    def test_other_keys_and_other_bytes_are_not_verified(self) -> None:
        public = only(jwk(rsa_key()))
        self.assertFalse(is_verified(public, sign(rsa_key("other"))))
        self.assertFalse(is_verified(public, sign(ec_key(), "ES256")))
        assert public is not None
        parsed = parse_token(sign())
        true = parsed.signature
        for changed in (b"", b"a", true[:-1], true + b"a", bytes(len(true)), b"\xff" * len(true)):
            self.assertFalse(public.verifies("RS256", parsed.signed, changed), changed)
        self.assertFalse(public.verifies("RS256", parsed.signed + b"a", true))
        for other in (ed_key(), ec_key()):
            key = only(jwk(other))
            assert key is not None
            (algorithm,) = key.algorithms
            for changed in (b"", b"a", true):
                self.assertFalse(key.verifies(algorithm, parsed.signed, changed))

    def test_a_key_with_an_algorithm_verifies_no_other(self) -> None:
        public = only(jwk(rsa_key(), alg="RS256"))
        self.assertTrue(is_verified(public, sign()))
        self.assertFalse(is_verified(public, sign(None, "PS256")))
        assert public is not None
        self.assertFalse(public.verifies("HS256", b"", b""))
        self.assertFalse(public.verifies("none", b"", b""))

    def test_keys_that_cannot_be_used_are_left_out(self) -> None:
        private = {**jwk(rsa_key()), "d": "AQAB"}
        key: Any
        for key in (
            {"kty": "oct", "k": "c2VjcmV0", "kid": "k1"},
            {"kty": "oct", "k": "c2VjcmV0", "kid": "k1", "alg": "RS256"},
            private,
            {**jwk(ed_key()), "d": "AAAA"},
            jwk(rsa_key(), use="enc"),
            jwk(rsa_key(), use=5),
            jwk(rsa_key(), key_ops=["encrypt"]),
            jwk(rsa_key(), key_ops="verify"),
            jwk(rsa_key(), alg="HS256"),
            jwk(rsa_key(), alg="ES256"),
            jwk(rsa_key("small", 1024)),
            jwk(rsa_key(), kid=5),
            jwk(rsa_key(), n="!"),
            jwk(rsa_key(), n=5),
            jwk(rsa_key(), e=None),
            jwk(ec_key(), crv="P-521"),
            jwk(ec_key(), crv="secp256k1"),
            jwk(ec_key(), x="AAAA"),
            jwk(ec_key(), crv=[]),
            {"kty": "RSA"},
            {"kty": {}},
            {},
        ):
            self.assertIsNone(only(key), key)
        self.assertEqual(len(parse_key_set(key_set(private, jwk(ec_key())))), 1)

    def test_a_key_that_is_published_with_its_private_part_is_left_out(self) -> None:
        """Everybody can sign with it."""
        for key, name in ((rsa_key(), "RS256"), (ec_key(), "ES256"), (ed_key(), "EdDSA")):
            whole = jwt.get_algorithm_by_name(name).to_jwk(key, as_dict=True)
            found = {**whole, "kid": "k1", "key_ops": ["sign", "verify"]}
            self.assertIsNone(only(found), name)
            self.assertIsNotNone(only(jwk(key)))

    def test_a_key_that_takes_long_to_compute_with_is_left_out(self) -> None:
        number = "_" * (16384 // 6)
        self.assertIsNone(only(jwk(rsa_key(), n=number)))

    def test_an_empty_set_has_no_keys(self) -> None:
        """A provider may retire all its keys: then none is valid."""
        self.assertEqual(parse_key_set(b'{"keys":[]}'), ())

    def test_refuses_what_is_no_set(self) -> None:
        for body in (
            b"",
            b"<html>",
            b"[]",
            b"{}",
            b'{"keys":{}}',
            b'{"keys":[5]}',
            b'{"keys":null}',
            b"[" * 9999,
            json.dumps({"keys": [{}] * (MAX_KEYS + 1)}).encode(),
        ):
            self.assertRaises(BadGateway, parse_key_set, body)


#: Values of members of a JWK, most of them wrong.
NAMES = "RSA EC OKP P-256 P-384 Ed25519 Ed448 RS256 ES256 EdDSA sig verify A AQAB ! é".split()
VALUES: list[Any] = [*NAMES, None, 5, True, "", "\0", [], {}, "A" * 2000, "_" * 1400]
MEMBERS = "kty crv n e x y d k alg use kid key_ops".split()
CHANGES = st.dictionaries(st.sampled_from(MEMBERS), st.sampled_from(VALUES))


class HostileKeySetTests(SynchronousTestCase):
    @given(st.sampled_from([rsa_key, ec_key, ed_key]), CHANGES)
    def test_no_key_raises_another_error(self, key: Any, changes: dict[str, Any]) -> None:
        try:
            found = parse_key_set(key_set({**jwk(key()), **changes}))
        except BadGateway:
            return
        for each in found:
            for algorithm in each.algorithms:
                self.assertFalse(each.verifies(algorithm, b"signed", b"signature"))

    @given(st.binary())
    def test_no_response_raises_another_error(self, body: bytes) -> None:
        self.assertRaises(BadGateway, parse_key_set, body)
        self.assertRaises(BadGateway, parse_metadata, body, "https://login.example")


class SelectTests(SynchronousTestCase):
    KEYS = parse_key_set(
        key_set(jwk(rsa_key()), jwk(rsa_key("b"), kid="k2"), jwk(ec_key(), kid=None))
    )

    def selected(self, key_id: str | None, algorithm: str) -> list[str | None]:
        return [key.id for key in select_keys(self.KEYS, key_id, algorithm)]

    def test_selects_by_id_and_algorithm(self) -> None:
        self.assertEqual(self.selected("k2", "RS256"), ["k2"])
        self.assertEqual(self.selected("k2", "ES256"), [])
        self.assertEqual(self.selected("k3", "RS256"), [])

    def test_without_an_id_it_selects_all_that_fit(self) -> None:
        self.assertEqual(self.selected(None, "ES256"), [None])
        self.assertEqual(self.selected(None, "RS256"), ["k1", "k2"])

    def test_shows_no_key_in_messages(self) -> None:
        self.assertNotIn("_key", repr(self.KEYS[0]))
