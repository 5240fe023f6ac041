"""The login with its tokens: no change of them can lose the old ones, or mix them with others."""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.auth.api_keys import record_key
from ctllm.desktop.credential_file import CredentialFile, Credentials, Login, name_key
from ctllm.desktop.login_secrets import LoginSecrets
from ctllm.desktop.login_store import MAX_UNUSED, LoginChange, LoginStore
from ctllm.desktop.secret_store import SecretReference, SecretStores
from ctllm.errors import BadConfiguration, SecretStoreUnavailable, Unauthorized

T = TypeVar("T")

ANN = Login("https://one.example", "ctllm|ann", "ann", "1")
BOB = Login("https://two.example", "ctllm|bob", "bob", "2")


class MemoryStore:
    """A store of secrets that can be locked, and counts what is asked of it."""

    description = "in memory"

    def __init__(self, name: str = "memory") -> None:
        self.name = name
        self.secrets: dict[str, str] = {}
        self.reads = 0
        self.is_locked = False
        self.fails_to_delete = self.fails_to_set = False
        self.prompts: list[bool] = []  # whether each check and read was allowed to prompt
        self.dialog: Deferred[None] | None = None  # for which each read waits
        self.on_get: Any = lambda: None

    async def check(self, *, may_prompt: bool = False) -> None:
        self.prompts.append(may_prompt)
        self._require_unlocked()

    async def get(self, name: str, *, may_prompt: bool = False) -> str | None:
        self.reads += 1
        self.prompts.append(may_prompt)
        if self.dialog is not None:
            await self.dialog
        self._require_unlocked()
        self.on_get()
        return self.secrets.get(name)

    async def set(self, name: str, secret: str, *, may_prompt: bool = False) -> None:
        self._require_unlocked()
        if self.fails_to_set:
            raise SecretStoreUnavailable("The disk is full.")
        self.secrets[name] = secret

    async def delete(self, name: str) -> None:
        self._require_unlocked()
        if self.fails_to_delete:
            raise SecretStoreUnavailable("Cannot delete.")
        self.secrets.pop(name, None)

    def _require_unlocked(self) -> None:
        if self.is_locked:
            raise SecretStoreUnavailable("The store is locked.")


