"""This desktop's sign-in: short tokens, renewed in time, and never shown to another cloud."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from ctllm.auth.api_keys import record_key
from ctllm.desktop.cloud_client import TokenResponse, User
from ctllm.desktop.cloud_login import log_out
from ctllm.desktop.cloud_session import RENEW_BEFORE_EXPIRY, CloudSession, log_in
from ctllm.desktop.credential_file import Credentials, Login, name_key
from ctllm.desktop.login_secrets import LoginSecrets
from ctllm.desktop.login_store import open_login_store
from ctllm.desktop.oauth_client import OAuthClient
from ctllm.desktop.secret_store import PlainFileStore, SecretReference
from ctllm.errors import BadGateway, SecretStoreUnavailable, Unauthorized

ANN = Login("https://one.example", "ctllm|ann", "ann", "refresh-ann")
BOB = Login("https://two.example", "ctllm|bob", "bob", "refresh-bob")


class FakeCloud:
    """The clouds at all URLs."""

    def __init__(self) -> None:
        self.renewals: list[tuple[str, str]] = []
        self.scopes: list[str] = []
        self.log_outs: list[str] = []
        self.waiting: Deferred[None] | None = None
        self.refusal: Exception | None = None

    def at(self, url: str) -> Any:
        return _Client(self, url)


class _Client:
    def __init__(self, cloud: FakeCloud, url: str) -> None:
        self.cloud = cloud
        self.url = url

    async def refresh_access_token(
        self, refresh: str, scope: str = "", provider_token: str = ""
    ) -> TokenResponse:
        self.cloud.renewals.append((self.url, refresh))
        self.cloud.scopes.append(scope)
        number = len(self.cloud.renewals)
        if self.cloud.waiting is not None:
            await self.cloud.waiting
        if self.cloud.refusal is not None:
            raise self.cloud.refusal
        return TokenResponse(User("n", "i"), f"token-{number}", 600.0)

    async def log_out(self, refresh: str) -> None:
        self.cloud.log_outs.append(refresh)
        if self.cloud.waiting is not None:
            await self.cloud.waiting
        if self.cloud.refusal is not None:
            raise self.cloud.refusal

    async def redeem_invite(self, invite: str) -> TokenResponse:
        return TokenResponse(User("ann", "ctllm|ann"), "token", 600.0, f"refresh-of-{invite}")


class CloudSessionCase(SynchronousTestCase):
    """A session on a file of its own."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.cloud = FakeCloud()
        self.logins = open_login_store(Path(self.mktemp()), self.clock)
        self.file = self.logins.file
        self.saves = 0
        self.session = CloudSession(self.logins, self.cloud.at, self.clock)

    def save(self, sign_in: Login | None, **keys: str) -> None:
        self.saves += 1
        records = tuple(name_key(name, record_key(key)) for name, key in keys.items())
        secret = None
        if sign_in is not None:
            secret = SecretReference("file", sign_in.id)
            store = PlainFileStore(self.file.path.parents[1])
            store.write(secret.name, json.dumps({"refresh": sign_in.id}))
        self.file.save(Credentials("d" * 32, sign_in, records, secret=secret))
        os.utime(self.file.path, ns=(self.saves, self.saves))

    def asking(self) -> Deferred[str]:
        return Deferred.fromCoroutine(self.session.access_token())

    def token(self) -> str:
        return self.successResultOf(self.asking())


class AccessTokenTests(CloudSessionCase):
    def test_each_scope_has_its_own_token(self) -> None:
        self.save(ANN)
        for _ in range(2):
            self.assertEqual(self.token(), "token-1")
            narrow = Deferred.fromCoroutine(self.session.access_token("use"))
            self.assertEqual(self.successResultOf(narrow), "token-2")
        self.assertEqual(self.cloud.scopes, ["", "use"])
        self.session.discard_tokens()
        self.successResultOf(Deferred.fromCoroutine(self.session.access_token("use")))
        self.assertEqual(self.cloud.scopes, ["", "use", "use"])

    def test_reuses_a_token_until_shortly_before_its_expiry(self) -> None:
        self.save(ANN)
        self.assertEqual((self.token(), self.token()), ("token-1", "token-1"))
        self.clock.advance(600 - RENEW_BEFORE_EXPIRY)
        self.assertEqual(self.token(), "token-1")
        self.clock.advance(1)
        self.assertEqual(self.token(), "token-2")
        self.assertEqual(self.cloud.renewals, [(ANN.cloud_url, ANN.id)] * 2)

    def test_requests_another_token_after_discard(self) -> None:
        self.save(ANN)
        self.token()
        self.session.discard_tokens()
        self.assertEqual(self.token(), "token-2")

    def test_raises_without_a_login(self) -> None:
        self.save(None)
        error = self.failureResultOf(self.asking(), Unauthorized).value
        self.assertIn("ctllm login", str(error))
        self.assertEqual(self.cloud.renewals, [])

    def test_a_failed_refresh_raises_and_is_retried(self) -> None:
        self.save(ANN)
        self.token()
        self.clock.advance(600)
        self.cloud.refusal = BadGateway("gone")
        self.failureResultOf(self.asking(), BadGateway)
        self.cloud.refusal = None
        self.assertEqual(self.token(), "token-3")


