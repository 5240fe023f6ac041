"""Tests of output to terminals and logs: text from elsewhere cannot control a terminal."""

from __future__ import annotations

import ast
import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet.testing import StringTransport
from twisted.logger import FileLogObserver, Logger, LogPublisher
from twisted.trial.unittest import SynchronousTestCase

import ctllm
from ctllm.cli.output import print_error, print_json, print_text, show_progress
from ctllm.common.sanitize import escape_unprintable, sanitize_text
from ctllm.desktop.ipc.log_buffer import LogBuffer
from ctllm.desktop.ipc.webview_process import WebviewProcess
from ctllm.log_observers import JsonLogObserver, format_text_lines, make_text_observer

#: Clear the screen, set the title (OSC), C1's CSI, DEL, an override of direction, line separator.
HOSTILE = "a\x1b[2J\x1b]0;title\x07\x9b2J\x7f\u202egnp\u2028\u2066z"
ROOT = Path(ctllm.__file__).parent

#: Only a rotation of the log by a signal needs the reactor.
REACTOR: Any = None


class OutletTests(SynchronousTestCase):
    """The commands'."""

    def test_printed_text_keeps_lines_and_tabs_and_replaces_control_characters(self) -> None:
        out, errors = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(errors):
            print_text(f"one\n\ttwo {HOSTILE}")
            print_error(HOSTILE)
        for said in (out.getvalue(), errors.getvalue()):
            self.assertTrue(said.replace("\n", "").replace("\t", "").isprintable(), repr(said))
        self.assertTrue(out.getvalue().startswith("one\n\ttwo a\ufffd[2J"))

    def test_progress_is_shown_on_a_terminal_alone_and_in_one_line(self) -> None:
        for is_terminal, shown in ((True, "\r\x1b[KOne\r\x1b[Ka\ufffdb\r\x1b[K"), (False, "")):
            errors = io.StringIO()
            errors.isatty = mock.Mock(return_value=is_terminal)  # type: ignore[method-assign]
            with redirect_stderr(errors):
                for text in ("One", "a\x1bb", ""):
                    show_progress(text)
            self.assertEqual(errors.getvalue(), shown)

    def test_json(self) -> None:
        """It means the same, and is one printable line."""
        for value in ({"name": HOSTILE}, "\U000e0001 \U0001f600", ["\x85"]):
            out = io.StringIO()
            with redirect_stdout(out):
                print_json(value)
            self.assertTrue(out.getvalue().removesuffix("\n").isprintable())
            self.assertEqual(json.loads(out.getvalue()), value)

    def test_plain_text_is_left_alone(self) -> None:
        for text in ("", "plain", "naïve 模型", "\U0001f600"):
            self.assertEqual(sanitize_text(text), text)
            self.assertEqual(escape_unprintable(text), text)

    def test_commands_print_only_through_this_module(self) -> None:
        wrong = [
            f"{path.name}: {ast.unparse(node)}"
            for path in sorted((ROOT / "cli").glob("*.py"))
            if path.name != "output.py"
            for node in ast.walk(ast.parse(path.read_text()))
            if (isinstance(node, ast.Name) and node.id == "print")
            or ast.unparse(node) in ("sys.stderr", "sys.stdout.write")
            or (ast.unparse(node).endswith(".isatty") and ast.unparse(node) != "os.isatty")
        ]
        self.assertEqual(wrong, [])

    def test_a_closed_stdout_does_not_change_the_exit_status(self) -> None:
        program = (
            "from ctllm.cli.output import is_stdout_closed, print_text, tolerate_closed_stdout\n"
            "with tolerate_closed_stdout():\n"
            "    while not is_stdout_closed(): print_text('x' * 1000)\n"
            "    print_text('more')\n"
            "    raise SystemExit(4)\n"
        )
        words = [sys.executable, "-c", program]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
            assert running.stdout is not None and running.stderr is not None
            running.stdout.read(10)
            running.stdout.close()
            self.assertEqual(running.stderr.read(), b"")
            self.assertEqual(running.wait(30), 4)

    def test_streams_that_were_closed_before_the_start_are_no_terminals(self) -> None:
        """As in some cron jobs and services: Python has None for them."""
        program = (
            "from ctllm.cli.account import _read_link\nfrom ctllm.cli.status_view import Style\n"
            "import sys\nfrom ctllm.errors import BadRequest\n"
            "assert not Style(sys.stdout).has_colour\nassert _read_link('-') == ''\n"
            "try: _read_link('')\n"
            "except BadRequest: sys.exit(4)\n"
        )
        words = ["sh", "-c", 'exec "$0" -c "$1" <&- >&-', sys.executable, program]
        done = subprocess.run(words, stderr=subprocess.PIPE, timeout=30)
        self.assertEqual((done.returncode, done.stderr), (4, b""))

    def test_help_into_a_closed_stdout_is_no_error(self) -> None:
        program = (
            "import os, sys\nfrom ctllm.cli import main\n"
            "read, write = os.pipe(); os.close(read); os.dup2(write, 1)\n"
            "main(['--help'])"
        )
        words = [sys.executable, "-c", program]
        done = subprocess.run(words, capture_output=True, timeout=30)
        self.assertEqual((done.returncode, done.stderr), (0, b""))

    def test_a_full_disk_is_an_error_with_a_message(self) -> None:
        if not Path("/dev/full").exists():
            return
        state = Path(self.mktemp())
        file = state / "desktop" / "credentials.json"
        file.parent.mkdir(parents=True)
        file.write_text('{"desktop_id": "d", "keys": {"a": "k"}}')
        program = f"from ctllm.cli import main; main(['--state-dir={state}', 'keys'])"
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, timeout=30
            )
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"cannot write to standard output: No space left", done.stderr)
        self.assertNotIn(b"Traceback", done.stderr)


