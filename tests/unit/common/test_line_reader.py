"""A parser of lines gives the same lines however the bytes arrive."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.common.line_reader import LineReader

BYTES = st.lists(st.sampled_from([b"a", b"\n", b"\r", b"bcd", b"\n\n", b"x" * 12]), max_size=40)


class LineReaderTests(SynchronousTestCase):
    @given(BYTES, st.integers(1, 9))
    def test_returns_the_same_lines_for_any_split(self, pieces: list[bytes], size: int) -> None:
        data = b"".join(pieces)
        whole = LineReader(10).feed(data)
        lines = LineReader(10)
        parts = [data[at : at + size] for at in range(0, len(data), size)]
        self.assertEqual([line for part in parts for line in lines.feed(part)], whole)
        self.assertEqual(lines.has_partial_line, not data.endswith(b"\n") and bool(data))

    @given(BYTES)
    def test_returns_lines_without_ends_and_none_for_those_too_long(
        self, pieces: list[bytes]
    ) -> None:
        data = b"".join(pieces)
        expected = [
            None if len(line) > 10 else line.removesuffix(b"\r") for line in data.split(b"\n")[:-1]
        ]
        self.assertEqual(LineReader(10).feed(data), expected)

    def test_skips_an_endless_line_and_reads_the_next(self) -> None:
        lines = LineReader(10)
        for _ in range(1000):
            self.assertEqual(lines.feed(b"x" * 1000), [])
        self.assertTrue(lines.has_partial_line)
        self.assertEqual(lines.feed(b"\nnext\n"), [None, b"next"])
