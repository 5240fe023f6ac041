"""The status as `ctllm status` prints it."""

from __future__ import annotations

from io import StringIO

from twisted.trial.unittest import SynchronousTestCase

from ctllm.cli.status_view import Style, format_status
from ctllm.ipc.messages import ConnectionState, DesktopStatus, OllamaStatus, Traffic
from tests.unit.fakes import make_status


class Terminal(StringIO):
    encoding = "utf-8"
    tty = True

    def isatty(self) -> bool:
        return self.tty


class StatusViewTests(SynchronousTestCase):
    def test_uses_colours_and_marks_only_where_the_output_has_them(self) -> None:
        out = Terminal()
        self.assertIn("\x1b[32m● Connected\x1b[0m", format_status(make_status(), Style(out, {})))
        self.assertNotIn("\x1b", format_status(make_status(), Style(out, {"NO_COLOR": "1"})))
        self.assertNotIn("\x1b", format_status(make_status(), Style(out, {"TERM": "dumb"})))
        out.tty = False
        self.assertTrue(format_status(make_status(), Style(out, {})).startswith("● Connected\n"))
        out.encoding = "ascii"
        self.assertTrue(format_status(make_status(), Style(out, {})).startswith("Connected\n"))

    def test_each_state_has_a_mark_and_its_reason(self) -> None:
        plain = Style(Terminal(), {"NO_COLOR": "1"})
        first = {
            format_status(make_status(state, reason="why"), plain).splitlines()[0]
            for state in ConnectionState
        }
        self.assertEqual(len({line[0] for line in first}), 5)
        self.assertTrue(all(line.endswith(": why") for line in first))

    def test_removes_control_characters(self) -> None:
        evil = "\x1b]0;evil\x07\x9b31m"
        desktop = DesktopStatus("a", f"attic{evil}", "up", (), False)
        evil_status = make_status(
            ConnectionState.ERROR, reason=evil, desktops=(desktop,), user=evil, last_error=evil
        )
        shown = format_status(evil_status, Style(Terminal(), {"NO_COLOR": "1"}))
        self.assertTrue(all(each.isprintable() for each in shown.replace("\n", "")))
        self.assertIn("attic", shown)

    def test_shows_models_desktops_and_the_last_error(self) -> None:
        models = tuple(f"model-{number}" for number in range(9))
        shown = format_status(
            make_status(
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
        self.assertNotIn("Generations", shown)
        self.assertIn(
            "Logged in   no", format_status(make_status(cloud_url=""), Style(Terminal(), {}))
        )

    def test_shows_how_many_generations_run(self) -> None:
        busy = make_status(traffic=Traffic(0, 0, 0, 0, 0, 0, 0, 0, running_generations=3))
        shown = format_status(busy, Style(Terminal(), {"NO_COLOR": "1"}))
        self.assertIn("Generations 3 in progress for the chat page", shown)
