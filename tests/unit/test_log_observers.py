"""Tests of `ctllm.log_observers`."""

from __future__ import annotations

import io
import json
from typing import Any

from twisted.logger import Logger, LogLevel, LogPublisher
from twisted.trial.unittest import SynchronousTestCase

from ctllm.log_observers import JsonLogObserver


class JsonLineTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.out = io.StringIO()
        observer: Any = JsonLogObserver(self.out)
        self.log = Logger("ctllm.there", observer=LogPublisher(observer))

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.getvalue().splitlines()]

    def test_a_line_has_time_level_system_and_message(self) -> None:
        self.log.warn("{what} broke", what="it")
        (line,) = self.lines()
        self.assertEqual(sorted(line), ["level", "message", "system", "time"])
        self.assertEqual(
            (line["level"], line["system"], line["message"]), ("warn", "ctllm.there", "it broke")
        )
        self.assertTrue(line["time"].endswith("+00:00"))

    def test_levels_are_names(self) -> None:
        for level in LogLevel.iterconstants():
            self.log.emit(level, "x")
        wanted = [level.name for level in LogLevel.iterconstants()]
        self.assertEqual([line["level"] for line in self.lines()], wanted)

    def test_a_failure_has_its_traceback_on_the_same_line(self) -> None:
        try:
            raise ValueError("why")
        except ValueError:
            self.log.failure("that failed")
        (line,) = self.lines()
        self.assertEqual((line["level"], line["message"]), ("critical", "that failed"))
        self.assertIn("ValueError: why", line["trace"])

    def test_each_event_is_one_line_of_json(self) -> None:
        for value in ("two\nlines", "\udc80\ud800", b"\xff", "\x00", object(), {"a": float("nan")}):
            self.log.info("{value}", value=value)
        self.log.info("{missing}")
        self.log.info("{unclosed", x=1)
        self.log.info("")
        self.assertEqual(len(self.lines()), 9)

    def test_a_traceback_with_surrogates_is_written(self) -> None:
        try:
            raise ValueError("\udc80")
        except ValueError:
            self.log.failure("that failed")
        self.assertIn("ValueError", self.lines()[0]["trace"])

    def test_accepts_events_of_the_old_log(self) -> None:
        observer = JsonLogObserver(self.out)
        observer({"log_time": 0.0, "log_format": "{log_text}", "log_text": "hi"})
        (line,) = self.lines()
        self.assertEqual((line["level"], line["system"], line["message"]), ("info", "-", "hi"))
        self.assertEqual(line["time"], "1970-01-01T00:00:00.000+00:00")
