"""Lines out of bytes: the same, however the bytes came."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.common.line_reader import LineReader

BYTES = st.lists(st.sampled_from([b"a", b"\n", b"\r", b"bcd", b"\n\n", b"x" * 12]), max_size=40)


class LinesTests(SynchronousTestCase):
    @given(BYTES, st.integers(1, 9))
    def test_however_they_come(self, pieces: list[bytes], size: int) -> None:
        data = b"".join(pieces)
        whole = LineReader(10).feed(data)
        lines = LineReader(10)
        parts = [data[at : at + size] for at in range(0, len(data), size)]
        self.assertEqual([line for part in parts for line in lines.feed(part)], whole)
        self.assertEqual(lines.has_partial_line, not data.endswith(b"\n") and bool(data))

    @given(BYTES)
    def test_what_they_are(self, pieces: list[bytes]) -> None:
        """As cut by hand; those beyond the limit are told, and the next one is read."""
        data = b"".join(pieces)
        by_hand = [
            None if len(line) > 10 else line.removesuffix(b"\r") for line in data.split(b"\n")[:-1]
        ]
        self.assertEqual(LineReader(10).feed(data), by_hand)

    def test_an_endless_line_is_not_kept(self) -> None:
        lines = LineReader(10)
        for _ in range(1000):
            self.assertEqual(lines.feed(b"x" * 1000), [])
        self.assertEqual(len(lines._partial), 0)
        self.assertTrue(lines.has_partial_line)
        self.assertEqual(lines.feed(b"\nnext\n"), [None, b"next"])