class FileChangeTests(CloudSessionCase):
    """`ctllm login` and `ctllm keys` change the file while the desktop runs."""

    def test_uses_the_new_login(self) -> None:
        self.save(ANN)
        self.token()
        self.save(BOB)
        self.token()
        self.assertEqual(self.cloud.renewals[1:], [(BOB.cloud_url, BOB.id)])
        self.assertEqual(self.session.client().url, BOB.cloud_url)

    def test_does_not_use_a_token_after_logout(self) -> None:
        self.save(ANN)
        self.token()
        self.save(None)
        self.failureResultOf(self.asking(), Unauthorized)

    def test_a_token_of_the_old_login_is_not_stored(self) -> None:
        self.save(ANN)
        self.cloud.waiting = Deferred()
        first = self.asking()
        self.save(BOB)
        waiting, self.cloud.waiting = self.cloud.waiting, None
        self.assertEqual(self.session.login, BOB)
        waiting.callback(None)
        self.assertEqual(self.successResultOf(first), "token-1")
        self.assertEqual(self.token(), "token-2")
        self.assertEqual(self.cloud.renewals[1:], [(BOB.cloud_url, BOB.id)])

    def test_the_configured_url_replaces_that_of_the_login(self) -> None:
        self.session = CloudSession(self.logins, self.cloud.at, self.clock, "http://inside:1")
        self.save(ANN)
        self.token()
        self.assertEqual(self.cloud.renewals, [("http://inside:1", ANN.id)])


class UnreadableFileTests(CloudSessionCase):
    def test_a_damaged_file_is_no_login_and_says_so(self) -> None:
        self.save(ANN, mine="key")
        self.token()
        state = self.file.path.parents[1]
        self.logins = open_login_store(state, self.clock, lambda message: None)
        self.session = CloudSession(self.logins, self.cloud.at, self.clock)
        with self.file.path.open("r+b") as file:
            file.truncate(60)
        self.assertEqual(self.session.credentials, Credentials("d" * 32))
        error = self.failureResultOf(self.asking(), Unauthorized).value
        self.assertIn("damaged", error.message)
        self.assertIn("ctllm login", error.message)

    def test_keeps_the_last_credentials_and_logs_the_error_once(self) -> None:
        self.save(ANN)
        self.token()
        said: list[LogEvent] = []
        observer: Any = said.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.file.path.unlink()
        self.file.path.mkdir()
        for _ in range(3):
            self.assertEqual(self.session.credentials.login, ANN)
        self.assertEqual(self.token(), "token-1")
        self.assertEqual(len(said), 1)
        self.file.path.rmdir()
        self.save(BOB)
        self.assertEqual(self.session.credentials.login, BOB)

    def test_an_unreadable_file_is_no_login_and_says_so(self) -> None:
        self.file.path.mkdir(parents=True)
        error = self.failureResultOf(self.asking(), Unauthorized).value
        self.assertIn(str(self.file.path), error.message)


class LogOutTests(CloudSessionCase):
    def log_out(self) -> Deferred[Login]:
        oauth = OAuthClient(self.clock)
        return Deferred.fromCoroutine(log_out(self.logins, self.cloud.at, oauth))

    def test_keeps_a_login_that_replaced_it_meanwhile(self) -> None:
        self.save(ANN)
        self.cloud.waiting = Deferred()
        leaving = Deferred.fromCoroutine(
            log_out(self.logins, self.cloud.at, OAuthClient(self.clock))
        )
        self.save(BOB)
        self.cloud.waiting.callback(None)
        self.assertEqual(self.successResultOf(leaving), ANN)
        self.assertEqual(self.file.load().login, BOB)

    def test_forgets_login_and_keys_even_if_the_cloud_fails(self) -> None:
        self.save(ANN, mine="key")
        self.cloud.refusal = BadGateway("gone")
        leaving = Deferred.fromCoroutine(
            log_out(self.logins, self.cloud.at, OAuthClient(self.clock))
        )
        self.failureResultOf(leaving, BadGateway)
        self.assertEqual(self.file.load(), Credentials("d" * 32))


class LogInTests(CloudSessionCase):
    def log_in(self) -> Login:
        client = self.cloud.at("https://one.example")
        return self.successResultOf(Deferred.fromCoroutine(log_in(self.logins, client, "i")))

    def test_stores_the_login_and_keeps_the_desktop_id(self) -> None:
        self.save(None)
        sign_in = self.log_in()
        known = self.file.load()
        self.assertEqual((known.desktop_id, known.login, known.api_keys), ("d" * 32, sign_in, ()))
        stored = self.successResultOf(Deferred.fromCoroutine(self.logins.load()))
        self.assertEqual(stored, (sign_in, LoginSecrets("refresh-of-i")))

    def test_a_session_whose_token_cannot_be_stored_is_ended(self) -> None:
        """The present login stays, and the reason is that of the store, not of the cloud."""
        self.save(ANN)
        before = self.file.load()
        (self.file.path.parent / "secrets.json").unlink()
        (self.file.path.parent / "secrets.json").mkdir()
        for refusal in (None, BadGateway("gone")):
            self.cloud.refusal = refusal
            client = self.cloud.at("https://one.example")
            logging_in = Deferred.fromCoroutine(log_in(self.logins, client, "i"))
            error = self.failureResultOf(logging_in, SecretStoreUnavailable).value
            self.assertIn("secrets.json", str(error))
            self.assertEqual(self.cloud.log_outs.pop(), "refresh-of-i")
            self.assertEqual(self.file.load().login, before.login)
            self.assertEqual(self.file.load().secret, before.secret)

    def test_keeps_the_api_keys_of_the_same_user_only(self) -> None:
        self.save(ANN, mine="key")
        self.log_in()
        self.assertEqual([key.name for key in self.file.load().api_keys], ["mine"])
        self.save(BOB, theirs="key")
        self.log_in()
        self.assertEqual(self.file.load().api_keys, ())
