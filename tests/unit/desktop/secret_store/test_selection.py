"""Which store new secrets go to."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from ctllm.config import Config
from ctllm.desktop.secret_store import SecretStores
from ctllm.desktop.secret_store.factory import PREFERRED_STORES, make_secret_stores
from ctllm.errors import SecretStoreUnavailable
from tests.unit.desktop.secret_store.test_keyring_store import FakeReactor
from tests.unit.desktop.test_login_store import MemoryStore


class SelectionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.first, self.second = MemoryStore("first"), MemoryStore("second")

    def choose(self, *preferred: str, hint: str = "", may_prompt: bool = False) -> str:
        stores = SecretStores([self.first, self.second], preferred)
        choosing = Deferred.fromCoroutine(stores.choose(hint, may_prompt=may_prompt))
        return self.successResultOf(choosing).name

    def test_the_first_that_can_store_is_chosen(self) -> None:
        self.assertEqual(self.choose("first", "second"), "first")
        self.first.is_locked = True
        self.assertEqual(self.choose("first", "second"), "second")

    def test_what_the_daemon_chose_comes_first(self) -> None:
        """A command may reach a keyring that the daemon cannot reach."""
        self.assertEqual(self.choose("first", "second", hint="second"), "second")
        self.assertEqual(self.choose("first", hint="second"), "first")
        self.second.is_locked = True
        self.assertEqual(self.choose("first", "second", hint="second"), "first")

    def test_a_person_is_asked_only_where_there_is_no_choice(self) -> None:
        self.choose("first", "second", may_prompt=True)
        self.assertEqual(self.first.prompts, [False])
        self.choose("first", may_prompt=True)
        self.assertEqual(self.first.prompts, [False, True])

    def test_without_any_the_last_error_is_raised(self) -> None:
        self.first.is_locked = True
        stores = SecretStores([self.first], ["first"])
        choosing = Deferred.fromCoroutine(stores.choose())
        self.failureResultOf(choosing, SecretStoreUnavailable)

    def test_secrets_move_to_better_stores_only(self) -> None:
        stores = SecretStores([self.first, self.second], ["first", "second"])
        self.assertTrue(stores.prefers("first", "second"))
        self.assertTrue(stores.prefers("second", "unknown"))
        self.assertFalse(stores.prefers("second", "first"))
        self.assertFalse(stores.prefers("first", "first"))

    def test_every_setting_makes_stores(self) -> None:
        names = {"keyring", "encrypted-file", "file"}
        self.assertIn(Config().desktop.credential_store, PREFERRED_STORES)
        for setting, preferred in PREFERRED_STORES.items():
            self.assertLessEqual(set(preferred), names)
            stores = make_secret_stores(Path(self.mktemp()), FakeReactor(), setting, "", {})
            self.assertEqual({stores.by_name(name).name for name in names}, names)
