"""Chromium, controlled by Playwright on a separate thread, because its calls block."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import pytest
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Locator,
    Page,
    Playwright,
    Request,
    expect,
    sync_playwright,
)
from twisted.internet import reactor
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

T = TypeVar("T")
TIMEOUT_MS = 15_000
CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
#: `blocked` has the violations of the page's content security policy. Tests set `ahead`, how many
#: seconds its clock is fast, and `haste`, the factor by which its timers are faster.
INIT_SCRIPT = """
window.blocked = []; window.ahead = 0; window.haste = 1;
addEventListener('securitypolicyviolation', event => blocked.push(event.violatedDirective));
const {now} = Date, wait = setTimeout;
Date.now = () => now() + ahead * 1000;
window.setTimeout = (act, time) => wait(act, time / haste);
"""
#: Beginnings of console messages that are no complaint: of HTTP errors, and of a blocked worker.
EXPECTED_MESSAGES = ("Failed to load resource:", "Service Worker registration blocked")
#: All that a page has stored in the browser, as text, except what its tab alone keeps.
READ_STORAGE = """async () => {
    const read = request => new Promise((done, fail) => {
        request.onsuccess = () => done(request.result);
        request.onerror = () => fail(request.error);
    });
    const texts = [document.cookie, JSON.stringify({...localStorage})];
    for (const {name} of await indexedDB.databases()) {
        const database = await read(indexedDB.open(name));
        for (const store of database.objectStoreNames) {
            const rows = await read(database.transaction(store).objectStore(store).getAll());
            texts.push(JSON.stringify(rows));
        }
        database.close();
    }
    const cached = [];
    for (const name of await caches.keys()) {
        const cache = await caches.open(name);
        for (const request of await cache.keys()) {
            cached.push(new URL(request.url).pathname);
            texts.push(await (await cache.match(request)).text());
        }
    }
    return {texts, cached, tab: {...sessionStorage}};
}"""
#: Paths of files of the page: its service worker may cache these alone.
SHELL = re.compile(r"/|/assets/[\w.-]+|/[\w-]+\.(js|svg|png|webmanifest)")

DEFAULT_OPTIONS: dict[str, Any] = {
    "viewport": {"width": 1280, "height": 900},
    "service_workers": "block",
}
#: What a tab alone keeps: the token of a desktop's own page, which machine asks during a sign-in,
#: that the page reloads, and drafts.
TAB_KEYS = re.compile(r"ctllm-desktop-token|ctllm-reloaded|machine|ctllm\.draft\..*")


class Chromium:
    """A browser process. `do` runs all calls to Playwright in order on its thread."""

    def __init__(
        self, args: Sequence[str] = CHROMIUM_ARGS, env: dict[str, str | float | bool] | None = None
    ) -> None:
        self._args, self._env = args, env
        self._thread = ThreadPool(1, 1, "chromium")
        self._playwright: Playwright
        self._browser: Browser | None = None

    async def do(self, work: Callable[[], T]) -> T:
        """Call `work` on the browser's thread; returns its result."""
        return await deferToThreadPool(cast(IReactorFromThreads, reactor), self._thread, work)

    async def start(self) -> None:
        """Launch Chromium; fails the test if it is not installed."""
        name = os.environ.get("CHROMIUM", "/usr/bin/chromium")
        if shutil.which(name) is None:
            pytest.fail(
                f"These tests need Chromium, and there is none at {name}. Install Debian's package "
                '"chromium" or set $CHROMIUM to its path.',
                pytrace=False,
            )
        self._thread.start()
        await self.do(lambda: self._launch(name))

    def _launch(self, name: str) -> None:
        expect.set_options(timeout=TIMEOUT_MS)
        self._playwright = sync_playwright().start()
        self._browser = self._playwright.chromium.launch(
            executable_path=name, args=self._args, env=self._env
        )

    async def tab(self, **options: Any) -> Tab:
        """Open a page in a new context without stored data; `options` are for `new_context`.

        It has no service worker, unless `service_workers` is "allow": tests answer its requests.
        """
        tab, browser = Tab(self), self._browser
        assert browser is not None
        await self.do(lambda: tab.begin(browser, options))
        return tab

    async def close(self) -> None:
        """Close the browser and stop its thread."""
        if self._browser is not None:
            await self.do(self._browser.close)
            await self.do(self._playwright.stop)
        if self._thread.started:
            self._thread.stop()


