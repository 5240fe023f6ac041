"""The masking of WebSocket frames, by its definition (RFC 6455, section 5.3)."""

from __future__ import annotations

import os
from itertools import cycle
from typing import Any
from unittest import skipUnless

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from ctllm.fastpath.websocket_mask import (
    KEY_LENGTH,
    MIN_NATIVE_LENGTH,
    RANDOM_BYTES,
    KeySource,
    apply_mask,
    key_source,
)

try:
    from _nvx_xormasker import ffi, lib
except ImportError:
    native: tuple[Any, Any] | None = None
else:
    native = ffi, lib

KEY = b"\x01\x80\xff\x5a"
SIZES = (*range(20), *range(MIN_NATIVE_LENGTH - 1, MIN_NATIVE_LENGTH + 4), 4099, 65536, 70_001)


class KeySourceTests(SynchronousTestCase):
    def test_uses_each_random_byte_once(self) -> None:
        drawn: list[bytes] = []

        def urandom(size: int) -> bytes:
            drawn.append(bytes((len(drawn) * 7 + i // 251 + i) % 256 for i in range(size)))
            return drawn[-1]

        self.patch(os, "urandom", urandom)
        source = KeySource()
        keys = [source.next_key() for _ in range(2 * RANDOM_BYTES // KEY_LENGTH)]
        self.assertEqual({len(key) for key in keys}, {KEY_LENGTH})
        self.assertEqual(b"".join(keys), b"".join(drawn))

    @skipUnless(hasattr(os, "fork"), "this system has no fork")
    def test_a_forked_process_has_keys_of_its_own(self) -> None:
        key_source.next_key()
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.write(writer, key_source.next_key())
            os._exit(0)
        os.waitpid(child, 0)
        self.assertNotEqual(os.read(reader, KEY_LENGTH), key_source.next_key())
        os.close(reader)
        os.close(writer)


class ApplyMaskTests(SynchronousTestCase):
    def check_every_size(self, native: tuple[Any, Any] | None) -> None:
        for size in SIZES:
            payload = bytes(byte % 251 for byte in range(size))
            expected = bytes(a ^ b for a, b in zip(payload, cycle(KEY), strict=False))
            self.assertEqual(apply_mask(payload, KEY, native), expected)
            self.assertEqual(apply_mask(expected, KEY, native), payload)

    def test_masks_with_the_masker_in_c(self) -> None:
        if native is None:
            raise SkipTest("this package of autobahn has no masker in C")
        self.check_every_size(native)

    def test_masks_the_same_without_the_masker_in_c(self) -> None:
        self.check_every_size(None)

    def test_leaves_the_payload_unchanged(self) -> None:
        payload = bytes(70_001)
        apply_mask(payload, KEY)
        self.assertEqual(payload, bytes(70_001))
