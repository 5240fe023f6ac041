"""The masking of WebSocket frames, by its definition (RFC 6455, section 5.3)."""

from __future__ import annotations

from itertools import cycle
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from ctllm.fastpath.websocket_mask import MIN_NATIVE_LENGTH, apply_mask

try:
    from _nvx_xormasker import ffi, lib
except ImportError:
    native: tuple[Any, Any] | None = None
else:
    native = ffi, lib

KEY = b"\x01\x80\xff\x5a"
SIZES = (*range(20), *range(MIN_NATIVE_LENGTH - 1, MIN_NATIVE_LENGTH + 4), 4099, 65536, 70_001)


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
