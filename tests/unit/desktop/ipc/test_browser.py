"""`ctllm.desktop.ipc.browser`: the chat page in its window, or in the browser by a private file."""

from __future__ import annotations

import html
import re
import shutil
import stat
import subprocess
import threading
import webbrowser
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from ctllm.desktop.ipc import browser
from ctllm.desktop.ipc.browser import (
    BROWSER_TIMEOUT,
    CLOUD_TIMEOUT,
    FILE_LIFETIME,
    BrowserOpener,
    ChatPage,
    has_display,
)
from ctllm.errors import BadGateway, BadRequest, CtllmError, Unauthorized


class ThreadClock(Clock):
    """A clock to which threads can pass calls."""

    def callFromThread(self, call: Any, *arguments: Any) -> None:
        cast(Any, reactor).callFromThread(call, *arguments)


class FakeSession:
    error: CtllmError | None = None

    def client(self) -> Any:
        if self.error is not None:
            raise self.error
        return self

    url = "https://c.example"

    waiting: Deferred[None] | None = None

    async def access_token(self) -> str:
        if self.waiting is not None:
            await self.waiting
        return "token"

    async def create_login_code(self, token: str) -> str:
        return "s3cret"


class FakeWindow:
    """The window of the page; `works` is what `open` returns."""

    def __init__(self) -> None:
        self.works = self.is_open = False
        self.calls: list[str] = []

    def show(self) -> None:
        self.calls.append("show")

    async def open(self, address: str) -> bool:
        self.calls.append(address)
        return self.works


class OpenInBrowserTests(TestCase):
    def started(self, code: int, **environ: str) -> tuple[list[Any], list[str]]:
        ran: list[Any] = []
        opened: list[str] = []

        def browse(url: str) -> bool:
            opened.append(url)
            return True

        def run(command: Any, **_: Any) -> Any:
            ran.append(command)
            return SimpleNamespace(returncode=code)

        self.patch(subprocess, "run", run)
        self.patch(webbrowser, "open", browse)
        self.patch(shutil, "which", lambda name: f"/usr/bin/{name}")
        self.assertTrue(browser.open_in_browser("file:///x", environ))
        return ran, opened

    def test_uses_webbrowser_outside_of_systemd(self) -> None:
        self.assertEqual(self.started(0), ([], ["file:///x"]))

    def test_starts_a_transient_unit_under_systemd(self) -> None:
        ran, opened = self.started(0, INVOCATION_ID="x")
        self.assertEqual(opened, [])
        runner = ["/usr/bin/systemd-run", "--user", "--quiet", "--collect", "--"]
        self.assertEqual(ran, [[*runner, "/usr/bin/xdg-open", "file:///x"]])
        ran, _ = self.started(0, INVOCATION_ID="x", BROWSER="firefox")
        self.assertEqual(ran, [[*runner, "firefox", "file:///x"]])

    def test_uses_webbrowser_when_systemd_run_fails(self) -> None:
        self.assertEqual(self.started(1, INVOCATION_ID="x")[1], ["file:///x"])


