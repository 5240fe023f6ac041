"""The login at a provider: which grant, and what is closed when it ends."""

from __future__ import annotations

import json
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.oauth.authorization_code import AuthorizationCodeGrant
from ctllm.desktop.oauth.device_grant import DeviceCode
from ctllm.desktop.oauth.tokens import FormRequest, GrantRefused
from ctllm.desktop.provider_login import LoginMethod, ProviderGrant, ProviderLogin, client_id_of
from ctllm.errors import BadGateway, BadRequest, CtllmError
from tests.unit.desktop.oauth.provider_values import METADATA, PROVIDER, jwt

CODE = {
    "device_code": "device-code", "user_code": "ABCD", "interval": 5, "expires_in": 60,
    "verification_uri": "https://login.example/activate",
}  # fmt: skip
TOKENS = {"access_token": jwt(), "refresh_token": "refresh", "expires_in": 60}


class FakeOAuth:
    """A provider with scripted responses; an exception is raised."""

    def __init__(self) -> None:
        self.metadata = METADATA
        self.requests: list[FormRequest] = []
        self.responses: list[tuple[int, Any] | CtllmError] = []

    async def discover(self, provider: Any) -> Any:
        return self.metadata

    async def post(self, request: FormRequest) -> tuple[int, bytes]:
        self.requests.append(request)
        response = self.responses.pop(0)
        if isinstance(response, CtllmError):
            raise response
        return response[0], json.dumps(response[1]).encode()


class FakeRedirect:
    """A redirect whose code a test sends."""

    def __init__(self) -> None:
        self.code: Deferred[str] = Deferred()
        self.is_closed = False

    async def listen(self, make_grant: Any) -> AuthorizationCodeGrant:
        grant: AuthorizationCodeGrant = make_grant("http://127.0.0.1:1/callback")
        return grant

    async def wait(self) -> str:
        return await self.code

    async def close(self) -> None:
        self.is_closed = True


class ProviderLoginTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.oauth = FakeOAuth()
        self.redirect = FakeRedirect()
        self.shown: list[str] = []
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))

    def show_code(self, code: DeviceCode) -> None:
        self.shown.append(code.user_code)

    def show_link(self, url: str) -> None:
        self.shown.append(url)

    def run_(self, method: LoginMethod = LoginMethod.AUTO) -> Deferred[ProviderGrant]:
        oauth: Any = self.oauth
        redirect: Any = self.redirect
        login = ProviderLogin(
            self.clock, oauth, self, wall_clock=lambda: 1000.0, make_redirect=lambda _: redirect
        )
        return Deferred.fromCoroutine(login.run(PROVIDER, method))

    def test_polls_until_the_user_has_approved(self) -> None:
        pending = 400, {"error": "authorization_pending"}
        slow_down = 400, {"error": "slow_down"}
        no_route = BadGateway("no route")
        self.oauth.responses = [(200, CODE), pending, slow_down, no_route, (200, TOKENS)]
        running = self.run_()
        self.assertEqual(self.shown, ["ABCD"])
        for delay, requests in ((5, 2), (5, 3), (10, 4), (20, 5)):
            self.assertNoResult(running)
            self.clock.advance(delay - 1)
            self.assertEqual(len(self.oauth.requests), requests - 1)
            self.clock.advance(1)
            self.assertEqual(len(self.oauth.requests), requests)
        grant = self.successResultOf(running)
        self.assertEqual(grant.tokens.refresh_token, "refresh")
        self.assertEqual(grant.tokens.expires_at, 1060)

    def test_a_refusal_ends_it(self) -> None:
        self.oauth.responses = [(200, CODE), (400, {"error": "access_denied"})]
        running = self.run_()
        self.clock.advance(5)
        self.failureResultOf(running, GrantRefused)

    def test_a_provider_that_is_not_reached_ends_it_when_the_code_expires(self) -> None:
        self.oauth.responses = [(200, CODE), *(BadGateway("no route") for _ in range(9))]
        running = self.run_()
        for _ in range(200):
            self.clock.advance(1)
        self.failureResultOf(running, BadGateway)

    def test_cancelling_stops_the_polls(self) -> None:
        self.oauth.responses = [(200, CODE)]
        running = self.run_()
        running.cancel()
        self.failureResultOf(running, CancelledError)

    def test_without_a_device_grant_a_browser_is_redirected_here(self) -> None:
        self.oauth.metadata = replace(METADATA, device_authorization_endpoint="")
        self.oauth.responses = [(200, TOKENS)]
        running = self.run_()
        self.assertTrue(self.shown[0].startswith(METADATA.authorization_endpoint))
        self.assertFalse(self.redirect.is_closed)
        self.redirect.code.callback("the-code")
        self.assertEqual(self.successResultOf(running).tokens.refresh_token, "refresh")
        self.assertIn(b"code=the-code", self.oauth.requests[0].body)
        self.assertTrue(self.redirect.is_closed)

    def test_the_listener_is_closed_in_any_case(self) -> None:
        running = self.run_(LoginMethod.BROWSER)
        self.redirect.code.errback(GrantRefused("denied", "access_denied"))
        self.failureResultOf(running, GrantRefused)
        self.assertTrue(self.redirect.is_closed)
        self.redirect = FakeRedirect()
        running = self.run_(LoginMethod.BROWSER)
        running.cancel()
        self.failureResultOf(running, CancelledError)
        self.assertTrue(self.redirect.is_closed)

    def test_a_method_that_the_provider_lacks_is_refused(self) -> None:
        self.oauth.metadata = replace(METADATA, device_authorization_endpoint="")
        error = self.failureResultOf(self.run_(LoginMethod.DEVICE), BadRequest).value
        self.assertIn("--browser", error.message)
        self.oauth.metadata = replace(METADATA, authorization_endpoint="")
        self.failureResultOf(self.run_(LoginMethod.BROWSER), BadRequest)
        self.oauth.metadata = replace(
            METADATA, authorization_endpoint="", device_authorization_endpoint=""
        )
        self.failureResultOf(self.run_(), BadRequest)

    def test_a_client_secret_is_sent_as_the_provider_takes_it(self) -> None:
        provider = replace(PROVIDER, client_secret="s")
        for methods, uses_post in (
            (("client_secret_basic",), False),
            (("client_secret_basic", "client_secret_post"), True),
            ((), False),
        ):
            metadata = replace(METADATA, token_endpoint_auth_methods_supported=methods)
            self.assertEqual(client_id_of(provider, metadata).uses_post, uses_post)
