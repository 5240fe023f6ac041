"""Smaller parts of the daemon: the page in the browser, the log that is asked for, leaving."""

from __future__ import annotations

from io import StringIO
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cli.status_view import Style, format_status
from ctllm.desktop.graceful_shutdown import GracefulShutdown
from ctllm.ipc.messages import DesktopStatus, OllamaStatus
from tests.unit.ctllm_tray.test_tray import status


class Broker:
    def __init__(self) -> None:
        self.aborted = 0

    def abort_requests(self, error: Any) -> None:
        self.aborted += 1


class LeavingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.under_way, self.stops = Clock(), 2, 0
        self.broker: Any = Broker()
        self.leaving = GracefulShutdown(self.clock, self.broker, lambda: self.under_way, self.stop)

    def stop(self) -> None:
        self.stops += 1
        self.leaving.stopService()

    def test_when_all_is_done(self) -> None:
        self.assertEqual(self.leaving.begin(10), 2)
        self.clock.pump([0.1] * 30)
        self.assertEqual(self.stops, 0)
        self.under_way = 0
        self.clock.pump([0.1] * 30)
        self.assertEqual((self.stops, self.broker.aborted), (1, 1))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_longer_than_that(self) -> None:
        self.leaving.begin(10)
        self.clock.pump([0.1] * 99)
        self.assertEqual(self.stops, 0)
        self.clock.pump([0.1] * 5)
        self.assertEqual(self.stops, 1)

    def test_asked_again(self) -> None:
        """The last word counts."""
        self.leaving.begin(1000)
        self.leaving.begin(1)
        self.clock.pump([0.1] * 12)
        self.assertEqual(self.stops, 1)

    def test_the_answer_leaves_first(self) -> None:
        self.under_way = 0
        self.leaving.begin(0)
        self.assertEqual(self.stops, 0)


class Terminal(StringIO):
    encoding = "utf-8"  # type: ignore[assignment]
    tty = True

    def isatty(self) -> bool:
        return self.tty


class Screens(SynchronousTestCase):
    def test_marks_and_colours(self) -> None:
        """Colours only on a terminal that wants them, marks only where they can be written."""
        out = Terminal()
        self.assertIn("\x1b[32m● connected\x1b[0m", format_status(status(), Style(out, {})))
        self.assertNotIn("\x1b", format_status(status(), Style(out, {"NO_COLOR": "1"})))
        self.assertNotIn("\x1b", format_status(status(), Style(out, {"TERM": "dumb"})))
        out.tty = False
        self.assertTrue(format_status(status(), Style(out, {})).startswith("● connected\n"))
        out.encoding = "ascii"
        self.assertTrue(format_status(status(), Style(out, {})).startswith("connected\n"))

    def test_each_state(self) -> None:
        plain = Style(Terminal(), {"NO_COLOR": "1"})
        first = {format_status(status(state, reason="why"), plain).splitlines()[0] for state in
                 ("connected", "connecting", "signed_out", "degraded", "error")}  # fmt: skip
        self.assertEqual(len({line[0] for line in first}), 5)
        self.assertTrue(all(line.endswith(": why") for line in first))

    def test_nothing_that_a_terminal_obeys(self) -> None:
        """Whatever a cloud or another desktop calls itself."""
        evil = "\x1b]0;evil\x07\x9b31m"
        desktop = DesktopStatus("a", f"attic{evil}", "up", (), False)
        told = status("error", reason=evil, desktops=(desktop,), user=evil, last_error=evil)
        shown = format_status(told, Style(Terminal(), {"NO_COLOR": "1"}))
        self.assertTrue(all(each.isprintable() for each in shown.replace("\n", "")))
        self.assertIn("attic", shown)

    def test_the_rest(self) -> None:
        models = tuple(f"model-{number}" for number in range(9))
        shown = format_status(
            status(
                ollama=OllamaStatus("http://x", "down", "", models, ("model-1",)),
                desktops=(
                    DesktopStatus("a", "attic", "up", (), True),
                    DesktopStatus("b", "cellar", "down", (), False),
                ),
                last_error="it broke", policy="never", endpoint="",
            ),
            Style(Terminal(), {"NO_COLOR": "1"}),
        )  # fmt: skip
        for words in (
            "not responding at http://x", "model-5 and 3 more", "In memory   model-1",
            "desktop.listen is off", "never cloud", "attic (this one)",
            "              cellar: Ollama is down", "Last error  it broke",
        ):  # fmt: skip
            self.assertIn(words, shown)
        self.assertIn("Logged in   no", format_status(status(cloud_url=""), Style(Terminal(), {})))