class Tab:
    """A page in a browser context of its own, as of one user."""

    def __init__(self, chromium: Chromium) -> None:
        self._chromium = chromium
        self.page: Page
        self.complaints: list[str] = []  # console messages, except those about HTTP errors
        self.tokens: set[str] = set()  # the access tokens that the page has used

    def begin(self, browser: Browser, options: dict[str, Any]) -> None:
        context = browser.new_context(**{**DEFAULT_OPTIONS, **options})
        context.set_default_timeout(TIMEOUT_MS)
        context.on("request", self._record_token)
        self.adopt(context.new_page())

    def _record_token(self, request: Request) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme == "Bearer" and token:
            self.tokens.add(token)

    def _record_message(self, message: ConsoleMessage) -> None:
        if not message.text.startswith(EXPECTED_MESSAGES):
            self.complaints.append(f"{message.type}: {message.text}")

    async def open_beside(self) -> Tab:
        """Open another page of the same browser context; it is closed with this one."""
        other = Tab(self._chromium)
        await self._chromium.do(lambda: other.adopt(self.page.context.new_page()))
        other.complaints = self.complaints
        return other

    def adopt(self, page: Page) -> None:
        """Use a page that is open."""
        self.page = page
        page.add_init_script(INIT_SCRIPT)
        page.on("console", self._record_message)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    async def do(self, work: Callable[[Page], T]) -> T:
        """Call `work` with Playwright's page on the browser's thread."""
        return await self._chromium.do(lambda: work(self.page))

    async def open(self, url: str) -> None:
        """Navigate to `url`."""
        await self.do(lambda page: page.goto(url))

    async def find(self, script: str) -> Any:
        """Evaluate a JavaScript expression; returns its value."""
        return await self.do(lambda page: page.evaluate(script))

    async def expect(self, selector: str, check: Callable[[Any], Any]) -> None:
        """Wait until the elements of `selector` satisfy `check`, a Playwright assertion."""
        await self.do(lambda page: check(expect(page.locator(selector))))

    async def sees(self, selector: str, words: str) -> None:
        """Wait until an element is visible and contains this text."""
        await self.expect(selector, lambda it: it.to_contain_text(words))
        await self.expect(selector, lambda it: it.to_be_visible())

    async def misses(self, selector: str) -> None:
        """Wait until no element of `selector` is visible."""
        await self.do(lambda page: expect(page.locator(f"{selector}:visible")).to_have_count(0))

    async def use(self, selector: str, act: Callable[[Locator], Any]) -> None:
        """Call `act` with the locator of an element."""
        await self.do(lambda page: act(page.locator(selector)))

    async def click(self, words: str) -> None:
        """Click the button with this label."""
        await self.do(lambda page: page.get_by_role("button", name=words, exact=True).click())

    async def hurry(self) -> None:
        """Make the timers of the next loaded page eight times as fast."""
        await self.do(lambda page: page.add_init_script("haste = 8"))

    async def blocked(self) -> list[str]:
        """Return the violations of the content security policy since the page was loaded."""
        return await self.find("blocked")

    async def close(self) -> None:
        """Close the page; fails the test if it logged errors or stored what it must not."""
        if await self.do(lambda page: page.url.startswith("http")):
            await self.check_storage()
            self.complaints += await self.blocked()
        await self.do(lambda page: page.context.close())
        assert not self.complaints, self.complaints

    async def check_storage(self) -> None:
        """Fail the test if the page stored an access token, or cached more than its own files."""
        stored = await self.find(READ_STORAGE)
        assert not [path for path in stored["cached"] if not SHELL.fullmatch(path)], stored
        assert all(TAB_KEYS.fullmatch(key) for key in stored["tab"]), stored["tab"]
        for token in self.tokens - {stored["tab"].get("ctllm-desktop-token")}:
            assert not [text for text in stored["texts"] if token in text], "a stored access token"
