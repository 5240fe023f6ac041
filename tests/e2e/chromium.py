"""A real Chromium under a test's control, on a thread of its own: Playwright's calls block."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any, TypeVar, cast

import pytest
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Locator,
    Page,
    Playwright,
    expect,
    sync_playwright,
)
from twisted.internet import reactor
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

T = TypeVar("T")
PATIENCE = 15_000  # milliseconds
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
#: `blocked` is what the page's own policy had to stop. Tests set `ahead`, seconds that its clock is
#: fast, and `haste`, how many of its seconds pass in one.
WATCH = """
window.blocked = []; window.ahead = 0; window.haste = 1;
addEventListener('securitypolicyviolation', event => blocked.push(event.violatedDirective));
const {now} = Date, wait = setTimeout;
Date.now = () => now() + ahead * 1000;
window.setTimeout = (act, time) => wait(act, time / haste);
"""
STORED = """async () => ({
    local: {...localStorage}, session: {...sessionStorage}, cookie: document.cookie,
    databases: await indexedDB.databases(), caches: await caches.keys(),
})"""


class Chromium:
    """The browser. `do` runs everything that touches it, one after the other."""

    def __init__(self) -> None:
        self._thread = ThreadPool(1, 1, "chromium")
        self._playwright: Playwright
        self._browser: Browser | None = None

    async def do(self, work: Callable[[], T]) -> T:
        """Run `work` on the browser's thread."""
        return await deferToThreadPool(cast(IReactorFromThreads, reactor), self._thread, work)

    async def start(self) -> None:
        """Launch it; fails the test where there is none."""
        name = os.environ.get("CHROMIUM", "/usr/bin/chromium")
        if shutil.which(name) is None:
            pytest.fail(
                f"These tests drive a real Chromium and there is none at {name}: install Debian's "
                '"chromium" or set $CHROMIUM to where it is.',
                pytrace=False,
            )
        self._thread.start()
        await self.do(lambda: self._launch(name))

    def _launch(self, name: str) -> None:
        expect.set_options(timeout=PATIENCE)
        self._playwright = sync_playwright().start()
        self._browser = self._playwright.chromium.launch(executable_path=name, args=QUIET)

    async def tab(self, **looks: Any) -> Tab:
        """Give a page of a fresh context: no cookie, nothing kept. `looks` are the context's."""
        made, browser = Tab(self), self._browser
        assert browser is not None
        await self.do(lambda: made.begin(browser, looks))
        return made

    async def close(self) -> None:
        """End it."""
        if self._browser is not None:
            await self.do(self._browser.close)
            await self.do(self._playwright.stop)
        if self._thread.started:
            self._thread.stop()


class Tab:
    """What one user has before them."""

    def __init__(self, chromium: Chromium) -> None:
        self._chromium = chromium
        self.page: Page
        self.complaints: list[str] = []  # what the console got, but for the notes of HTTP errors

    def begin(self, browser: Browser, looks: dict[str, Any]) -> None:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **looks})
        context.set_default_timeout(PATIENCE)
        self.page = context.new_page()
        self.page.add_init_script(WATCH)
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _heard(self, message: ConsoleMessage) -> None:
        if not message.text.startswith("Failed to load resource:"):
            self.complaints.append(f"{message.type}: {message.text}")

    async def do(self, work: Callable[[Page], T]) -> T:
        """Do something with Playwright's page."""
        return await self._chromium.do(lambda: work(self.page))

    async def open(self, url: str) -> None:
        """Go to an address, as from a bookmark."""
        await self.do(lambda page: page.goto(url))

    async def find(self, script: str) -> Any:
        """Give the value of an expression of JavaScript."""
        return await self.do(lambda page: page.evaluate(script))

    async def expect(self, selector: str, check: Callable[[Any], Any]) -> None:
        """Wait until what `selector` finds is as `check`, one of Playwright's, has it."""
        await self.do(lambda page: check(expect(page.locator(selector))))

    async def sees(self, selector: str, words: str) -> None:
        """Wait until an element is there to see, with these words in it."""
        await self.expect(selector, lambda it: it.to_contain_text(words))
        await self.expect(selector, lambda it: it.to_be_visible())

    async def misses(self, selector: str) -> None:
        """Wait until none such can be seen."""
        await self.do(lambda page: expect(page.locator(f"{selector}:visible")).to_have_count(0))

    async def use(self, selector: str, act: Callable[[Locator], Any]) -> None:
        """Do something with one element."""
        await self.do(lambda page: act(page.locator(selector)))

    async def click(self, words: str) -> None:
        """Click the button that says so."""
        await self.do(lambda page: page.get_by_role("button", name=words, exact=True).click())

    async def hurry(self) -> None:
        """Let the seconds of the page that is opened next pass eight times as fast."""
        await self.do(lambda page: page.add_init_script("haste = 8"))

    async def blocked(self) -> list[str]:
        """Give what the page's policy had to block since the page was loaded."""
        return await self.find("blocked")

    async def close(self) -> None:
        """Close it; fails the test if the console complained, or anything stayed in the browser."""
        found = {}
        if await self.do(lambda page: page.url.startswith("http")):
            found = await self.find(STORED)
            self.complaints += await self.blocked()
        await self.do(lambda page: page.context.close())
        assert not self.complaints, self.complaints
        assert not any(found.values()), found
