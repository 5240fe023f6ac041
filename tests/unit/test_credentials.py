"""What a desktop keeps on disk."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop import credential_file as module
from ctllm.desktop.credential_file import CredentialFile, Credentials, Login
from ctllm.errors import BadConfiguration, BadRequest
from ctllm.system.file_lock import locked

SIGNED_IN = Credentials("d" * 32, Login("https://c.example", "ctllm|ann", "ann", "secret"), {})


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
        """It is kept beside the new one; the message says what to do, and not its content."""
        told: list[str] = []
        self.file.on_damage = told.append
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
            b'{"x": ' + b"[" * 100_000,
        ):
            self.file.path.write_bytes(broken)
            fresh = self.file.load()
            self.assertEqual(self.file.load(), fresh)
            self.assertEqual((fresh.login, fresh.api_keys), (None, {}))
            (said,) = told
            (aside,) = self.file.path.parent.glob("*.damaged-*")
            self.assertEqual(aside.read_bytes(), broken)
            for words in (str(self.file.path), aside.name, "ctllm login"):
                self.assertIn(words, said)
            self.assertNotIn("hunter2", said)
            self.assertEqual(self.file.damage, said)
            told.clear()
            aside.unlink()

    def test_a_damaged_file_of_a_desktop(self) -> None:
        """The cloud still knows it by its id; what was damaged is told until somebody signs in."""
        self.file.on_damage = lambda said: None
        for _ in range(2):
            self.file.save(SIGNED_IN)
            with self.file.path.open("r+b") as file:
                file.truncate(100)
            self.assertEqual(self.file.load(), Credentials(SIGNED_IN.desktop_id))
        self.assertEqual(len(list(self.file.path.parent.glob("*.damaged-*"))), 2)
        self.assertIn("damaged", self.file.damage)
        self.file.update(lambda known: SIGNED_IN)
        self.assertEqual(self.file.damage, "")

    def test_one_that_cannot_be_read(self) -> None:
        """It may be whole: it stays where it is."""
        self.file.path.mkdir(parents=True)
        error = self.assertRaises(BadConfiguration, self.file.load)
        self.assertIn(str(self.file.path), error.message)
        self.assertEqual(self.left(), ["credentials.json"])

    def test_changed_by_many_at_once(self) -> None:
        """None of the changes is lost."""
        self.file.save(SIGNED_IN)

        def add(number: int) -> None:
            def change(known: Credentials) -> Credentials:
                return replace(known, api_keys={**known.api_keys, f"key-{number}": "k"})

            CredentialFile(self.state).update(change)

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(add, range(64)))
        self.assertEqual(len(self.file.load().api_keys), 64)

    def test_another_process_that_hangs(self) -> None:
        """It is waited for, but not for ever; nothing is changed."""
        self.patch(module, "LOCK_TIMEOUT", 0.05)
        self.file.save(SIGNED_IN)
        with locked(self.file.path.with_suffix(".lock"), 1.0):
            error = self.assertRaises(
                BadConfiguration, self.file.update, lambda known: Credentials("e" * 32)
            )
        self.assertIn("another process", error.message)
        self.assertEqual(self.file.load(), SIGNED_IN)

    def test_a_change_that_is_refused(self) -> None:
        """It lets go of the file."""

        def refuse(known: Credentials) -> Credentials:
            raise BadRequest("no")

        self.assertRaises(BadRequest, self.file.update, refuse)
        self.file.update(lambda known: SIGNED_IN)
        self.assertEqual(self.file.load(), SIGNED_IN)

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

    def test_two_changes_within_a_tick(self) -> None:
        """They are two, though the clock of the file system stands still."""
        versions = set()
        for keys in ({}, {"a": "k"}, {"a": "k", "b": "k"}):
            self.file.save(replace(SIGNED_IN, api_keys=keys))
            os.utime(self.file.path, ns=(1, 1))
            versions.add(self.file.version())
        self.assertEqual(len(versions), 3)
