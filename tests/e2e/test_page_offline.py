"""The page without a network, its service worker, and new versions of it."""

from __future__ import annotations

import re
import signal
from functools import partial
from typing import Any

import pytest_twisted
from playwright.sync_api import Locator
from pytest_twisted import ensureDeferred

from tests.e2e.chromium import Chromium, Tab
from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.page_checks import check_everywhere

CACHED_PATHS = """async () => {
    const paths = [];
    for (const name of await caches.keys()) {
        const requests = await (await caches.open(name)).keys();
        for (const {url} of requests) paths.push(new URL(url).pathname);
    }
    return paths;
}"""
IS_CONTROLLED = "Boolean(navigator.serviceWorker.controller)"


@pytest_twisted.async_yield_fixture()
async def tab(chromium: Chromium) -> Any:
    """Open a page that may have a service worker."""
    new_tab = await chromium.tab(service_workers="allow")
    yield new_tab
    await new_tab.close()


async def log_in(tab: Tab, cluster: Cluster) -> None:
    """Log in, and wait until the service worker has the page."""
    await tab.open(await cluster.create_invite("alice"))
    await tab.click("Log in as alice")
    await tab.sees("#user-name", "alice")
    await wait_until(lambda: tab.find(IS_CONTROLLED), "the service worker")


async def use_the_page(tab: Tab) -> None:
    """Load every view, and ask for lists of the API."""
    for view in ("models", "status", "privacy", "settings"):
        await tab.find(f"void (location.hash = '#view={view}')")
        await tab.expect("main h1", lambda it: it.to_be_visible())
    assert await tab.find("fetch('/health').then(({ok}) => ok)")


@ensureDeferred
async def test_the_page_opens_without_a_network(shared: Cluster, tab: Tab) -> None:
    """All of its views do, as the person who was logged in; with the network it goes on."""
    await log_in(tab, shared)
    await tab.do(lambda page: page.context.set_offline(True))
    await tab.do(lambda page: page.reload())
    await tab.sees("#user-name", "alice")
    await tab.sees("#no-network", "You are offline")
    for view in ("privacy", "settings", "models", "status"):
        await tab.find(f"void (location.hash = '#view={view}')")
        await tab.expect("main h1", lambda it: it.to_be_visible())
        await tab.misses("#not-loaded")
    await tab.find("void (location.hash = '')")
    await tab.do(lambda page: page.context.set_offline(False))
    await tab.misses("#no-network")
    await tab.sees("#user-name", "alice")


def _fill(box: Locator, text: str) -> None:
    box.fill(text)


@ensureDeferred
async def test_a_stored_conversation_is_read_without_a_network(shared: Cluster, tab: Tab) -> None:
    """From the list, after the page was opened without a network; it is found by its words, too."""
    await log_in(tab, shared)
    for question in ("a marked-4d1 question", "another one"):
        await tab.use("#new-chat", lambda it: it.click())
        await tab.use("#message", partial(_fill, text=question))
        await tab.use("#message", lambda box: box.press("Enter"))
        await tab.sees(".response .text", question)
        await tab.expect(".response .end.complete", lambda it: it.to_be_attached())
    await tab.do(lambda page: page.context.set_offline(True))
    await tab.do(lambda page: page.goto(shared.url))
    await tab.sees("#no-network", "You are offline")
    await tab.use(".conversation a >> nth=1", lambda it: it.click())
    await tab.sees(".question .text", "a marked-4d1 question")
    await tab.sees(".response .text", "a marked-4d1 question")
    await tab.sees(".banner", "offline")
    await tab.use("#search", lambda box: box.fill("marked-4d1"))
    await tab.sees(".hit", "a marked-4d1 question")
    await tab.do(lambda page: page.reload())
    await tab.sees(".response .text", "a marked-4d1 question")


@ensureDeferred
async def test_the_page_opens_while_the_cloud_is_down(cluster: Cluster, tab: Tab) -> None:
    """Then it says so, and logs in again by itself."""
    cloud = await cluster.start_cloud()
    await log_in(tab, cluster)
    await cloud.stop(signal.SIGKILL)
    await tab.do(lambda page: page.reload())
    await tab.sees("#user-name", "alice")
    await tab.sees("#no-server", "The cloud cannot be reached")
    await tab.sees("#no-server", "Trying again")
    await cluster.start_cloud()
    await tab.click("Try now")
    await tab.misses("#no-server")


@ensureDeferred
async def test_only_files_of_the_page_are_cached(shared: Cluster, tab: Tab) -> None:
    """No response of the API, however often it was asked for."""
    await log_in(tab, shared)
    await use_the_page(tab)
    await tab.do(lambda page: page.reload())
    await tab.sees("#user-name", "alice")
    paths = await tab.find(CACHED_PATHS)
    files = {"/", "/manifest.webmanifest", "/icon-512.png", "/apple-touch-icon.png"}
    assert files <= set(paths), paths
    pattern = re.compile(r"/|/assets/[\w.-]+|/[\w-]+\.(js|svg|png|webmanifest)")
    assert all(pattern.fullmatch(path) for path in paths), paths
    assert "/service-worker.js" not in paths


@ensureDeferred
async def test_a_new_version_is_offered_and_loses_no_draft(shared: Cluster, tab: Tab) -> None:
    """The old page goes on working until the person reloads it."""

    def open_older_page(page: Any) -> None:
        """Serve the page under another name of its script, as if it were of another version."""

        def rename(route: Any) -> None:
            response = route.fetch()
            text = re.sub(r"/assets/shell-[\w-]+\.js", "/assets/shell-older.js", response.text())
            route.fulfill(response=response, body=text)

        def find_script(route: Any) -> None:
            html = page.request.get(shared.url, headers={"Accept": "text/html"}).text()
            name = re.search(r"/assets/shell-[\w-]+\.js", html)
            assert name is not None, html
            route.fulfill(response=route.fetch(url=shared.url + name[0]))

        page.route(f"{shared.url}/", rename)
        page.route("**/assets/shell-older.js", find_script)

    await tab.do(open_older_page)
    await log_in(tab, shared)
    await tab.use("#message", lambda box: box.fill("half a thought"))
    await tab.sees("#update", "A new version of this page is ready.")
    await check_everywhere(tab, "update")
    await tab.find("void (window.isOld = true)")
    await tab.expect("#message", lambda it: it.to_have_value("half a thought"))
    await tab.do(lambda page: page.unroute(f"{shared.url}/"))
    await tab.click("Reload")

    async def is_new() -> bool:
        return await tab.find("window.isOld === undefined")

    await wait_until(is_new, "the page to reload")
    await tab.sees("#user-name", "alice")
    await tab.expect("#message", lambda it: it.to_have_value("half a thought"))


@ensureDeferred
async def test_the_page_can_be_installed(shared: Cluster, tab: Tab) -> None:
    """Chromium finds nothing that is missing."""
    await log_in(tab, shared)

    def find_errors(page: Any) -> list[Any]:
        session = page.context.new_cdp_session(page)
        errors: list[Any] = session.send("Page.getInstallabilityErrors")["installabilityErrors"]
        return errors

    # The contexts of the tests are like private windows, from which nothing is installed.
    assert [each["errorId"] for each in await tab.do(find_errors)] in ([], ["in-incognito"])
