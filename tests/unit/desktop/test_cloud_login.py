"""A login with a provider is stored, replaces another one, and is revoked at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.auth.api_keys import record_key
from ctllm.desktop.cloud_client import TokenResponse, User
from ctllm.desktop.cloud_login import (
    find_providers,
    log_in_with_invite,
    log_in_with_provider,
    log_out,
)
from ctllm.desktop.credential_file import Login, name_key
from ctllm.desktop.login_secrets import LoginSecrets
from ctllm.desktop.login_store import open_login_store
from ctllm.desktop.oauth.tokens import FormRequest, ProviderTokens
from ctllm.desktop.provider_login import ProviderGrant
from ctllm.desktop.secret_store import PlainFileStore
from ctllm.errors import (
    BadGateway,
    BadRequest,
    CtllmError,
    SecretStoreUnavailable,
    UserDisabled,
)
from tests.unit.desktop.oauth.provider_values import METADATA, PROVIDER, jwt

CLOUD = "https://cloud.example"


class FakeServers:
    """The cloud and the provider."""

    def __init__(self) -> None:
        self.url = CLOUD
        self.user = "ada"
        self.ended: list[str] = []
        self.revoked: list[str] = []
        self.cloud_error: CtllmError | None = None
        self.status = 200

    async def list_providers(self) -> Any:
        return ()

    async def redeem_provider_token(self, token: str) -> TokenResponse:
        if self.cloud_error is not None:
            raise self.cloud_error
        name = self.user
        return TokenResponse(User(name, f"acme|{name}"), "token", 600.0, f"session-of-{name}")

    async def redeem_invite(self, invite: str) -> TokenResponse:
        return TokenResponse(User("bob", "ctllm|bob"), "token", 600.0, "session-of-invite")

    async def log_out(self, refresh_token: str) -> None:
        if self.cloud_error is not None:
            raise self.cloud_error
        self.ended.append(refresh_token)

    async def post(self, request: FormRequest) -> tuple[int, bytes]:
        self.revoked.append(parse_qs(request.body.decode())["token"][0])
        return self.status, b""


async def refuse(*_: object, **__: object) -> None:
    """Store nothing."""
    raise SecretStoreUnavailable("The disk is full.")


class CloudLoginTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.servers = FakeServers()
        self.state = Path(self.mktemp())
        self.logins = open_login_store(self.state, Clock())
        self.warnings: list[str] = []

    def log_in(self, user: str = "ada", **metadata: str) -> Deferred[Login]:
        servers: Any = self.servers
        servers.user = user
        tokens = ProviderTokens(jwt(), 2000.0, f"refresh-of-{user}")
        grant = ProviderGrant(PROVIDER, replace(METADATA, **metadata), tokens)
        return Deferred.fromCoroutine(
            log_in_with_provider(
                self.logins, lambda _: servers, servers, CLOUD, grant, self.warnings.append
            )
        )

    def log_out(self) -> Deferred[Login]:
        servers: Any = self.servers
        return Deferred.fromCoroutine(log_out(self.logins, lambda _: servers, servers))

    def add_key(self) -> None:
        key = name_key("laptop", record_key("some key"))
        self.logins.file.update(lambda known: replace(known, api_keys=(key,)))

    def test_the_file_has_the_provider_and_no_token(self) -> None:
        login = self.successResultOf(self.log_in())
        self.assertEqual(self.logins.file.load().login, login)
        assert login.provider is not None
        self.assertEqual(login.provider.token_endpoint, METADATA.token_endpoint)
        text = self.logins.file.path.read_text()
        for secret in (jwt(), "refresh-of-ada", "session-of-ada"):
            self.assertNotIn(secret, text)
        _, secrets = self.successResultOf(Deferred.fromCoroutine(self.logins.load()))
        self.assertEqual(secrets, LoginSecrets("session-of-ada", "refresh-of-ada", 2000.0))

    def test_the_same_user_keeps_api_keys_and_the_old_session_ends(self) -> None:
        self.successResultOf(self.log_in())
        self.add_key()
        self.successResultOf(self.log_in())
        self.assertEqual(len(self.logins.file.load().api_keys), 1)
        self.assertEqual(self.warnings, [])
        self.assertEqual(self.servers.ended, ["session-of-ada"])
        self.assertEqual(self.servers.revoked, ["refresh-of-ada"])

    def test_another_user_loses_them_and_is_told(self) -> None:
        self.successResultOf(self.log_in())
        self.add_key()
        self.successResultOf(self.log_in("bob"))
        self.assertEqual(self.logins.file.load().api_keys, ())
        self.assertIn("API keys of ada", self.warnings[0])

    def test_an_invite_replaces_a_login_and_ends_it(self) -> None:
        self.successResultOf(self.log_in())
        servers: Any = self.servers
        login = self.successResultOf(
            Deferred.fromCoroutine(
                log_in_with_invite(
                    self.logins, lambda _: servers, servers, CLOUD, "x", self.warnings.append
                )
            )
        )
        self.assertIsNone(login.provider)
        self.assertEqual(self.servers.ended, ["session-of-ada"])
        self.assertEqual(self.servers.revoked, ["refresh-of-ada"])
        self.assertIn("API keys of ada", self.warnings[0])

    def test_an_old_session_that_cannot_be_ended_is_told(self) -> None:
        self.successResultOf(self.log_in())
        self.servers.status = 503
        self.successResultOf(self.log_in())
        self.assertIn("did not revoke", self.warnings[0])

    def test_a_cloud_that_refuses_leaves_the_present_login(self) -> None:
        login = self.successResultOf(self.log_in())
        self.servers.cloud_error = UserDisabled("disabled")
        self.failureResultOf(self.log_in("bob"), UserDisabled)
        self.assertEqual(self.logins.file.load().login, login)
        self.assertEqual((self.servers.ended, self.servers.revoked), ([], []))

    def test_tokens_that_cannot_be_stored_are_revoked(self) -> None:
        self.successResultOf(self.log_in())
        self.patch(PlainFileStore, "set", refuse)
        self.failureResultOf(self.log_in("bob"), SecretStoreUnavailable)
        self.assertEqual(self.servers.ended, ["session-of-bob"])
        self.assertEqual(self.servers.revoked, ["refresh-of-bob"])
        login = self.logins.file.load().login
        assert login is not None
        self.assertEqual(login.user_name, "ada")

    def test_logout_ends_the_session_and_revokes_the_token(self) -> None:
        self.successResultOf(self.log_in())
        self.successResultOf(self.log_out())
        self.assertEqual(self.servers.ended, ["session-of-ada"])
        self.assertEqual(self.servers.revoked, ["refresh-of-ada"])
        self.assertIsNone(self.logins.file.load().login)

    def test_logout_revokes_even_if_the_cloud_is_away_and_forgets_in_any_case(self) -> None:
        self.successResultOf(self.log_in())
        self.servers.cloud_error = BadGateway("no route")
        self.failureResultOf(self.log_out(), BadGateway)
        self.assertEqual(self.servers.revoked, ["refresh-of-ada"])
        self.assertIsNone(self.logins.file.load().login)

    def test_logout_says_what_the_provider_did_not_do(self) -> None:
        self.successResultOf(self.log_in())
        self.servers.status = 503
        error = self.failureResultOf(self.log_out(), BadGateway).value
        self.assertIn("did not revoke", error.message)
        self.assertIsNone(self.logins.file.load().login)

    def test_a_provider_without_revocation_is_not_asked(self) -> None:
        self.successResultOf(self.log_in(revocation_endpoint=""))
        self.successResultOf(self.log_out())
        self.assertEqual(self.servers.revoked, [])

    def test_logout_forgets_a_login_that_has_ended(self) -> None:
        login = self.successResultOf(self.log_in())
        ended = replace(login, ended="because")
        self.logins.file.update(lambda known: replace(known, login=ended))
        self.successResultOf(self.log_out())
        self.assertIsNone(self.logins.file.load().login)

    def test_a_cloud_without_providers_has_invite_links(self) -> None:
        servers: Any = self.servers
        finding = Deferred.fromCoroutine(find_providers(servers))
        self.assertIn("invite", self.failureResultOf(finding, BadRequest).value.message)
