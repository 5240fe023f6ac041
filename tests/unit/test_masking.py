"""The mask of WebSocket clients, by its definition (RFC 6455, section 5.3)."""

from __future__ import annotations

from itertools import cycle

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from ctllm.fastpath import websocket_mask

KEY = b"\x01\x80\xff\x5a"
SIZES = (*range(20), 511, 512, 513, 514, 515, 4099, 65535, 65536, 70_001)


class MaskTests(SynchronousTestCase):
    """XOR with a key, over and over."""

    def each(self) -> None:
        for size in SIZES:
            payload = bytes(byte % 251 for byte in range(size))
            expected = bytes(a ^ b for a, b in zip(payload, cycle(KEY), strict=False))
            self.assertEqual(websocket_mask.apply_mask(payload, KEY), expected)
            self.assertEqual(websocket_mask.apply_mask(expected, KEY), payload)

    def test_in_c(self) -> None:
        """With the masker that autobahn brings."""
        if websocket_mask._in_c is None:
            raise SkipTest("this autobahn has none")
        self.each()

    def test_without(self) -> None:
        """And where it brings none."""
        self.patch(websocket_mask, "_in_c", None)
        self.each()

    def test_what_is_given_stays(self) -> None:
        """The payload itself is not changed."""
        payload = bytes(70_001)
        websocket_mask.apply_mask(payload, KEY)
        self.assertEqual(payload, bytes(70_001))