class ChatPageTests(TestCase):
    timeout = 20

    def setUp(self) -> None:
        self.clock = ThreadClock()
        self.state = Path(self.mktemp())
        self.opened: list[str] = []
        self.seen = threading.Event()
        self.works = True
        self.display = True
        self.window: Any = FakeWindow()
        self.session: Any = FakeSession()
        self.local_link = "http://127.0.0.1:11435/#invite=l0cal"
        self.is_disconnected = False

    def page(self, browse: Any = None) -> ChatPage:
        opener = BrowserOpener(self.clock, self.state, lambda: self.display, browse or self.browse)
        self.addCleanup(opener.stopService)
        return ChatPage(
            self.session,
            opener,
            self.window,
            self.clock,
            lambda: self.local_link,
            lambda: self.is_disconnected,
        )

    def browse(self, address: str) -> bool:
        self.opened.append(address)
        return self.works

    @property
    def file(self) -> Path:
        return self.state / "desktop" / "open.html"

    async def test_opens_a_private_file_in_the_browser_and_removes_it(self) -> None:
        result = await self.page().open("settings")
        self.assertEqual((result.opened, result.address), (True, ""))
        self.assertEqual(self.opened, [self.file.absolute().as_uri()])
        (link,) = re.findall(r'url=([^"]*)"', self.file.read_text())
        self.assertEqual(html.unescape(link), "https://c.example/#invite=s3cret&view=settings")
        self.assertEqual(stat.S_IMODE(self.file.stat().st_mode), 0o600)
        self.clock.advance(FILE_LIFETIME)
        self.assertFalse(self.file.exists())

    async def test_opening_again_extends_the_lifetime_of_the_file(self) -> None:
        page = self.page()
        await page.open()
        self.clock.advance(FILE_LIFETIME - 1)
        await page.open()
        self.clock.advance(FILE_LIFETIME - 1)
        self.assertTrue(self.file.exists())

    async def test_opens_the_window_or_shows_the_one_that_is_open(self) -> None:
        self.window.works = True
        result = await self.page().open()
        self.assertEqual((result.opened, result.window, self.opened), (True, True, []))
        self.window.is_open = True
        await self.page().open()
        await self.page().open("settings")
        link = "https://c.example/#invite=s3cret"
        self.assertEqual(self.window.calls, [link, "show", f"{link}&view=settings"])

    async def test_returns_the_address_without_a_display(self) -> None:
        self.display = False
        result = await self.page().open()
        self.assertEqual(
            (result.opened, result.address), (False, "https://c.example/#invite=s3cret")
        )
        self.assertEqual((self.opened, self.file.exists()), ([], False))

    async def opened_link(self, **options: Any) -> str:
        self.display = False
        result = await self.page().open(**options)
        self.assertEqual(result.local, result.address.startswith("http://127.0.0.1"))
        return result.address

    async def test_opens_the_page_of_this_machine_without_a_cloud(self) -> None:
        """Without a login, where the last attempt to connect failed, and where asking fails."""
        for error in (Unauthorized("no login"), BadGateway("no route")):
            self.session.error = error
            self.assertEqual(await self.opened_link(), self.local_link)
        address = await self.opened_link(view="settings")
        self.assertEqual(address, f"{self.local_link}&view=settings")
        self.session.error, self.is_disconnected = None, True
        self.assertEqual(await self.opened_link(), self.local_link)

    async def test_a_cloud_that_hangs_is_not_waited_for(self) -> None:
        """What was asked goes on: the renewal of a token must not be cut off."""
        cancelled: list[object] = []
        self.session.waiting = Deferred(cancelled.append)
        opening = Deferred.fromCoroutine(self.opened_link())
        self.clock.advance(CLOUD_TIMEOUT - 1)
        self.assertFalse(opening.called)
        self.clock.advance(1)
        self.assertEqual(await opening, self.local_link)
        self.local_link = ""
        failing = Deferred.fromCoroutine(self.page().open())
        self.clock.advance(CLOUD_TIMEOUT)
        await self.assertFailure(failing, BadGateway)
        self.assertEqual(cancelled, [])
        self.session.waiting.errback(BadGateway("too late"))

    async def test_opens_the_page_of_this_machine_on_request(self) -> None:
        self.window.works = self.window.is_open = True
        result = await self.page().open(is_local=True)
        self.assertEqual((result.window, result.local), (True, True))
        self.assertEqual(self.window.calls, [self.local_link])

    async def test_without_an_endpoint_there_is_the_clouds_page_alone(self) -> None:
        self.local_link, self.is_disconnected = "", True
        self.assertEqual(await self.opened_link(), "https://c.example/#invite=s3cret")
        self.session.error = BadGateway("no route")
        await self.assertFailure(Deferred.fromCoroutine(self.page().open()), BadGateway)
        opening = Deferred.fromCoroutine(self.page().open(is_local=True))
        await self.assertFailure(opening, BadRequest)

    async def test_returns_the_address_when_no_browser_starts(self) -> None:
        self.works = False
        self.assertFalse((await self.page().open()).opened)

        def breaks(address: str) -> bool:
            raise OSError("no such program")

        self.assertFalse((await self.page(breaks).open()).opened)

    async def test_a_browser_command_that_keeps_running_counts_as_opened(self) -> None:
        over = threading.Event()
        opening = Deferred.fromCoroutine(self.page(lambda _: over.wait(10)).open())
        self.assertFalse(opening.called)
        self.clock.advance(BROWSER_TIMEOUT)
        self.assertTrue((await opening).opened)
        over.set()


class HasDisplayTests(SynchronousTestCase):
    def test_a_display_or_a_configured_browser_is_needed(self) -> None:
        self.assertFalse(has_display({}, "linux"))
        for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
            self.assertTrue(has_display({name: "x"}, "linux"))
        self.assertTrue(has_display({}, "darwin"))
