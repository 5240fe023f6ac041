"""`ctllm.system.directory_monitor`: no change of a directory is missed."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from ctllm.system.directory_monitor import SETTLING_SECONDS, DirectoryMonitor
from ctllm.system.private_dir import PrivateDirectory


class DirectoryMonitorTests(SynchronousTestCase):
    """A directory that was last modified at the time 1000."""

    def setUp(self) -> None:
        self.time = 1000.0
        self.directory = PrivateDirectory(Path(self.mktemp()))
        self.directory.create("first", b"")
        self.set_modified(1000)
        self.monitor = DirectoryMonitor(self.directory, lambda: self.time)

    def set_modified(self, seconds: int) -> None:
        os.utime(self.directory.path, (seconds, seconds))

    def read(self) -> bool:
        """Read the directory if it changed; return whether it did."""
        changed = self.monitor.has_changed()
        if changed:
            self.monitor.mark_read()
        return changed

    def test_an_old_directory_is_read_once(self) -> None:
        self.time += SETTLING_SECONDS
        self.assertEqual([self.read() for _ in range(3)], [True, False, False])

    def test_creating_replacing_and_removing_files_are_changes(self) -> None:
        self.time += 1e9
        self.read()
        for change in (
            lambda: self.directory.create("second", b""),
            lambda: self.directory.replace("second", b""),
            lambda: self.directory.remove("second"),
        ):
            change()
            self.assertTrue(self.read())

    def test_a_change_that_does_not_change_the_time_stamp_is_not_missed(self) -> None:
        """Two changes within the granularity of the file system's time stamps."""
        self.time += 0.001
        self.assertTrue(self.read())
        self.directory.create("second", b"")
        self.set_modified(1000)
        self.assertTrue(self.read())
        self.time += SETTLING_SECONDS
        self.assertEqual([self.read(), self.read()], [True, False])

    def test_a_read_that_failed_is_repeated(self) -> None:
        self.time += SETTLING_SECONDS
        self.assertTrue(self.monitor.has_changed())
        self.assertTrue(self.monitor.has_changed())

    def test_a_clock_that_is_set_back_hides_nothing(self) -> None:
        self.time += SETTLING_SECONDS
        self.read()
        self.time -= 500
        self.directory.create("second", b"")
        self.set_modified(500)
        self.assertTrue(self.read())
