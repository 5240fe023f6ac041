"""What a desktop keeps on disk."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from ctllm.auth.api_keys import KeyRecord, generate_key, record_key
from ctllm.desktop.credential_file import ApiKey, CredentialFile, Credentials, Login, name_key
from ctllm.desktop.secret_store import PlainFileStore
from ctllm.errors import BadConfiguration, BadRequest
from ctllm.system.file_lock import locked

CREDENTIALS = Credentials("d" * 32, Login("https://c.example", "ctllm|ann", "ann", "secret"), ())


def key_named(name: str) -> ApiKey:
    """The record of a key."""
    return name_key(name, record_key(generate_key("ctllm|ann")), 1000)


class CredentialFileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.state = Path(self.mktemp())
        self.file = CredentialFile(self.state)

    def file_names(self) -> list[str]:
        return sorted(path.name for path in self.file.path.parent.iterdir())

    def test_creates_a_desktop_id_that_stays(self) -> None:
        known = self.file.load()
        self.assertRegex(known.desktop_id, "^[0-9a-f]{32}$")
        self.assertEqual(CredentialFile(self.state).load(), known)
        self.assertNotEqual(CredentialFile(Path(self.mktemp())).load(), known)

    def test_another_process_reads_what_was_saved(self) -> None:
        self.file.save(CREDENTIALS)
        self.assertEqual(CredentialFile(self.state).load(), CREDENTIALS)

    def test_file_and_folder_are_private_whatever_the_umask(self) -> None:
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        self.file.save(CREDENTIALS)
        self.assertEqual(self.file.path.stat().st_mode & 0o777, 0o600)
        self.assertEqual(self.file.path.parent.stat().st_mode & 0o777, 0o700)

    def test_replaces_the_file_atomically(self) -> None:
        self.file.save(CREDENTIALS)
        with self.file.path.open("rb") as old:
            self.file.save(Credentials("e" * 32))
            self.assertIn(b"secret", old.read())
        self.assertEqual(self.file_names(), ["credentials.json"])

    def test_a_failed_save_keeps_the_old_file_and_leaks_nothing(self) -> None:
        self.file.path.mkdir(parents=True)  # so that it cannot be replaced
        error = self.assertRaises(BadConfiguration, self.file.save, CREDENTIALS)
        self.assertIn(str(self.file.path.parent), error.message)
        self.assertNotIn("secret", error.message)
        self.assertEqual(self.file_names(), ["credentials.json"])

    def test_renames_a_damaged_file_and_reports_it_without_content(self) -> None:
        errors: list[str] = []
        self.file = CredentialFile(self.state, errors.append)
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
            self.assertEqual((fresh.login, fresh.api_keys), (None, ()))
            (message,) = errors
            (aside,) = self.file.path.parent.glob("*.damaged-*")
            self.assertEqual(aside.read_bytes(), broken)
            for words in (str(self.file.path), aside.name, "ctllm login"):
                self.assertIn(words, message)
            self.assertNotIn("hunter2", message)
            self.assertEqual(self.file.damage, message)
            errors.clear()
            aside.unlink()

    def test_keeps_the_desktop_id_of_a_damaged_file(self) -> None:
        self.file = CredentialFile(self.state, lambda message: None)
        for _ in range(2):
            self.file.save(CREDENTIALS)
            with self.file.path.open("r+b") as file:
                file.truncate(100)
            self.assertEqual(self.file.load(), Credentials(CREDENTIALS.desktop_id))
        self.assertEqual(len(list(self.file.path.parent.glob("*.damaged-*"))), 2)
        self.assertIn("damaged", self.file.damage)
        self.file.update(lambda known: CREDENTIALS)
        self.assertEqual(self.file.damage, "")

    def test_keeps_a_file_that_cannot_be_read(self) -> None:
        self.file.path.mkdir(parents=True)
        error = self.assertRaises(BadConfiguration, self.file.load)
        self.assertIn(str(self.file.path), error.message)
        self.assertEqual(self.file_names(), ["credentials.json"])

    def test_concurrent_updates_are_all_applied(self) -> None:
        self.file.save(CREDENTIALS)

        def add(number: int) -> None:
            def change(known: Credentials) -> Credentials:
                return replace(known, api_keys=(*known.api_keys, key_named(f"key-{number}")))

            CredentialFile(self.state).update(change)

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(add, range(64)))
        self.assertEqual(len(self.file.load().api_keys), 64)

    def test_lock_times_out(self) -> None:
        self.file = CredentialFile(self.state, lock_timeout=0.05)
        self.file.save(CREDENTIALS)
        with locked(self.file.path.with_suffix(".lock"), 1.0):
            error = self.assertRaises(
                BadConfiguration, self.file.update, lambda known: Credentials("e" * 32)
            )
        self.assertIn("another process", error.message)
        self.assertEqual(self.file.load(), CREDENTIALS)

    def test_an_update_that_raises_releases_the_lock(self) -> None:
        def refuse(known: Credentials) -> Credentials:
            raise BadRequest("no")

        self.assertRaises(BadRequest, self.file.update, refuse)
        self.file.update(lambda known: CREDENTIALS)
        self.assertEqual(self.file.load(), CREDENTIALS)

    def write_old_format(self) -> None:
        """The file as the first version wrote it."""
        login = {
            "cloud_url": "https://c.example", "user_id": "ctllm|ann", "user_name": "ann",
            "refresh": "hunter2",
        }  # fmt: skip
        old = {"desktop_id": "d" * 32, "sign_in": login, "keys": {"a": "k"}, "managing": ["a"]}
        self.file.path.parent.mkdir(parents=True, exist_ok=True)
        self.file.path.write_text(json.dumps(old))

    def stored_secret(self, known: Credentials) -> str | None:
        assert known.secret is not None and known.secret.store == "file"
        store = PlainFileStore(self.state)
        return self.successResultOf(Deferred.fromCoroutine(store.get(known.secret.name)))

    def test_a_refresh_token_of_an_earlier_version_moves_out_of_the_file(self) -> None:
        self.write_old_format()
        known = self.file.load()
        self.assertEqual(known.login, Login("https://c.example", "ctllm|ann", "ann"))
        self.assertEqual([(key.name, key.scope) for key in known.api_keys], [("a", "manage")])
        self.assertEqual(self.stored_secret(known), '{"refresh":"hunter2"}')
        self.assertNotIn("hunter2", self.file.path.read_text())
        self.assertEqual(CredentialFile(self.state).load(), known)

    def test_the_move_is_repeated_if_it_ended_after_the_token_was_stored(self) -> None:
        self.write_old_format()
        old = self.file.path.read_bytes()
        self.file.load()
        self.file.path.write_bytes(old)  # as if the process had ended before it was replaced
        known = CredentialFile(self.state).load()
        self.assertIn("hunter2", self.stored_secret(known) or "")
        secrets = json.loads((self.file.path.parent / "secrets.json").read_text())
        self.assertEqual(len(secrets), 1)

    def test_the_move_keeps_the_token_where_it_is_if_it_cannot_be_stored(self) -> None:
        self.write_old_format()
        old = self.file.path.read_bytes()
        (self.file.path.parent / "secrets.json").mkdir()
        error = self.assertRaises(BadConfiguration, self.file.load)
        self.assertIn("secrets.json", error.message)
        self.assertNotIn("hunter2", str(error))
        self.assertEqual(self.file.path.read_bytes(), old)

    def test_concurrent_moves_agree(self) -> None:
        self.write_old_format()
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda _: CredentialFile(self.state).load(), range(32)))
        self.assertEqual(found, [found[0]] * 32)
        self.assertIn("hunter2", self.stored_secret(found[0]) or "")

    def test_a_refresh_token_of_the_wrong_type_is_damage(self) -> None:
        self.file = CredentialFile(self.state, lambda message: None)
        for refresh in (None, 5, ["hunter2"]):
            self.write_old_format()
            document = json.loads(self.file.path.read_text())
            document["sign_in"]["refresh"] = refresh
            self.file.path.write_text(json.dumps(document))
            self.assertIsNone(self.file.load().login)
            self.assertIn("damaged", self.file.damage)
            self.assertNotIn("hunter2", self.file.damage)

    def test_refuses_a_state_folder_that_is_a_file(self) -> None:
        self.state.write_bytes(b"")
        self.assertRaises(BadConfiguration, self.file.load)
        self.assertRaises(BadConfiguration, self.file.save, CREDENTIALS)

    def test_version_changes_with_the_file_and_is_zero_without(self) -> None:
        self.assertEqual(self.file.version(), 0)
        self.file.save(CREDENTIALS)
        first = self.file.version()
        os.utime(self.file.path, ns=(1, 1))
        self.assertNotIn(self.file.version(), (0, first))

    def test_version_changes_within_the_resolution_of_the_clock(self) -> None:
        versions = set()
        for keys in ((), (key_named("a"),), (key_named("a"), key_named("b"))):
            self.file.save(replace(CREDENTIALS, api_keys=keys))
            os.utime(self.file.path, ns=(1, 1))
            versions.add(self.file.version())
        self.assertEqual(len(versions), 3)

    def test_keys_of_an_earlier_version_become_records_and_remain_valid(self) -> None:
        """The file then has none of them in clear text, and is no damaged one."""
        plain, wide = generate_key("ctllm|ann"), generate_key("ctllm|ann")
        self.file.save(CREDENTIALS)
        old = json.loads(self.file.path.read_bytes())
        del old["api_keys"]
        old |= {"keys": {"app": plain, "boss": wide}, "managing": ["boss"]}
        self.file.path.write_text(json.dumps(old))
        known = self.file.load()
        self.assertEqual(replace(known, api_keys=()), CREDENTIALS)
        app, boss = known.api_keys
        self.assertTrue(app.matches(plain) and boss.matches(wide))
        self.assertEqual(
            [app.name, app.scope, boss.name, boss.scope], ["app", "use", "boss", "manage"]
        )
        stored = self.file.path.read_text()
        for key in (plain, wide):
            self.assertNotIn(key, stored)
        self.assertEqual(CredentialFile(self.state).load(), known)
        self.assertEqual(self.file_names(), ["credentials.json", "credentials.lock"])

    def test_an_update_converts_keys_of_an_earlier_version_first(self) -> None:
        self.file.path.parent.mkdir(parents=True)
        self.file.path.write_text(
            json.dumps({"desktop_id": "d" * 32, "sign_in": None, "keys": {"app": "k"}})
        )
        known = self.file.update(lambda known: replace(known, desktop_id="e" * 32))
        self.assertEqual([key.name for key in known.api_keys], ["app"])

    def test_what_is_announced_of_a_key_has_no_name(self) -> None:
        key = key_named("secret project")
        self.assertIs(type(key.record), KeyRecord)
        self.assertNotIn(b"secret", msgspec.json.encode(key.record))
        self.assertEqual((key.record.id, key.record.digest), (key.id, key.digest))
