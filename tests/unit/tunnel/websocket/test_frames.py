"""Plain WebSocket frames: encoded and decoded."""

from __future__ import annotations

from itertools import cycle, pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.fastpath.websocket_mask import apply_mask
from ctllm.tunnel.websocket.frames import FrameDecoder, encode_frame

SIZES = (0, 1, 125, 126, 127, 511, 512, 513, 1025, 65535, 65536, 70_000)
LIMIT = 70_000
KEY = b"\x01\x80\xff\x5a"


class MaskTests(SynchronousTestCase):
    def test_masks_by_definition(self) -> None:
        for size in SIZES:
            payload = bytes(byte % 251 for byte in range(size))
            expected = bytes(
                a ^ b for a, b in zip(payload, cycle(b"\x01\x80\xff\x5a"), strict=False)
            )
            self.assertEqual(apply_mask(payload, KEY), expected)


class FrameTests(SynchronousTestCase):
    @given(
        st.lists(st.sampled_from(SIZES), max_size=4),
        st.lists(st.integers(0, 300_000), max_size=8),
        st.booleans(),
    )
    def test_decodes_the_messages_for_any_split(
        self, sizes: list[int], cuts: list[int], masked: bool
    ) -> None:
        sent = [bytes([number + 1]) * size for number, size in enumerate(sizes)]
        wire = b"".join(encode_frame(payload, masked) for payload in sent)
        messages, got = FrameDecoder(masked, LIMIT), []
        edges = [0, *sorted({cut % (len(wire) + 1) for cut in cuts}), len(wire)]
        for low, high in pairwise(edges):
            whole, rest = messages.feed(wire[low:high])
            got += whole
            self.assertEqual(rest, b"")
        self.assertEqual((got, len(messages)), (sent, 0))

    @given(st.lists(st.booleans(), max_size=6), st.lists(st.integers(0, 3000)), st.booleans())
    def test_passes_control_frames_on_complete(
        self, pings: list[bool], cuts: list[int], masked: bool
    ) -> None:
        key = KEY if masked else b""
        frames = [
            bytes((0x89, (0x80 if masked else 0) | 3)) + key + b"abc" if ping
            else encode_frame(b"x" * 300, masked)
            for ping in pings
        ]  # fmt: skip
        wire = b"".join(frames)
        messages, got, left = FrameDecoder(masked, LIMIT), [], b""
        edges = [0, *sorted({cut % (len(wire) + 1) for cut in cuts}), len(wire)]
        for low, high in pairwise(edges):
            whole, control = messages.feed(wire[low:high])
            got += whole
            left += control
            self.assertEqual(len(control) % len(key + b"12abc"), 0)
        self.assertEqual((got, len(messages)), ([b"x" * 300] * pings.count(False), 0))
        self.assertEqual(left, b"".join(f for f, ping in zip(frames, pings, strict=True) if ping))

    def test_each_frame_has_another_key(self) -> None:
        """RFC 6455, section 5.3."""
        self.assertNotEqual(encode_frame(bytes(20), True), encode_frame(bytes(20), True))

    def test_passes_everything_from_another_kind_of_frame_on(self) -> None:
        plain = encode_frame(b"ok", False)
        for other in (
            b"\x89\x80keys",  # a ping, masked by a server
            b"\x89\x7e\x00\x7e",  # one that is too long for a control frame
            b"\x09\x00",  # one that is fragmented
            b"\x02\x01a",  # a first fragment
            b"\x81\x01a",  # text
            b"\xc2\x01a",  # with a reserved bit, as of compression
            b"\x82\x81keysa",  # masked by a server
            b"\x82\x7e\x00\x01a",  # a length that is not the shortest
            b"\x82\x7f" + (65535).to_bytes(8, "big"),
            b"\x82\x7f" + (LIMIT + 1).to_bytes(8, "big"),  # too large
        ):
            self.assertEqual(FrameDecoder(False, LIMIT).feed(plain + other), ([b"ok"], other))
        self.assertEqual(FrameDecoder(True, LIMIT).feed(plain), ([], plain))

    def test_passes_a_head_on_that_came_in_two_parts(self) -> None:
        messages = FrameDecoder(False, LIMIT)
        self.assertEqual(messages.feed(b"\x82"), ([], b""))
        self.assertEqual(messages.feed(b"\x81keysa"), ([], b"\x82\x81keysa"))
        self.assertEqual(len(messages), 0)
