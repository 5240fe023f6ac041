"""Tests of the format of encrypted files."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase as TestCase

from ctllm.desktop.conversations.sealed_file import (
    HEADER_SIZE,
    MAX_REVISION,
    OVERHEAD,
    DamagedFile,
    generate_key,
    key_fingerprint,
    read_revision,
    seal,
    unseal,
)

KEY = bytes(range(32))
NAME = "0123456789abcdef" * 2


class SealedFileTests(TestCase):
    """What is sealed opens unchanged, and only as what it is."""

    @given(st.binary(max_size=2000), st.integers(0, MAX_REVISION))
    def test_content_and_revision_come_back(self, content: bytes, revision: int) -> None:
        """The content is as long as before, and the revision can be read without the key."""
        sealed = seal(KEY, NAME, revision, content)
        self.assertEqual(len(sealed), len(content) + OVERHEAD)
        self.assertEqual(read_revision(sealed[:HEADER_SIZE]), revision)
        self.assertEqual(unseal(KEY, NAME, sealed), (revision, content))

    def test_the_content_is_not_in_the_file(self) -> None:
        """Nor are two files of the same content alike."""
        content = b"The marked sentence of this test"
        one, another = (seal(KEY, NAME, 7, content) for _ in range(2))
        self.assertNotIn(b"marked", one)
        self.assertNotEqual(one, another)

    @given(st.data())
    def test_a_changed_byte_is_damage(self, data: st.DataObject) -> None:
        """Of the header, the nonce, the content and the tag alike."""
        sealed = bytearray(seal(KEY, NAME, 7, b"content"))
        at = data.draw(st.integers(0, len(sealed) - 1))
        sealed[at] ^= data.draw(st.integers(1, 255))
        with self.assertRaises(DamagedFile):
            unseal(KEY, NAME, bytes(sealed))

    @given(st.integers(0, OVERHEAD + 6))
    def test_a_cut_file_is_damage(self, length: int) -> None:
        """Whatever is missing at its end."""
        with self.assertRaises(DamagedFile):
            unseal(KEY, NAME, seal(KEY, NAME, 7, b"content")[:length])

    def test_a_file_opens_under_its_own_name_only(self) -> None:
        """Two files cannot be exchanged."""
        sealed = seal(KEY, NAME, 7, b"content")
        with self.assertRaises(DamagedFile):
            unseal(KEY, "f" * 32, sealed)

    def test_another_key_opens_nothing(self) -> None:
        """And each generated key is another one, with a fingerprint of its own."""
        one, another = generate_key(), generate_key()
        with self.assertRaises(DamagedFile):
            unseal(another, NAME, seal(one, NAME, 7, b"content"))
        self.assertNotEqual(key_fingerprint(one), key_fingerprint(another))
        self.assertNotIn(one.hex(), key_fingerprint(one))
