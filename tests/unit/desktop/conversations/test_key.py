"""Tests of the key of the conversations."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase as TestCase

from ctllm.desktop.conversations.key import ConversationKey
from ctllm.desktop.secret_store import SecretStores
from ctllm.errors import BadConfiguration, SecretStoreUnavailable
from tests.unit.desktop.test_login_store import MemoryStore


class ConversationKeyTests(TestCase):
    """A key is made once, found again, and never replaced while something needs it."""

    def setUp(self) -> None:
        """There are two stores, of which the first is preferred."""
        self.directory = Path(self.mktemp())
        self.best, self.other = MemoryStore("best"), MemoryStore("other")
        self.preferred = ["best", "other"]

    def load(self) -> bytes:
        """Load the key as a daemon does that starts."""
        return self.successResultOf(self.loading())

    def refusal(self) -> str:
        """Return why the key cannot be loaded."""
        failure = self.failureResultOf(self.loading(), SecretStoreUnavailable)
        assert isinstance(failure.value, SecretStoreUnavailable)
        return failure.value.message

    def loading(self) -> Deferred[bytes]:
        """Begin to load the key."""
        stores = SecretStores([self.best, self.other], self.preferred)
        return Deferred.fromCoroutine(ConversationKey(self.directory, stores).load_or_create())

    def write_conversation(self) -> None:
        """Store something that needs the key."""
        (self.directory / "index").write_bytes(b"sealed")

    def test_the_same_key_is_found_again(self) -> None:
        """It is in the store of secrets, and not in the folder."""
        key = self.load()
        self.assertEqual(len(key), 32)
        self.assertEqual(self.load(), key)
        self.assertEqual((len(self.best.secrets), len(self.other.secrets)), (1, 0))
        (secret,) = self.best.secrets.values()
        for path in self.directory.iterdir():
            self.assertNotIn(secret, path.read_text())
            self.assertEqual(path.stat().st_mode & 0o777, 0o600)

    def test_a_locked_store_is_a_clear_error(self) -> None:
        """Nothing is made in another store; once it is unlocked the key is there."""
        key = self.load()
        self.write_conversation()
        self.best.is_locked = True
        self.assertIn("locked", self.refusal())
        self.assertEqual(self.other.secrets, {})
        self.best.is_locked = False
        self.assertEqual(self.load(), key)

    def test_a_lost_key_is_not_replaced(self) -> None:
        """The message says how to begin without it; the files stay."""
        self.load()
        self.write_conversation()
        self.best.secrets.clear()
        self.assertIn("move that folder away", self.refusal())
        self.assertEqual(self.best.secrets, {})
        (self.directory / "key.json").unlink()
        self.assertIn("key.json is missing", self.refusal())
        self.assertTrue((self.directory / "index").exists())

    def test_another_key_is_refused(self) -> None:
        """Nothing would open with it, and everything would count as damaged."""
        self.load()
        (name,) = self.best.secrets
        self.best.secrets[name] = "A" * 43
        self.write_conversation()
        self.assertIn("another one", self.refusal())
        self.best.secrets[name] = "short"
        self.assertIn("is no key", self.refusal())

    def test_a_damaged_file_is_refused(self) -> None:
        """It is left as it is."""
        self.load()
        (self.directory / "key.json").write_text("{")
        self.assertIn("key.json is damaged", self.refusal())

    def test_a_crash_before_the_key_was_stored_is_no_loss(self) -> None:
        """Nothing was encrypted with it."""
        self.load()
        self.best.secrets.clear()
        self.assertEqual(len(self.load()), 32)

    def test_a_key_moves_to_a_better_store(self) -> None:
        """It was made while the keyring was locked. It is the same key."""
        self.best.is_locked = True
        key = self.load()
        self.write_conversation()
        self.best.is_locked = False
        self.assertEqual(self.load(), key)
        self.assertEqual((len(self.best.secrets), len(self.other.secrets)), (1, 0))

    def test_a_folder_that_cannot_be_used_is_an_error(self) -> None:
        """It names the folder."""
        self.directory.write_text("a file")
        failure = self.failureResultOf(self.loading(), BadConfiguration)
        self.assertIn(str(self.directory), str(failure.value))
