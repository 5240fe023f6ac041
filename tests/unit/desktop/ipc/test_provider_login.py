"""A login that a client of the IPC begins: what the user has to do, then its result."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.credential_file import Login
from ctllm.desktop.ipc.provider_login import PendingLogin
from ctllm.desktop.oauth.device_grant import DeviceCode
from ctllm.errors import BadGateway, CtllmError
from ctllm.ipc.messages import LoginBegun, LoginEnded
from tests.unit.desktop.oauth.provider_values import PROVIDER

CLOUD = "https://cloud.example"
CODE = DeviceCode("ABCD", "https://login.example", "https://login.example?c=ABCD", 600, 5, "d")


class FakeBrowser:
    """A browser that opens links, or does not."""

    def __init__(self) -> None:
        self.works = True
        self.opened: list[str] = []

    async def open(self, url: str) -> bool:
        self.opened.append(url)
        return self.works

    def remove_file(self) -> None:
        pass


class PendingLoginTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.browser = FakeBrowser()
        browser: Any = self.browser
        self.pending = PendingLogin(self.log_in, browser)
        self.logins: list[Deferred[Login]] = []
        self.error: CtllmError | None = None
        self.shows_link = False
        self.ended: list[LoginEnded] = []

    async def log_in(self, cloud_url: str, provider: Any, prompt: Any) -> Login:
        if self.error is not None:
            raise self.error
        if self.shows_link:
            prompt.show_link("https://login.example/authorize")
        else:
            prompt.show_code(CODE)
        self.logins.append(Deferred())
        return await self.logins[-1]

    def begin(self) -> Deferred[LoginBegun]:
        return Deferred.fromCoroutine(self.pending.begin(CLOUD, PROVIDER, self.ended.append))

    def test_returns_the_code_and_opens_its_link(self) -> None:
        begun = self.successResultOf(self.begin())
        self.assertEqual(
            begun, LoginBegun("code", code="ABCD", link=CODE.link, opened=True, expires_in=600)
        )
        self.assertEqual(self.browser.opened, [CODE.link])
        self.assertEqual(self.ended, [])
        self.logins[0].callback(Login(CLOUD, "acme|ada", "ada"))
        self.assertEqual(self.ended, [LoginEnded(CLOUD, "ada")])

    def test_does_not_open_a_link_that_a_page_shows(self) -> None:
        beginning = self.pending.begin(CLOUD, PROVIDER, self.ended.append, opens_browser=False)
        begun = self.successResultOf(Deferred.fromCoroutine(beginning))
        self.assertEqual((begun.opened, self.browser.opened), (False, []))
        self.pending.cancel()

    def test_returns_the_link_where_there_is_no_browser(self) -> None:
        self.shows_link, self.browser.works = True, False
        begun = self.successResultOf(self.begin())
        self.assertEqual((begun.state, begun.opened), ("browser", False))
        self.assertEqual(begun.link, "https://login.example/authorize")
        self.pending.cancel()

    def test_a_login_that_does_not_begin_is_an_error_of_the_command_alone(self) -> None:
        self.error = BadGateway("no route")
        self.failureResultOf(self.begin(), BadGateway)
        self.assertEqual(self.ended, [])

    def test_a_login_that_fails_later_is_told_by_the_event(self) -> None:
        self.successResultOf(self.begin())
        self.logins[0].errback(BadGateway("denied"))
        self.assertEqual(self.ended, [LoginEnded(CLOUD, error="denied")])

    def test_an_internal_error_is_logged(self) -> None:
        self.successResultOf(self.begin())
        self.logins[0].errback(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertIn("Internal error", self.ended[0].error)

    def test_another_login_takes_its_place(self) -> None:
        self.successResultOf(self.begin())
        self.successResultOf(self.begin())
        self.assertIn("cancelled", self.ended[0].error)
        self.logins[1].callback(Login(CLOUD, "acme|ada", "ada"))
        self.assertEqual(self.ended[1].user, "ada")

    def test_the_end_of_the_daemon_cancels_it(self) -> None:
        self.successResultOf(self.begin())
        self.pending.stopService()
        self.assertIn("cancelled", self.ended[0].error)
        self.pending.cancel()
        self.assertEqual(len(self.ended), 1)
