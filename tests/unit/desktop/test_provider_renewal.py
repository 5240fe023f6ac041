"""Renewal at the provider: each refresh token is used once, and a login that ended stays ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.cloud_client import TokenResponse, UnexplainedRefusal, User
from ctllm.desktop.cloud_session import REFUSAL_PAUSE, RENEW_BEFORE_EXPIRY, CloudSession
from ctllm.desktop.credential_file import CredentialFile, Login, LoginProvider
from ctllm.desktop.login_secrets import LoginSecrets
from ctllm.desktop.login_store import LoginStore, open_login_store
from ctllm.desktop.oauth.tokens import FormRequest
from ctllm.desktop.provider_renewal import (
    FIRST_RETRY_DELAY,
    MAX_REJECTIONS,
    MAX_RETRY_DELAY,
)
from ctllm.desktop.secret_store import PlainFileStore, SecretStores
from ctllm.errors import (
    BadGateway,
    CtllmError,
    GroupNotAllowed,
    ProviderTokenRequired,
    SecretStoreUnavailable,
    Unauthorized,
    UserDisabled,
)
from tests.unit.desktop.oauth.provider_values import jwt

CLOUD = "https://cloud.example"
#: Seconds that the provider's and the cloud's tokens last.
PROVIDER_SECONDS = 3600.0
CLOUD_SECONDS = 600.0


class FakeProvider:
    """A provider that rotates refresh tokens, and ends the grant when one is used twice."""

    def __init__(self) -> None:
        self.current = "refresh-0"
        self.requests = 0
        self.waiting: Deferred[None] | None = None
        self.error: CtllmError | None = None
        self.answer: tuple[int, bytes] | None = None
        self.members: dict[str, Any] = {}
        self.is_revoked = False

    async def post(self, request: FormRequest) -> tuple[int, bytes]:
        self.requests += 1
        form = parse_qs(request.body.decode())
        if self.waiting is not None:
            await self.waiting
        if self.error is not None:
            raise self.error
        if self.answer is not None:
            return self.answer
        if self.is_revoked or form["refresh_token"] != [self.current]:
            self.is_revoked = True
            return 400, b'{"error":"invalid_grant","error_description":"grant not found"}'
        self.current = f"refresh-{self.requests}"
        members = {
            "access_token": jwt(number=self.requests),
            "refresh_token": self.current,
            "expires_in": PROVIDER_SECONDS,
            **self.members,
        }
        return 200, json.dumps(members).encode()


class FakeCloud:
    """A cloud that wants a provider token when the last one has expired."""

    def __init__(self, now: Any) -> None:
        self.now = now
        self.requests: list[str] = []  # the provider tokens
        self.proof_until = 0.0
        self.error: CtllmError | None = None
        self.rejection: CtllmError | None = None  # of provider tokens alone

    def at(self, url: str) -> Any:
        return self

    async def refresh_access_token(
        self, refresh: str, scope: str = "", provider_token: str = ""
    ) -> TokenResponse:
        self.requests.append(provider_token)
        if self.error is not None:
            raise self.error
        if provider_token:
            if self.rejection is not None:
                raise self.rejection
            self.proof_until = self.now() + PROVIDER_SECONDS
        if self.now() >= self.proof_until:
            raise ProviderTokenRequired("The provider must confirm.")
        number = len(self.requests)
        return TokenResponse(User("ada", "acme|ada"), f"token-{number}", CLOUD_SECONDS)


class LockedStore(PlainFileStore):
    """A store in which secrets can be stored only while it is open."""

    is_open = True

    async def set(self, name: str, secret: str, *, may_prompt: bool = False) -> None:
        if not self.is_open:
            raise SecretStoreUnavailable("The keyring is locked.")
        await super().set(name, secret, may_prompt=may_prompt)


class RenewalCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.epoch = 1_000_000.0
        self.provider = FakeProvider()
        self.cloud = FakeCloud(self.now)
        self.state = Path(self.mktemp())
        self.logins = open_login_store(self.state, self.clock)
        provider = LoginProvider("https://login.example", "desktop", "https://login.example/token")
        self.login = Login(CLOUD, "acme|ada", "ada", "login-1", provider)
        self.store(LoginSecrets("session", "refresh-0", self.now() + PROVIDER_SECONDS))
        self.cloud.proof_until = self.now() + PROVIDER_SECONDS
        self.session = self.make_session()
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))

    def now(self) -> float:
        return self.epoch + self.clock.seconds()

    def make_session(self, logins: LoginStore | None = None) -> CloudSession:
        """Return the session of another process."""
        oauth: Any = self.provider
        return CloudSession(
            logins or open_login_store(self.state, self.clock),
            self.cloud.at, self.clock, oauth=oauth, wall_clock=self.now,
        )  # fmt: skip

    def store(self, secrets: LoginSecrets, login: Login | None = None) -> None:
        async def save() -> None:
            async with self.logins.exclusive() as change:
                await change.save(login or self.login, secrets)

        self.successResultOf(Deferred.fromCoroutine(save()))

    def secrets(self) -> LoginSecrets:
        return self.successResultOf(Deferred.fromCoroutine(self.logins.load()))[1]

    def token(self, session: CloudSession | None = None, scope: str = "") -> Deferred[str]:
        return Deferred.fromCoroutine((session or self.session).access_token(scope))

    def fails(self, kind: type[CtllmError]) -> str:
        return str(self.failureResultOf(self.token(), kind).value)

    def pass_hours(self) -> None:
        """Let all tokens expire."""
        self.clock.advance(2 * PROVIDER_SECONDS)


class RotationTests(RenewalCase):
    def test_asks_the_cloud_alone_while_the_providers_token_is_valid(self) -> None:
        self.assertEqual(self.successResultOf(self.token()), "token-1")
        self.clock.advance(CLOUD_SECONDS)
        self.assertEqual(self.successResultOf(self.token()), "token-2")
        self.assertEqual((self.provider.requests, self.cloud.requests), (0, ["", ""]))

    def test_stores_the_next_refresh_token_before_the_cloud_gets_the_token(self) -> None:
        self.pass_hours()
        stored: list[str] = []
        ask = self.cloud.refresh_access_token

        async def refresh(refresh: str, scope: str = "", provider_token: str = "") -> Any:
            stored.append((await self.logins.load())[1].provider_refresh_token)
            return await ask(refresh, scope, provider_token)

        self.cloud.refresh_access_token = refresh  # type: ignore[method-assign]
        self.successResultOf(self.token())
        self.assertEqual(stored[0], "refresh-1")
        self.assertEqual(self.cloud.requests, [jwt(number=1)])
        self.assertEqual(self.secrets().provider_expires_at, self.now() + PROVIDER_SECONDS)

    def test_renews_again_and_again(self) -> None:
        for number in range(1, 4):
            self.pass_hours()
            self.successResultOf(self.token())
            self.assertEqual(self.secrets().provider_refresh_token, f"refresh-{number}")
        self.assertFalse(self.provider.is_revoked)

    def test_a_provider_that_does_not_rotate_keeps_its_refresh_token(self) -> None:
        self.provider.members["refresh_token"] = None
        self.provider.current = "refresh-0"
        self.pass_hours()
        self.successResultOf(self.token())
        self.assertEqual(self.secrets().provider_refresh_token, "refresh-0")

    def test_fifty_tasks_of_one_process_send_one_refresh(self) -> None:
        self.pass_hours()
        self.provider.waiting = Deferred()
        asked = [self.token(scope=scope) for scope in ("", "use") * 25]
        self.provider.waiting.callback(None)
        for each in asked:
            self.assertTrue(self.successResultOf(each))
        self.assertEqual(self.provider.requests, 1)

    def test_fifty_processes_send_one_refresh(self) -> None:
        self.pass_hours()
        self.provider.waiting = Deferred()
        asked = [self.token(self.make_session()) for _ in range(50)]
        self.provider.waiting.callback(None)
        for _ in range(60):
            self.clock.advance(0.05)
        for each in asked:
            self.assertTrue(self.successResultOf(each))
        self.assertEqual(self.provider.requests, 1)
        self.assertFalse(self.provider.is_revoked)
        self.assertEqual([each for each in self.cloud.requests if each], [jwt(number=1)])

    def test_a_caller_that_is_cancelled_does_not_cancel_the_renewal(self) -> None:
        self.pass_hours()
        self.provider.waiting = Deferred()
        asked = self.token()
        asked.addErrback(lambda _: None)
        asked.cancel()
        self.provider.waiting.callback(None)
        self.assertEqual(self.secrets().provider_refresh_token, "refresh-1")

    def test_a_process_that_stops_waits_until_the_refresh_token_is_stored(self) -> None:
        self.pass_hours()
        self.provider.waiting = Deferred()
        asked = self.token()
        stopping = self.session.renewal.stopService()
        assert stopping is not None
        self.assertNoResult(stopping)
        self.provider.waiting.callback(None)
        self.successResultOf(stopping)
        self.successResultOf(asked)
        self.assertEqual(self.secrets().provider_refresh_token, "refresh-1")

    def test_another_login_meanwhile_is_not_replaced(self) -> None:
        self.pass_hours()
        other = Login(CLOUD, "acme|bob", "bob", "login-2")
        lock = self.logins.exclusive()
        change = self.successResultOf(Deferred.fromCoroutine(lock.__aenter__()))
        asked = self.token()
        self.assertNoResult(asked)
        saving = Deferred.fromCoroutine(change.save(other, LoginSecrets("bobs")))
        self.successResultOf(saving)
        self.successResultOf(Deferred.fromCoroutine(lock.__aexit__(None, None, None)))
        self.cloud.proof_until = self.now() + 10  # an invite's session needs no provider
        self.clock.advance(1)
        self.successResultOf(asked)
        self.assertEqual(self.provider.requests, 0)
        self.assertEqual(self.logins.file.load().login, other)


class FailureTests(RenewalCase):
    def test_the_old_tokens_are_used_while_the_provider_is_down(self) -> None:
        self.provider.error = BadGateway("no route")
        self.clock.advance(PROVIDER_SECONDS - 60)
        for _ in range(3):
            self.assertTrue(self.successResultOf(self.token()))
            self.session.discard_tokens()
        self.assertEqual(self.provider.requests, 1)
        self.clock.advance(60)
        self.assertEqual(self.fails(BadGateway), "no route")
        self.provider.error = None
        self.clock.advance(MAX_RETRY_DELAY)
        self.assertTrue(self.successResultOf(self.token()))

    def test_attempts_at_the_provider_become_rare(self) -> None:
        self.pass_hours()
        self.provider.error = BadGateway("no route")
        for _ in range(3600):
            self.fails(BadGateway)
            self.clock.advance(1)
        self.assertLess(self.provider.requests, 20)
        self.assertEqual(self.cloud.requests, [])
        self.provider.error = None
        self.clock.advance(MAX_RETRY_DELAY)
        self.successResultOf(self.token())

    def test_an_access_token_is_used_until_it_expires_while_the_cloud_is_down(self) -> None:
        self.successResultOf(self.token())
        self.cloud.error = BadGateway("no route")
        self.clock.advance(CLOUD_SECONDS - RENEW_BEFORE_EXPIRY + 1)
        self.assertEqual(self.successResultOf(self.token()), "token-1")
        self.clock.advance(RENEW_BEFORE_EXPIRY)
        self.fails(BadGateway)

    def test_a_refresh_token_that_cannot_be_stored_is_stored_later(self) -> None:
        store = LockedStore(self.state)
        stores = SecretStores([store], [store.name])
        logins = LoginStore(CredentialFile(self.state), stores, self.clock)
        self.session = self.make_session(logins)
        self.pass_hours()
        store.is_open = False
        self.fails(SecretStoreUnavailable)
        self.assertEqual(self.secrets().provider_refresh_token, "refresh-0")
        store.is_open = True
        self.clock.advance(FIRST_RETRY_DELAY)
        self.successResultOf(self.token())
        self.assertEqual(self.provider.requests, 1)
        self.assertEqual(self.secrets().provider_refresh_token, "refresh-1")

    def test_a_refresh_token_beside_an_unusable_token_is_stored(self) -> None:
        self.pass_hours()
        self.provider.members["access_token"] = "opaque"
        self.assertIn("audience", self.fails(BadGateway))
        self.assertEqual(self.secrets().provider_refresh_token, "refresh-1")
        self.provider.members.clear()
        self.clock.advance(FIRST_RETRY_DELAY)
        self.successResultOf(self.token())
        self.assertFalse(self.provider.is_revoked)

    def test_a_cloud_that_did_not_get_the_token_gets_a_fresh_one(self) -> None:
        """A crash between the storage and the cloud's request."""
        self.cloud.proof_until = 0.0
        self.assertTrue(self.successResultOf(self.token()))
        self.assertEqual(self.provider.requests, 1)

    def test_a_cloud_that_cannot_verify_a_fresh_token_is_asked_again_later(self) -> None:
        """The provider has rotated its keys, and the cloud may not fetch them yet."""
        self.pass_hours()
        self.cloud.rejection = Unauthorized("The key is unknown.")
        self.assertIn("The key is unknown", self.fails(BadGateway))
        self.cloud.rejection = None
        self.clock.advance(FIRST_RETRY_DELAY)
        self.successResultOf(self.token())

    def test_a_cloud_that_never_accepts_a_token_ends_the_login(self) -> None:
        self.pass_hours()
        self.cloud.rejection = Unauthorized("The audience is wrong.")
        for _ in range(MAX_REJECTIONS - 1):
            self.fails(BadGateway)
            self.clock.advance(MAX_RETRY_DELAY)
        self.assertIn("The audience is wrong", self.fails(Unauthorized))
        self.assertEqual(self.provider.requests, MAX_REJECTIONS)

    def test_a_cloud_that_forgets_what_it_accepted_causes_no_loop(self) -> None:
        ask = self.cloud.refresh_access_token

        async def refresh(refresh: str, scope: str = "", provider_token: str = "") -> Any:
            if not provider_token:
                raise ProviderTokenRequired("The provider must confirm.")
            return await ask(refresh, scope, provider_token)

        self.cloud.refresh_access_token = refresh  # type: ignore[method-assign]
        for _ in range(3600):
            error = self.failureResultOf(self.token(scope="use"), CtllmError)
            if error.check(Unauthorized):
                break
            self.clock.advance(1)
        else:
            self.fail("the login did not end")
        self.assertEqual(self.provider.requests, MAX_REJECTIONS)

    def test_a_captive_portal_does_not_end_the_login(self) -> None:
        for error in (UnexplainedRefusal("status 401"), BadGateway("status 403")):
            self.cloud.error = error
            self.fails(BadGateway)
        self.cloud.error = None
        self.assertTrue(self.successResultOf(self.token()))