class LoginStoreCase(SynchronousTestCase):
    """Two stores, of which the first is preferred."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.first, self.second = MemoryStore("first"), MemoryStore("second")
        self.state = Path(self.mktemp())
        self.file = CredentialFile(self.state)
        self.logins = self.another_process()

    def another_process(self, *preferred: str) -> LoginStore:
        stores = SecretStores([self.first, self.second], preferred or ("first",))
        return LoginStore(CredentialFile(self.state), stores, self.clock, lock_timeout=5.0)

    def done(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def refused(self, coroutine: Coroutine[Any, Any, object], kind: type[Exception]) -> str:
        deferred: Deferred[object] = Deferred.fromCoroutine(coroutine)
        return str(self.failureResultOf(deferred, kind).value)

    async def save(self, login: Login, token: str, logins: LoginStore | None = None) -> None:
        async with (logins or self.logins).exclusive() as change:
            await change.save(login, LoginSecrets(token))


class LoadTests(LoginStoreCase):
    def test_another_process_reads_what_was_saved(self) -> None:
        self.done(self.save(ANN, "one"))
        found = self.done(self.another_process().load())
        self.assertEqual(found, (ANN, LoginSecrets("one")))
        self.assertNotIn("one", self.file.path.read_text().replace("one.example", ""))

    def test_the_store_is_read_once_until_another_process_changes_the_tokens(self) -> None:
        self.done(self.save(ANN, "one", self.another_process()))
        for _ in range(3):
            self.done(self.logins.load())
        self.assertEqual(self.first.reads, 1)
        version = self.file.version()
        self.done(self.save(ANN, "two", self.another_process()))
        self.assertNotEqual(self.file.version(), version)
        self.assertEqual(self.done(self.logins.load()), (ANN, LoginSecrets("two")))
        self.assertEqual(self.first.reads, 2)

    def test_a_change_during_the_read_is_read_again(self) -> None:
        """Never one login with the tokens of another."""
        self.done(self.save(ANN, "one", self.another_process()))

        def change() -> None:
            self.first.on_get = lambda: None
            self.done(self.save(BOB, "two", self.another_process()))

        self.first.on_get = change
        self.assertEqual(self.done(self.logins.load()), (BOB, LoginSecrets("two")))

    def test_without_a_login_it_is_unauthorized(self) -> None:
        self.assertIn("ctllm login", self.refused(self.logins.load(), Unauthorized))

    def test_missing_and_damaged_tokens_are_told_with_their_place(self) -> None:
        self.done(self.save(ANN, "hunter2"))
        (name,) = self.first.secrets
        for broken in (None, "hunter2", '{"refresh": ["hunter2"]}', "{}"):
            self.first.secrets = {} if broken is None else {name: broken}
            message = self.refused(self.another_process().load(), Unauthorized)
            self.assertIn("in memory", message)
            self.assertIn("ctllm login", message)
            self.assertNotIn("hunter2", message)

    def test_a_locked_store_is_no_logout(self) -> None:
        self.done(self.save(ANN, "one"))
        self.first.is_locked = True
        self.assertIn("locked", self.refused(self.another_process().load(), SecretStoreUnavailable))
        self.assertEqual(self.done(self.logins.load())[1], LoginSecrets("one"))
        self.first.is_locked = False
        self.assertEqual(self.done(self.another_process().load())[1], LoginSecrets("one"))

    def test_a_store_of_another_version_is_named(self) -> None:
        secret = SecretReference("vault", "x")
        self.file.save(Credentials("d" * 32, ANN, secret=secret))
        self.assertIn("vault", self.refused(self.logins.load(), SecretStoreUnavailable))


class SaveTests(LoginStoreCase):
    def test_old_tokens_are_deleted(self) -> None:
        for token in ("one", "two", "three"):
            self.done(self.save(ANN, token))
        self.assertEqual(len(self.first.secrets), 1)
        self.assertEqual(self.file.load().unused_secrets, ())

    def test_a_crash_at_any_point_keeps_the_old_tokens_or_has_the_new_ones(self) -> None:
        """The file is written at each point; what is on disk then must be one of the two."""
        self.done(self.save(ANN, "one"))
        found = []
        original = CredentialFile.save

        def crash_after(count: int) -> Any:
            left = [count]

            def save(file: CredentialFile, credentials: Credentials) -> None:
                if not left[0]:
                    raise BadConfiguration("The process was killed.")
                left[0] -= 1
                original(file, credentials)

            return save

        for count in range(5):
            with self.subTest(writes=count):
                logins = self.another_process()
                self.patch(CredentialFile, "save", crash_after(count))
                deferred = Deferred.fromCoroutine(self.save(BOB, "two", logins))
                failed = bool(deferred.addErrback(lambda _: True).result)
                self.patch(CredentialFile, "save", original)
                login, tokens = self.done(self.another_process().load())
                found_now = login.user_name, tokens.refresh_token
                self.assertIn(found_now, [("ann", "one"), ("bob", "two")])
                found.append((login.user_name, failed))
                self.done(self.save(ANN, "one"))
                self.assertEqual(len(self.first.secrets), 1)
                self.assertEqual(self.file.load().unused_secrets, ())
        self.assertEqual([name for name, _ in found][:2], ["ann", "ann"])
        self.assertEqual(found[-1], ("bob", False))

    def test_a_store_that_refuses_changes_nothing(self) -> None:
        self.done(self.save(ANN, "one"))
        known = self.file.load()
        self.first.is_locked = True
        self.assertIn("locked", self.refused(self.save(BOB, "two"), SecretStoreUnavailable))
        self.assertEqual(self.file.load(), known)

    def test_what_was_prepared_in_vain_leaves_nothing(self) -> None:
        async def prepare() -> None:
            async with self.logins.exclusive() as change:
                await change.prepare()
                raise Unauthorized("The invite was used.")

        known = self.file.load()
        self.refused(prepare(), Unauthorized)
        self.assertEqual(self.file.load(), known)

    def test_tokens_that_cannot_be_deleted_yet_are_deleted_later(self) -> None:
        self.done(self.save(ANN, "one"))
        self.first.fails_to_delete = True
        for _ in range(MAX_UNUSED + 8):
            self.done(self.save(ANN, "two"))
        self.assertEqual(len(self.file.load().unused_secrets), MAX_UNUSED)
        self.first.fails_to_delete = False
        self.done(self.save(ANN, "three"))
        self.assertEqual(self.file.load().unused_secrets, ())

    def test_the_next_store_is_chosen_where_the_preferred_one_is_locked(self) -> None:
        self.first.is_locked = True
        self.done(self.save(ANN, "one", self.another_process("first", "second")))
        self.assertEqual((len(self.first.secrets), len(self.second.secrets)), (0, 1))
        self.assertEqual(self.done(self.logins.load())[1], LoginSecrets("one"))

    def test_a_locked_store_does_not_move_tokens_to_a_worse_one_unasked(self) -> None:
        """Their renewal fails before anything is used up; a new login is told where it is."""
        both = self.another_process("first", "second")
        self.done(self.save(ANN, "one", both))
        self.first.is_locked = True
        self.refused(self.save(ANN, "two", both), SecretStoreUnavailable)
        self.first.is_locked, self.first.fails_to_set = False, True
        self.refused(self.save(ANN, "two", both), SecretStoreUnavailable)
        self.assertEqual(self.second.secrets, {})

        async def log_in() -> None:
            async with both.exclusive() as change:
                await change.prepare(is_attended=True)
                await change.save(BOB, LoginSecrets("two"))

        self.done(log_in())
        self.assertEqual(len(self.second.secrets), 1)
        self.first.fails_to_set = False
        self.done(self.save(BOB, "three", both))
        self.assertEqual((len(self.first.secrets), len(self.second.secrets)), (1, 0))

    def test_a_store_that_fails_though_it_could_store_is_followed_by_the_next(self) -> None:
        """An invite is used up by then."""
        self.first.fails_to_set = True
        self.done(self.save(ANN, "one", self.another_process("first", "second")))
        self.assertEqual((len(self.first.secrets), len(self.second.secrets)), (0, 1))
        self.assertEqual(self.file.load().unused_secrets, ())
        self.refused(self.save(BOB, "two", self.another_process("first")), SecretStoreUnavailable)
        self.second.fails_to_set = True
        both = self.another_process("first", "second")
        self.refused(self.save(BOB, "two", both), SecretStoreUnavailable)
        self.assertEqual(self.done(self.logins.load()), (ANN, LoginSecrets("one")))

    def test_tokens_move_with_the_first_change_after_the_setting_changed(self) -> None:
        self.done(self.save(ANN, "one"))
        self.done(self.save(ANN, "two", self.another_process("second")))
        self.assertEqual((len(self.first.secrets), len(self.second.secrets)), (0, 1))

    def test_a_login_is_forgotten_with_its_tokens_and_keys(self) -> None:
        self.done(self.save(ANN, "one"))
        self.file.update(
            lambda known: replace(known, api_keys=(name_key("mine", record_key("key")),))
        )
        desktop_id = self.file.load().desktop_id

        async def forget(login: Login) -> None:
            async with self.logins.exclusive() as change:
                await change.forget(login)

        self.done(forget(BOB))
        self.assertEqual(self.file.load().login, ANN)
        self.done(forget(ANN))
        self.assertEqual(self.file.load(), Credentials(desktop_id))
        self.assertEqual(self.first.secrets, {})


class ExclusiveTests(LoginStoreCase):
    def test_the_second_waits_without_blocking_and_sees_what_the_first_did(self) -> None:
        self.done(self.save(ANN, "one"))
        network: Deferred[None] = Deferred()
        renewals: list[str] = []

        async def renew(logins: LoginStore, stale: str) -> str:
            async with logins.exclusive() as change:
                login, tokens = await logins.load()
                if tokens.refresh_token == stale:
                    renewals.append(stale)
                    await network
                    tokens = LoginSecrets("two")
                    await change.save(login, tokens)
                return tokens.refresh_token

        running = [Deferred.fromCoroutine(renew(self.another_process(), "one")) for _ in range(50)]
        self.clock.advance(1)
        self.assertEqual([each.called for each in running], [False] * 50)
        network.callback(None)
        self.clock.pump([0.05] * 3)
        self.assertEqual([self.successResultOf(each) for each in running], ["two"] * 50)
        self.assertEqual(renewals, ["one"])

    def test_gives_up_after_a_time_and_when_it_is_cancelled(self) -> None:
        async def hold(change: Deferred[LoginChange], until: Deferred[None]) -> None:
            async with self.logins.exclusive() as held:
                change.callback(held)
                await until

        until: Deferred[None] = Deferred()
        holding = Deferred.fromCoroutine(hold(Deferred(), until))
        waiting = Deferred.fromCoroutine(self.save(ANN, "one", self.another_process()))
        cancelled = Deferred.fromCoroutine(self.save(ANN, "one", self.another_process()))
        cancelled.cancel()
        self.clock.pump([0.05] * 110)
        error = self.failureResultOf(waiting, SecretStoreUnavailable).value
        self.assertIn("login.lock", str(error))
        self.failureResultOf(cancelled)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        until.callback(None)
        self.successResultOf(holding)
        self.done(self.save(ANN, "one"))


class LoginSecretsTests(SynchronousTestCase):
    def test_no_representation_has_a_token(self) -> None:
        secrets = LoginSecrets("hunter2", "hunter3")
        for text in (repr(secrets), str(secrets), f"{secrets!r}", repr((ANN, secrets))):
            self.assertNotIn("hunter", text)
