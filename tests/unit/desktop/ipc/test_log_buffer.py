"""`ctllm.desktop.ipc.log_buffer`: the last lines of the log."""

from __future__ import annotations

from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.ipc.log_buffer import MAX_LINE_LENGTH, MAX_LINES, LogBuffer


class LogBufferTests(SynchronousTestCase):
    def test_stores_the_last_lines_truncated_and_passes_them_on(self) -> None:
        buffer = LogBuffer()
        seen: list[str] = []
        buffer.add_observer(seen.append)
        log = Logger(observer=buffer)
        for number in range(MAX_LINES + 10):
            log.info("line {number}", number=number)
        log.info("two\nlines, the second {long}", long="x" * 10_000)
        self.assertEqual(len(buffer.last(5000)), MAX_LINES)
        self.assertEqual(len(buffer.last(3)), 3)
        self.assertEqual(buffer.last(0), [])
        self.assertIn("two", buffer.last(2)[0])
        self.assertLessEqual(len(buffer.last(1)[0]), MAX_LINE_LENGTH)
        self.assertEqual(seen[-1], buffer.last(1)[0])