class DisabledUserTests(RenewalCase):
    """A user whom an administrator disables, and enables again."""

    def test_the_login_goes_on_when_the_user_is_enabled(self) -> None:
        self.cloud.error = UserDisabled("The user is disabled.")
        self.assertIn("The user is disabled.", self.fails(Unauthorized))
        self.cloud.error = None
        self.clock.advance(REFUSAL_PAUSE)
        self.assertTrue(self.successResultOf(self.token()))

    def test_the_cloud_is_asked_rarely_meanwhile(self) -> None:
        self.cloud.error = UserDisabled("The user is disabled.")
        for _ in range(300):
            self.assertIn("The user is disabled.", self.fails(Unauthorized))
            self.clock.advance(1)
        self.assertLessEqual(len(self.cloud.requests), 10)

    def test_the_providers_tokens_are_not_lost_meanwhile(self) -> None:
        self.pass_hours()
        self.cloud.error = UserDisabled("The user is disabled.")
        for _ in range(3):
            self.fails(Unauthorized)
        self.assertEqual(self.provider.requests, 1)
        self.cloud.error = None
        self.clock.advance(MAX_RETRY_DELAY)
        self.assertTrue(self.successResultOf(self.token()))
        self.assertFalse(self.provider.is_revoked)


class EndTests(RenewalCase):
    def assert_ended(self, reason: str) -> None:
        """The reason is told, and neither this nor another process asks anybody again."""
        asked = self.provider.requests, len(self.cloud.requests)
        for session in (self.session, self.make_session()):
            for _ in range(100):
                error: Unauthorized = self.failureResultOf(self.token(session), Unauthorized).value
                self.assertIn(reason, error.message)
                self.assertIn(f"ctllm login {CLOUD}", error.message)
                self.clock.advance(60)
        self.assertEqual((self.provider.requests, len(self.cloud.requests)), asked)

    def test_a_revoked_grant(self) -> None:
        self.pass_hours()
        self.provider.is_revoked = True
        self.fails(Unauthorized)
        self.assert_ended("grant not found")

    def test_a_refresh_token_that_was_lost(self) -> None:
        """The provider rotated it, and the process was killed before it stored the next one."""
        self.provider.current = "refresh-that-nobody-has"
        self.pass_hours()
        self.fails(Unauthorized)
        self.assert_ended("invalid_grant")

    def test_a_session_that_the_cloud_ended(self) -> None:
        self.cloud.error = Unauthorized("This session has ended.")
        self.fails(Unauthorized)
        self.assert_ended("This session has ended.")

    def test_a_user_whose_group_may_not_log_in(self) -> None:
        self.pass_hours()
        self.cloud.rejection = GroupNotAllowed("No group of yours may log in.")
        self.fails(Unauthorized)
        self.assert_ended("No group of yours")

    def test_a_session_that_ended_while_the_token_was_renewed(self) -> None:
        self.pass_hours()
        self.cloud.error = Unauthorized("This session has ended.")
        self.fails(Unauthorized)
        self.assert_ended("This session has ended.")

    def test_a_provider_without_refresh_tokens(self) -> None:
        self.store(LoginSecrets("session", "", self.now()))
        self.fails(Unauthorized)
        self.assert_ended("offline_access")
        self.assertEqual(self.provider.requests, 0)

    def test_the_reason_is_printable_and_bounded(self) -> None:
        self.cloud.error = Unauthorized("\x1b[2J" + "x" * 5000)
        self.fails(Unauthorized)
        login = self.logins.file.load().login
        assert login is not None
        self.assertTrue(login.ended.isprintable())
        self.assertLessEqual(len(login.ended), 500)

    def test_another_login_works_after_the_end(self) -> None:
        self.pass_hours()
        self.provider.is_revoked = True
        self.fails(Unauthorized)
        self.provider.is_revoked, self.provider.current = False, "refresh-new"
        other = Login(CLOUD, "acme|ada", "ada", "login-2", self.login.provider)
        self.store(LoginSecrets("session", "refresh-new", self.now()), other)
        self.assertTrue(self.successResultOf(self.token()))
