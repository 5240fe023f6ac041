"""Signed requests: a signature holds for one key, method, path and minute."""

from __future__ import annotations

from base64 import b64encode

from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_core_ed25519_add
from twisted.trial.unittest import SynchronousTestCase

from ctllm.auth.request_signatures import PublicKey, parse_request_signature
from ctllm.errors import Forbidden, Unauthorized
from tests.ollama_key import OllamaKey

NOW = 1_700_000_000
QUERY = f"ts={NOW}".encode()
#: Points of the orders 8 and 2.
LOW_ORDER = bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a")
ORDER_TWO = bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f")
#: The key of the seed 0, 1 … 31, and what ssh-keygen -lf has printed for it.
SEED_KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIAOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"
SEED_FINGERPRINT = "SHA256:lbmsoA0yIEcEiVDRnMWuzm+nV+3ZEEpVIURqFoeSspg"


def verify(
    credentials: str,
    method: str = "POST",
    path: str = "/api/chat",
    query: bytes = QUERY,
    now: float = NOW,
) -> PublicKey:
    """Return the key of a valid signature; raises Unauthorized or Forbidden."""
    signature = parse_request_signature(credentials, query)
    signature.verify(method.encode(), path.encode(), now)
    return signature.key


class RequestSignatureTests(SynchronousTestCase):
    """What is accepted, and what is not."""

    def setUp(self) -> None:
        self.key = OllamaKey()
        self.good = self.key.sign("POST", "/api/chat", NOW)

    def assert_refused(self, credentials: str, **others: object) -> None:
        self.assertRaises(Unauthorized, verify, credentials, **others)

    def test_a_signature_is_valid_for_its_request(self) -> None:
        self.assertEqual(verify(self.good).data, self.key.raw)

    def test_a_raw_key_is_the_same_key(self) -> None:
        signature = self.good.partition(":")[2]
        raw = b64encode(self.key.raw).decode()
        self.assertEqual(verify(f"{raw}:{signature}").id, self.key.id)

    def test_another_method_or_path_is_refused(self) -> None:
        for method, path in (
            ("GET", "/api/chat"), ("post", "/api/chat"), ("POST", "/api/generate"),
            ("POST", "/api/chat/"), ("POST", "//api/chat"), ("POST", "/v1/../api/chat"),
            ("POST", "/API/chat"), ("POST", "/"), ("DELETE", "/api/delete"),
        ):  # fmt: skip
            self.assert_refused(self.good, method=method, path=path)

    def test_a_path_is_signed_before_it_is_percent_encoded(self) -> None:
        signed = self.key.sign("HEAD", "/api/blobs/a b", NOW)
        verify(signed, "HEAD", "/api/blobs/a%20b")
        signed = self.key.sign("HEAD", "/api/blobs/a%2Fb", NOW)
        self.assert_refused(signed, method="HEAD", path="/api/blobs/a/b")

    def test_what_remains_encoded_was_signed_as_it_is(self) -> None:
        signed = self.key.sign("HEAD", "/api/blobs/a%2520b", NOW)
        verify(signed, "HEAD", "/api/blobs/a%2520b")
        signed = self.key.sign("HEAD", "/api/blobs/a%20b", NOW)
        self.assert_refused(signed, method="HEAD", path="/api/blobs/a%2520b")

    def test_a_time_within_a_minute_is_accepted(self) -> None:
        for now in (NOW - 60, NOW, NOW + 60):
            verify(self.good, now=now)

    def test_a_replay_is_refused_with_the_difference_of_the_clocks(self) -> None:
        """403, because `ollama` prints the message of that."""
        error = self.assertRaises(Forbidden, verify, self.good, now=NOW + 61)
        self.assertIn("was signed 61 seconds ago", error.message)
        error = self.assertRaises(Forbidden, verify, self.good, now=NOW - 7200)
        self.assertIn("was signed 120 minutes in the future", error.message)
        self.assertIn("Check the clock", error.message)

    def test_a_changed_time_is_refused(self) -> None:
        self.assert_refused(self.good, query=f"ts={NOW + 61}".encode(), now=NOW + 61)

    def test_the_query_is_one_time_and_no_more(self) -> None:
        ts = QUERY.decode()
        for query in (
            "", "ts=", "ts", f"{ts}&{ts}", f"{ts}&x=1", f"x=1&{ts}", f"{ts}&", f"&{ts}", "ts=abc",
            "ts=-1", "ts=0", f"ts=0{NOW}", f"ts=+{NOW}", f"ts={NOW}.0", "ts=1e9", f"TS={NOW}",
            f"ts=%31{str(NOW)[1:]}", "ts=" + "9" * 13, "ts=" + "9" * 5000, f"{ts}#", f"ts={NOW}\n",
        ):  # fmt: skip
            for time in (query.partition("=")[2], str(NOW)):
                signed = self.key.sign("POST", "/api/chat", time)
                self.assert_refused(signed, query=query.encode())

    def test_the_largest_time_is_no_error_of_another_kind(self) -> None:
        time = "9" * 12
        signed = self.key.sign("POST", "/api/chat", time)
        self.assertRaises(Forbidden, verify, signed, query=f"ts={time}".encode())

    def test_the_signature_of_another_key_is_refused(self) -> None:
        other = OllamaKey().sign("POST", "/api/chat", NOW).partition(":")[2]
        self.assert_refused(f"{self.key.public_key}:{other}")

    def test_only_canonical_base64_of_the_right_size_is_accepted(self) -> None:
        key, _, signature = self.good.partition(":")
        last = signature[-3]
        spare = signature[:-3] + chr(ord(last) + 1) + "=="  # the same bytes for a lax decoder
        for credentials in (
            "", ":", key, f"{key}:", f":{signature}", f"{key}:{signature}:", f"{key}::{signature}",
            f"{key}:{spare}", f"{key}:{signature[:-1]}", f"{key}:{signature}=",
            f"{key}:\n{signature}",
            f"{key}:{signature.rstrip('=')}", f"{key[:-4]}:{signature}", f"{key}AAAA:{signature}",
            f"{key.replace('A', '-', 1)}:{signature}", f"{key}:{'é' * 88}",
            f"ssh-ed25519 {self.good}",
            f"{key}:{signature}" + "A" * 100_000, "A" * 70 + ":" + "A" * 86,
        ):  # fmt: skip
            self.assert_refused(credentials)

    def test_keys_of_another_type_are_refused(self) -> None:
        blob = b"\0\0\0\x0bssh-rsa2048\0\0\0 " + self.key.raw
        signature = self.good.partition(":")[2]
        self.assert_refused(f"{b64encode(blob).decode()}:{signature}")

    def test_weak_keys_are_refused(self) -> None:
        """For a point of low order, a signature of zeros holds for many messages."""
        mixed = crypto_core_ed25519_add(self.key.raw, ORDER_TWO)
        not_canonical = b"\xee" + b"\xff" * 30 + b"\x7f"
        for point in (bytes(32), b"\1" + bytes(31), LOW_ORDER, ORDER_TWO, mixed, not_canonical):
            zeros = b64encode(b"\1" + bytes(63)).decode()
            credentials = f"{b64encode(point).decode()}:{zeros}"
            error = self.assertRaises(Unauthorized, verify, credentials)
            self.assertIn("weak", error.message)

    @given(st.text(max_size=200) | st.builds("{}:{}".format, st.text(), st.text()), st.binary())
    def test_anything_else_is_refused_with_one_error(self, credentials: str, query: bytes) -> None:
        for each in (query, QUERY):
            self.assert_refused(credentials, query=each)

    @given(st.integers(0, 156), st.characters(codec="latin-1"))
    def test_a_changed_character_is_refused(self, position: int, character: str) -> None:
        changed = self.good[:position] + character + self.good[position + 1 :]
        if changed != self.good:
            self.assert_refused(changed)

    def test_no_secret_is_in_the_representation(self) -> None:
        signature = parse_request_signature(self.good, QUERY)
        self.assertNotIn("signature=", repr(signature))

    def test_the_fingerprint_is_that_of_ssh_keygen(self) -> None:
        key = OllamaKey(bytes(range(32)))
        self.assertEqual(
            key.public_key, "AAAAC3NzaC1lZDI1NTE5AAAAIAOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"
        )
        signed = key.sign("POST", "/api/chat", NOW)
        self.assertEqual(
            verify(signed).fingerprint, "SHA256:lbmsoA0yIEcEiVDRnMWuzm+nV+3ZEEpVIURqFoeSspg"
        )
        self.assertEqual(key.fingerprint, SEED_FINGERPRINT)
