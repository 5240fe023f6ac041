"""The send buffer and the receive window of a stream."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.tunnel.flow_control import ReceiveWindow, SendBuffer
from ctllm.tunnel.frames import MAX_DATA


class CutTests(SynchronousTestCase):
    """Where the send buffer cuts chunks."""

    def test_cuts_after_the_last_line_that_fits(self) -> None:
        out = SendBuffer(1000)
        out.append(b"123\n567\n9\n")
        self.assertEqual([out.next_chunk(9), out.next_chunk(9)], [(0, b"123\n567\n"), (8, b"9\n")])

    def test_cuts_events_after_the_empty_line(self) -> None:
        out = SendBuffer(1000)
        out.append(b"event: a\ndata: b\n\nevent: c\ndata: d\n\n")
        self.assertEqual([out.next_chunk(28), out.next_chunk(28)], [
            (0, b"event: a\ndata: b\n\n"), (18, b"event: c\ndata: d\n\n")])  # fmt: skip

    def test_extends_a_chunk_for_a_long_line(self) -> None:
        out = SendBuffer(10 * MAX_DATA)
        out.append(b"x" * 99 + b"\nyy\n")
        self.assertEqual(out.next_chunk(10), (0, b"x" * 99 + b"\n"))
        out = SendBuffer(10 * MAX_DATA)
        out.append(b"x" * MAX_DATA + b"\nyy\n")
        self.assertEqual(out.next_chunk(10), (0, b"x" * 10))
        out = SendBuffer(1000)
        out.append(b"x" * 99)
        self.assertEqual(out.next_chunk(10), (0, b"x" * 10))

    def test_waits_for_the_window_of_a_whole_line(self) -> None:
        out = SendBuffer(100)
        out.append(b"x" * 59 + b"\n" + b"y" * 59 + b"\n")
        self.assertEqual(out.next_chunk(100), (0, b"x" * 59 + b"\n"))
        self.assertEqual((out.next_chunk(100), out.can_send), (None, False))
        out.acknowledge(60)
        self.assertTrue(out.can_send)
        self.assertEqual(out.next_chunk(100), (60, b"y" * 59 + b"\n"))

    def test_cuts_a_line_that_exceeds_half_the_window(self) -> None:
        out = SendBuffer(100)
        out.append(b"x\n" + b"y" * 150 + b"\n")
        self.assertEqual([out.next_chunk(100), out.next_chunk(100)], [(0, b"x\n"), (2, b"y" * 98)])

    def test_rewind_ends_the_wait(self) -> None:
        out = SendBuffer(100)
        out.append(b"x" * 59 + b"\n" + b"y" * 59 + b"\n")
        self.assertEqual((out.next_chunk(100), out.next_chunk(100)), ((0, b"x" * 59 + b"\n"), None))
        out.rewind(0)
        self.assertTrue(out.can_send)
        self.assertEqual(out.next_chunk(100), (0, b"x" * 59 + b"\n"))

    @settings(max_examples=300)
    @given(st.data(), st.integers(1, 200), st.integers(1, 64), st.booleans())
    def test_sends_all_data_for_any_window(
        self, data: st.DataObject, window: int, share: int, events: bool
    ) -> None:
        end = b"\n\n" if events else b"\n"
        out, into = SendBuffer(window), ReceiveWindow(window)
        fits = window // 2 - len(end)
        sizes = data.draw(st.lists(st.integers(1, max(fits, 9)), max_size=20))
        sent = b"".join(b"x" * size + end for size in sizes)
        ends = {at for at in range(len(sent) + 1) if sent[:at].endswith(end)}
        out.append(sent)
        got = b""
        while out.can_send:
            piece = out.next_chunk(share)
            if piece is not None:
                into.receive(piece[0], len(piece[1]))
                got += piece[1]
                if max(sizes) <= fits:
                    self.assertIn(len(got), ends)
            if (data.draw(st.booleans()) or not out.can_send) and into.consume_all():
                out.acknowledge(into.acknowledge())
        self.assertEqual(got, sent)
