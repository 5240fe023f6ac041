"""The log as JSON lines: whatever is logged is one line that programs can read."""

from __future__ import annotations

import io
import json
from typing import Any

from twisted.logger import Logger, LogLevel, LogPublisher
from twisted.trial.unittest import SynchronousTestCase

from ctllm.log_observers import JsonLogObserver


class JsonLineTests(SynchronousTestCase):
    """Logged as the product logs."""

    def setUp(self) -> None:
        self.out = io.StringIO()
        self.log = Logger("ctllm.there", observer=LogPublisher(JsonLogObserver(self.out)))

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.getvalue().splitlines()]

    def test_a_line(self) -> None:
        """When (UTC), how grave, where, what."""
        self.log.warn("{what} broke", what="it")
        (line,) = self.lines()
        self.assertEqual(sorted(line), ["level", "message", "system", "time"])
        self.assertEqual(
            (line["level"], line["system"], line["message"]), ("warn", "ctllm.there", "it broke")
        )
        self.assertTrue(line["time"].endswith("+00:00"))

    def test_levels(self) -> None:
        """By their names."""
        for level in LogLevel.iterconstants():
            self.log.emit(level, "x")
        wanted = [level.name for level in LogLevel.iterconstants()]
        self.assertEqual([line["level"] for line in self.lines()], wanted)

    def test_a_failure(self) -> None:
        """With its trace, on the same line."""
        try:
            raise ValueError("why")
        except ValueError:
            self.log.failure("that failed")
        (line,) = self.lines()
        self.assertEqual((line["level"], line["message"]), ("critical", "that failed"))
        self.assertIn("ValueError: why", line["trace"])

    def test_whatever_is_logged(self) -> None:
        """Line breaks, texts that are no Unicode, and formats that do not fit."""
        for value in ("two\nlines", "\udc80\ud800", b"\xff", "\x00", object(), {"a": float("nan")}):
            self.log.info("{value}", value=value)
        self.log.info("{missing}")
        self.log.info("{unclosed", x=1)
        self.log.info("")
        self.assertEqual(len(self.lines()), 9)

    def test_a_failure_that_is_no_unicode(self) -> None:
        """Its trace is written all the same."""
        try:
            raise ValueError("\udc80")
        except ValueError:
            self.log.failure("that failed")
        self.assertIn("ValueError", self.lines()[0]["trace"])

    def test_old_events(self) -> None:
        """Those of libraries that log in the old way."""
        observer = JsonLogObserver(self.out)
        observer({"log_time": 0.0, "log_format": "{log_text}", "log_text": "hi"})
        (line,) = self.lines()
        self.assertEqual((line["level"], line["system"], line["message"]), ("info", "-", "hi"))
        self.assertEqual(line["time"], "1970-01-01T00:00:00.000+00:00")
