"""`ctllm.cli.firewall_watcher`: checks, and answers at a real socket."""

from __future__ import annotations

import io
import shutil
import socket
import stat
import tempfile
from contextlib import redirect_stderr
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cli.firewall_watcher import FirewallWatcher, listen
from ctllm.errors import BadConfiguration


class FirewallWatcherTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.mkdtemp(prefix="ctllm-")
        self.addCleanup(shutil.rmtree, folder)
        self.path = Path(folder, "run", "socket")
        self.clock = Clock()
        self.checks = 0
        self.problem = ""
        self.listener = listen(self.path)
        self.addCleanup(self.listener.close)
        self.watcher = FirewallWatcher(self.restore, self.listener, 10, self.clock.seconds)
        self.watcher.run_once()

    def restore(self) -> None:
        self.checks += 1
        if self.problem:
            raise BadConfiguration(self.problem)

    def connect(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        self.addCleanup(made.close)
        made.settimeout(5)
        made.connect(str(self.path))
        return made

    def read(self, connection: socket.socket) -> bytes:
        return b"".join(iter(lambda: connection.recv(4096), b""))

    def test_checks_at_once_and_after_the_interval(self) -> None:
        self.assertEqual(self.checks, 1)
        self.clock.advance(10)
        self.watcher.run_once()
        self.assertEqual(self.checks, 2)

    def test_one_check_answers_all_that_wait(self) -> None:
        asking = [self.connect() for _ in range(5)]
        self.watcher.run_once()
        self.assertEqual(self.checks, 2)
        for each in asking:
            self.assertEqual(self.read(each), b'{"problem":""}\n')

    def test_a_client_that_left_disturbs_nobody(self) -> None:
        self.connect().close()
        asking = self.connect()
        self.watcher.run_once()
        self.assertEqual(self.read(asking), b'{"problem":""}\n')

    def test_answers_with_the_problem_and_prints_it_once(self) -> None:
        self.problem = "no \x1b " + "x" * 5000
        with redirect_stderr(io.StringIO()) as printed:
            for _ in range(2):
                asking = self.connect()
                self.watcher.run_once()
                self.assertIn(b'{"problem":"no ', answer := self.read(asking))
                self.assertLess(len(answer), 1024)
        self.assertEqual(printed.getvalue().count("no \ufffd "), 1)
        self.problem = ""
        asking = self.connect()
        self.watcher.run_once()
        self.assertEqual(self.read(asking), b'{"problem":""}\n')

    def test_owner_and_group_may_connect(self) -> None:
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o660)

    def test_takes_the_place_of_a_killed_one_only(self) -> None:
        error = self.assertRaises(BadConfiguration, listen, self.path)
        self.assertIn("another ctllm firewall --watch", str(error))
        self.listener.close()
        listen(self.path).close()

    def test_keeps_other_files_and_reports_paths_that_are_too_long(self) -> None:
        file = self.path.with_name("file")
        file.write_text("mine")
        for path in (file, self.path.with_name("x" * 120), file / "socket"):
            error = self.assertRaises(BadConfiguration, listen, path)
            self.assertIn(str(path), str(error))
        self.assertEqual(file.read_text(), "mine")
