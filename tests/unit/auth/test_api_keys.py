"""`ctllm.auth.api_keys`: the format of API keys, and the records by which they are recognised."""

from __future__ import annotations

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from ctllm.auth.api_keys import (
    KeyRecord,
    generate_key,
    key_id,
    owner_tag,
    parse_owner_tag,
    record_key,
)
from ctllm.common.json_decoder import InvalidJson, decode_json

OWNER = "ctllm|alice"


class ApiKeyFormatTests(SynchronousTestCase):
    """The format of a key."""

    def test_a_key_has_a_prefix_and_the_owner_tag(self) -> None:
        key = generate_key(OWNER)
        self.assertTrue(key.startswith(f"ctllm-k-{owner_tag(OWNER)}-"))
        self.assertEqual(parse_owner_tag(key), owner_tag(OWNER))
        self.assertNotEqual(key, generate_key(OWNER))

    def test_other_text_has_no_owner_tag(self) -> None:
        key = generate_key(OWNER)
        longer = key.replace("-k-", "-k-0")
        for text in ("", "ctllm-k-", key[:-1], key + "a", key + "\n", key.upper(), longer):
            self.assertIsNone(parse_owner_tag(text))


class KeyRecordTests(SynchronousTestCase):
    """The record of a key."""

    def test_a_record_matches_its_key_only(self) -> None:
        key = generate_key(OWNER)
        record = record_key(key)
        self.assertTrue(record.matches(key))
        for other in (generate_key(OWNER), key[:-1], key + "a", record.digest, "", "\udcff"):
            self.assertFalse(record.matches(other))

    def test_two_records_of_a_key_have_one_id_and_different_digests(self) -> None:
        key = generate_key(OWNER)
        one, two = record_key(key), record_key(key)
        self.assertEqual((one.id, two.id), (key_id(key), key_id(key)))
        self.assertNotEqual(one.salt, two.salt)
        self.assertNotEqual(one.digest, two.digest)

    def test_a_record_has_nothing_of_the_secret(self) -> None:
        key = generate_key(OWNER)
        stored = msgspec.json.encode(record_key(key)).decode()
        self.assertNotIn(key[-43:], stored)

    def test_a_key_expires_at_its_time(self) -> None:
        record = record_key("k", expires=1000)
        self.assertEqual([record.is_expired(999.9), record.is_expired(1000)], [False, True])
        self.assertFalse(record_key("k").is_expired(1e12))

    def test_malformed_records_are_refused(self) -> None:
        good = msgspec.to_builtins(record_key("k"))
        decode_json(msgspec.json.encode(good), KeyRecord)
        decode_json(msgspec.json.encode({**good, "requests_per_minute": 60.0}), KeyRecord)
        for change in (
            {"id": "A" * 16}, {"id": "a" * 15}, {"id": "a" * 16 + "\n"}, {"salt": "zz"},
            {"digest": "0" * 63}, {"digest": "0" * 64 + "\n"}, {"scope": "serve"}, {"expires": -1},
            {"expires": 2**60}, {"models": ["a"] * 17}, {"models": ["a b"]}, {"models": ["a\n"]},
            {"models": ["a" * 129]}, {"models": "a"}, {"requests_per_minute": -1},
            {"requests_per_minute": 1.5}, {"expires": 0.5}, {"addresses": ["127.0.0.1"]},
        ):  # fmt: skip
            body = msgspec.json.encode({**good, **change})
            self.assertRaises(InvalidJson, decode_json, body, KeyRecord)
