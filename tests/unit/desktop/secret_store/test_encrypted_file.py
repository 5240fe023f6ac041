"""The encrypted file: what opens it, what does not, and that neither changes it."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import nacl.pwhash.argon2id as argon2id
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.secret_store.encrypted_file import EncryptedFileStore
from ctllm.desktop.secret_store.file_key import MAX_LENGTH, FileKey
from ctllm.errors import SecretStoreUnavailable

T = TypeVar("T")

NO_KEY = FileKey({})


class EncryptedFileCase(SynchronousTestCase):
    """A state folder, and a folder of systemd's credentials."""

    def setUp(self) -> None:
        self.state = Path(self.mktemp())
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.damage: list[str] = []
        self.store = self.open(self.key(b"correct horse battery"))

    def key(self, content: bytes) -> FileKey:
        (self.folder / "ctllm-key").write_bytes(content)
        return FileKey({"CREDENTIALS_DIRECTORY": str(self.folder)})

    def passphrase_file(self, content: bytes, mode: int = 0o600) -> FileKey:
        path = self.folder / "passphrase"
        path.write_bytes(content)
        path.chmod(mode)
        return FileKey({}, str(path))

    def open(self, key: FileKey) -> EncryptedFileStore:
        return EncryptedFileStore(
            self.state, key, self.damage.append,
            operations=argon2id.OPSLIMIT_MIN, memory=argon2id.MEMLIMIT_MIN,
        )  # fmt: skip

    def done(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def refused(self, coroutine: Coroutine[Any, Any, object]) -> str:
        deferred: Deferred[object] = Deferred.fromCoroutine(coroutine)
        return str(self.failureResultOf(deferred, SecretStoreUnavailable).value)


class EncryptedFileTests(EncryptedFileCase):
    def test_another_process_with_the_key_reads_what_was_stored(self) -> None:
        self.assertIsNone(self.done(self.store.get("a")))
        self.done(self.store.set("a", "hunter2"))
        self.done(self.store.set("b", "hunter3"))
        another = self.open(self.passphrase_file(b"correct horse battery\n"))
        self.assertEqual([self.done(another.get(each)) for each in "ab"], ["hunter2", "hunter3"])
        self.done(another.delete("a"))
        self.done(another.delete("a"))
        self.assertEqual([self.done(self.store.get(each)) for each in "ab"], [None, "hunter3"])

    def test_the_file_is_private_and_has_no_secret_in_it(self) -> None:
        self.done(self.store.set("a", "hunter2"))
        self.assertEqual(self.store.path.stat().st_mode & 0o777, 0o600)
        content = self.store.path.read_bytes()
        for box in json.loads(content)["boxes"].values():
            content += b64decode(box)
        self.assertNotIn(b"hunter2", content)
        self.assertNotIn(b"horse", content)

    def test_each_file_has_another_key(self) -> None:
        keys = set()
        for _ in range(2):
            self.done(self.store.set("a", "hunter2"))
            keys.add(json.loads(self.store.path.read_bytes())["public_key"])
            self.store.path.unlink()
            self.store = self.open(self.key(b"correct horse battery"))
        self.assertEqual(len(keys), 2)

    def test_a_wrong_key_is_told_and_changes_nothing(self) -> None:
        self.done(self.store.set("a", "hunter2"))
        before = self.store.path.read_bytes()
        wrong = self.open(self.key(b"wrong horse battery"))
        for attempt in (wrong.get("a"), wrong.set("b", "hunter3"), wrong.check()):
            message = self.refused(attempt)
            self.assertIn("does not open", message)
            self.assertNotIn("hunter", message)
        self.assertEqual(self.store.path.read_bytes(), before)
        self.assertEqual(self.damage, [])

    def test_without_the_key_secrets_are_stored_and_deleted_and_not_read(self) -> None:
        command = self.open(NO_KEY)
        self.assertIn("no key", self.refused(command.check()))
        self.assertIn("no key", self.refused(command.set("a", "hunter2")))
        self.assertFalse(self.store.path.exists())
        self.done(self.store.check())
        self.done(command.check())
        self.done(command.set("a", "hunter2"))
        self.assertIn("no key", self.refused(command.get("a")))
        self.assertEqual(self.done(self.store.get("a")), "hunter2")
        self.done(command.delete("a"))
        self.assertIsNone(self.done(self.store.get("a")))

    def test_boxes_that_were_changed_swapped_or_made_up_do_not_open(self) -> None:
        self.done(self.store.set("a", "hunter2"))
        self.done(self.store.set("b", "hunter3"))
        content = json.loads(self.store.path.read_bytes())
        boxes = content["boxes"]
        flipped = bytearray(b64decode(boxes["a"]))
        flipped[-1] ^= 1
        for box in (boxes["b"], b64encode(flipped).decode(), b64encode(b"x" * 100).decode(), ""):
            changed = {**content, "boxes": {**boxes, "a": box}}
            self.store.path.write_text(json.dumps(changed))
            self.assertIn("was changed", self.refused(self.store.get("a")))
            self.assertEqual(self.done(self.store.get("b")), "hunter3")

    def test_a_file_whose_key_would_cost_too_much_is_damaged(self) -> None:
        self.done(self.store.set("a", "hunter2"))
        content = json.loads(self.store.path.read_bytes())
        for broken in ({"memory": 1 << 40}, {"operations": 1 << 20}, {"salt": ""}, {"boxes": 5}):
            self.store.path.write_text(json.dumps({**content, **broken}))
            self.assertIsNone(self.done(self.store.get("a")))
            (aside,) = self.store.path.parent.glob("*.damaged-*")
            self.assertIn(aside.name, self.damage.pop())
            aside.unlink()


class FileKeyTests(EncryptedFileCase):
    def test_the_credential_comes_before_the_passphrase(self) -> None:
        path = self.passphrase_file(b"of the passphrase").path
        self.key(b"of the credential")
        environ = {"CREDENTIALS_DIRECTORY": str(self.folder)}
        self.assertEqual(FileKey(environ, str(path)).read(), b"of the credential")
        (self.folder / "ctllm-key").unlink()
        self.assertEqual(FileKey(environ, str(path)).read(), b"of the passphrase")
        self.assertIsNone(FileKey(environ).read())

    def test_binary_keys_are_keys(self) -> None:
        self.assertEqual(self.key(bytes(range(256))).read(), bytes(range(256)))

    def test_refuses_a_passphrase_that_others_can_read_or_that_is_none(self) -> None:
        for content, mode in (
            (b"hunter2-hunter2", 0o640), (b"hunter2-hunter2", 0o604), (b"", 0o600),
            (b"hunter2\n", 0o600), (b"x" * (MAX_LENGTH + 1), 0o600),
        ):  # fmt: skip
            key = self.passphrase_file(content, mode)
            message = str(self.assertRaises(SecretStoreUnavailable, key.read))
            self.assertIn(str(key.path), message)
            self.assertNotIn("hunter2", message)

    def test_a_missing_passphrase_is_told(self) -> None:
        key = FileKey({}, str(self.folder / "missing"))
        self.assertIn("missing", str(self.assertRaises(SecretStoreUnavailable, key.read)))
