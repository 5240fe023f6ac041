"""`ctllm.system.private_dir`: files are complete or absent, and private."""

from __future__ import annotations

import errno
import os
from unittest import mock

from twisted.trial.unittest import SkipTest

from ctllm.cloud.identity import (
    PrivateDirectory,
)
from ctllm.errors import BadConfiguration, ServiceUnavailable
from tests.unit.cloud.identity.identity_case import (
    StoreCase,
)


class PrivateDirectoryTests(StoreCase):
    """Files in a private directory."""

    def test_files_and_directories_are_private_with_any_umask(self) -> None:
        self.addCleanup(os.umask, os.umask(0))
        inner = self.directory.subdirectory("new")
        inner.create("a", b"1")
        inner.replace("b", b"2")
        self.assertEqual(inner.path.stat().st_mode & 0o777, 0o700)
        self.assertEqual({f.stat().st_mode & 0o777 for f in inner.path.iterdir()}, {0o600})

    def test_refuses_a_directory_that_others_can_read(self) -> None:
        self.path.chmod(0o750)
        error = self.assertRaises(BadConfiguration, PrivateDirectory, self.path)
        self.assertIn(f"chmod 700 {self.path}", error.message)

    def test_create_does_not_replace_a_file(self) -> None:
        self.assertTrue(self.directory.create("a", b"1"))
        self.assertFalse(self.directory.create("a", b"2"))
        self.assertEqual(self.directory.read("a"), b"1")

    def test_replaces_and_removes_files(self) -> None:
        self.directory.create("a", b"1")
        self.directory.replace("a", b"2")
        self.assertEqual(self.directory.read("a"), b"2")
        self.assertTrue(self.directory.remove("a"))
        self.assertFalse(self.directory.remove("a"))
        self.assertIsNone(self.directory.read("a"))

    def test_leaves_no_temporary_files(self) -> None:
        self.directory.create("a", b"1")
        self.directory.create("a", b"2")
        self.directory.replace("a", b"3")
        with mock.patch("os.fsync", side_effect=OSError(errno.EIO, "Input/output error")):
            self.assertRaises(BadConfiguration, self.directory.replace, "a", b"4")
        self.assertEqual(self.files(), [self.path / "a"])
        self.assertEqual(self.directory.read("a"), b"3")

    def test_a_full_disk_is_service_unavailable_and_keeps_the_file(self) -> None:
        self.directory.create("a", b"1")
        with mock.patch("os.fsync", side_effect=OSError(errno.ENOSPC, "No space left")):
            error = self.assertRaises(ServiceUnavailable, self.directory.replace, "a", b"2")
        self.assertIn("Free some space", error.message)
        self.assertEqual(self.directory.read("a"), b"1")

    def test_names_a_path_that_cannot_be_created(self) -> None:
        self.directory.create("file", b"")
        error = self.assertRaises(BadConfiguration, PrivateDirectory, self.path / "file" / "cloud")
        self.assertIn(str(self.path / "file" / "cloud"), error.message)

    def test_names_a_file_that_cannot_be_written(self) -> None:
        if os.geteuid() == 0:
            raise SkipTest("nothing is read-only for root")
        self.path.chmod(0o500)
        self.addCleanup(self.path.chmod, 0o700)
        error = self.assertRaises(BadConfiguration, self.directory.create, "a", b"1")
        self.assertIn(str(self.path / "a"), error.message)

    def test_files_created_by_root_belong_to_the_owner_of_the_directory(self) -> None:
        if os.geteuid() != 0:
            raise SkipTest("only root can give files away")
        os.chown(self.path, 1234, 4321)
        inner = self.directory.subdirectory("invites")
        inner.create("a", b"1")
        for made in (inner.path, inner.path / "a"):
            self.assertEqual((made.stat().st_uid, made.stat().st_gid), (1234, 4321))
