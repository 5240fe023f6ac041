"""What a desktop keeps on disk."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.credentials import CredentialFile, Credentials, SignIn
from ctllm.errors import BadConfiguration

SIGNED_IN = Credentials("d" * 32, SignIn("https://c.example", "ctllm|ann", "ann", "secret"), {})


class CredentialTests(SynchronousTestCase):
    """One file in a folder of the test's own."""

    def setUp(self) -> None:
        self.state = Path(self.mktemp())
        self.file = CredentialFile(self.state)

    def left(self) -> list[str]:
        return sorted(path.name for path in self.file.path.parent.iterdir())

    def test_a_new_desktop(self) -> None:
        """It gets an id of its own, which stays."""
        known = self.file.load()
        self.assertRegex(known.desktop_id, "^[0-9a-f]{32}$")
        self.assertEqual(CredentialFile(self.state).load(), known)
        self.assertNotEqual(CredentialFile(Path(self.mktemp())).load(), known)

    def test_there_and_back(self) -> None:
        """Another process reads what this one wrote."""
        self.file.save(SIGNED_IN)
        self.assertEqual(CredentialFile(self.state).load(), SIGNED_IN)

    def test_only_its_owner_reads_it(self) -> None:
        """Whatever the umask; the folder that was made for it is closed too."""
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        self.file.save(SIGNED_IN)
        self.assertEqual(self.file.path.stat().st_mode & 0o777, 0o600)
        self.assertEqual(self.file.path.parent.stat().st_mode & 0o777, 0o700)

    def test_replaced_as_a_whole(self) -> None:
        """Whoever has the old one open reads the old one; nothing else is left in the folder."""
        self.file.save(SIGNED_IN)
        with self.file.path.open("rb") as old:
            self.file.save(Credentials("e" * 32))
            self.assertIn(b"secret", old.read())
        self.assertEqual(self.left(), ["credentials.json"])

    def test_a_save_that_fails(self) -> None:
        """It says where; the old one stays, and no secret is left lying about."""
        self.file.path.mkdir(parents=True)  # so that it cannot be replaced
        error = self.assertRaises(BadConfiguration, self.file.save, SIGNED_IN)
        self.assertIn(str(self.file.path.parent), error.message)
        self.assertNotIn("secret", error.message)
        self.assertEqual(self.left(), ["credentials.json"])

    def test_a_broken_file(self) -> None:
        """It is not overwritten; the message names it and says what to do, not what was in it."""
        self.file.path.parent.mkdir(parents=True)
        for broken in (
            b"",
            b"{",
            b"[]",
            b'{"desktop_id": 5}',
            b'{"desktop_id": ["hunter2"]}',
            b'{"desktop_id": "x", "keys": {"a": "hunter2"}',
            b'{"desktop_id": "\xff"}',
            b'{"desktop_id": "x", "more": 1}',
        ):
            self.file.path.write_bytes(broken)
            error = self.assertRaises(BadConfiguration, self.file.load)
            self.assertIn(str(self.file.path), error.message)
            self.assertIn("ctllm login LINK", error.message)
            self.assertNotIn("hunter2", error.message)
            self.assertEqual(self.file.path.read_bytes(), broken)

    def test_not_a_folder(self) -> None:
        """A state folder that cannot be one is a configuration that cannot be used."""
        self.state.write_bytes(b"")
        self.assertRaises(BadConfiguration, self.file.load)
        self.assertRaises(BadConfiguration, self.file.save, SIGNED_IN)

    def test_its_version(self) -> None:
        """It changes with the file, and is 0 without one."""
        self.assertEqual(self.file.version(), 0)
        self.file.save(SIGNED_IN)
        first = self.file.version()
        os.utime(self.file.path, ns=(1, 1))
        self.assertNotIn(self.file.version(), (0, first))