class LogTests(SynchronousTestCase):
    """The daemon's."""

    def said(self, observer: Any) -> None:
        log = Logger("ctllm.there", observer=LogPublisher(observer))
        log.info("the cloud said {what}", what=HOSTILE)
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            log.failure("that failed")

    def test_text(self) -> None:
        """As twistd writes it: further lines are indented, so that none can be forged."""
        out = io.StringIO()
        self.said(FileLogObserver(out, format_text_lines))
        text = out.getvalue()
        self.assertTrue(text.replace("\n", "").replace("\t", "").isprintable(), repr(text))
        first, *more = text.splitlines()
        self.assertIn("[ctllm.there#info] the cloud said a\ufffd[2J", first)
        self.assertIn("[ctllm.there#critical] that failed", more[0])
        self.assertTrue(all(line.startswith("\t") for line in more[1:]), more)

    def test_json(self) -> None:
        """The whole is there, as escapes."""
        out = io.StringIO()
        self.said(JsonLogObserver(out))
        lines = out.getvalue().splitlines()
        self.assertTrue(all(line.isprintable() for line in lines))
        self.assertEqual(json.loads(lines[0])["message"], f"the cloud said {HOSTILE}")

    def test_the_log_buffer_has_printable_lines(self) -> None:
        recent = LogBuffer()
        self.said(recent)
        self.assertTrue(all(line.replace("\t", "").isprintable() for line in recent.last(99)))

    def test_logs_to_the_file_of_twistds_options(self) -> None:
        path = Path(self.mktemp())
        observer = make_text_observer({"logfile": str(path), "nodaemon": True}, REACTOR)
        assert observer is not None
        self.said(observer)
        self.assertIn("the cloud said", path.read_text())
        self.assertIsNone(make_text_observer({}, REACTOR))
        self.assertIsNone(make_text_observer({"syslog": True, "logfile": str(path)}, REACTOR))


class WindowTests(SynchronousTestCase):
    """The process of the page's window."""

    def test_a_command_to_the_window_is_one_line(self) -> None:
        child = WebviewProcess()
        transport: Any = StringTransport()
        child.transport = transport
        for line in (
            "open http://x/\nopen file:///etc/passwd",
            "open http://x/\r",
            f"open {HOSTILE}",
        ):
            self.assertRaises(ValueError, child.send_line, line)
        child.send_line("open https://cloud.example/#invite=x")
        self.assertEqual(transport.value(), b"open https://cloud.example/#invite=x\n")
