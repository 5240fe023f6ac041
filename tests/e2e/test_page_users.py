"""Two users in turn at one desktop's own page: nobody sees what is another's."""

from __future__ import annotations

import pytest
from pytest_twisted import ensureDeferred

from tests.e2e.chromium import Chromium, Tab
from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.page_checks import check_everywhere
from tests.e2e.test_loopback_page import LocalDesktop

REASON = "Another user has logged in on this desktop. Your conversations are kept"
SECRET = "Only for Ann"


@pytest.fixture
def desktop(cluster: Cluster) -> LocalDesktop:
    return LocalDesktop(cluster)


async def log_in(desktop: LocalDesktop, user: str) -> None:
    invite = await desktop.cluster.create_invite(user)
    await desktop.cluster.run_ctllm("home", "login", "-", stdin=invite)


async def open_chat(tab: Tab, desktop: LocalDesktop) -> None:
    """Open the page with a new link, as somebody who has been through the first run."""
    await tab.do(lambda page: page.add_init_script("localStorage.setItem('ctllm-setup-done', '1')"))
    url, code = await desktop.show("--local")
    await tab.open(f"{url}/#invite={code}&view=chat")
    await tab.expect("#send", lambda it: it.to_be_enabled())


@ensureDeferred
async def test_the_page_of_a_desktop_is_for_its_present_user(
    cluster: Cluster, desktop: LocalDesktop, chromium: Chromium
) -> None:
    """The former one is told why it is logged out; their conversations are back with them."""
    await cluster.start_cloud()
    await desktop.start()
    await log_in(desktop, "ann")
    tab = await chromium.tab(reduced_motion="reduce")
    await open_chat(tab, desktop)
    await tab.use("#message", lambda box: box.fill(SECRET))
    await tab.use("#message", lambda box: box.press("Enter"))
    await tab.sees(".response .end", "Complete.")
    await tab.use("#message", lambda box: box.fill("Not sent yet"))
    beside = await tab.open_beside()

    await log_in(desktop, "bob")
    await tab.sees("#logged-out-reason", REASON)
    assert SECRET not in await tab.find("document.body.innerText + document.title")
    await check_everywhere(tab, "user-changed")
    await open_chat(beside, desktop)
    assert SECRET not in await beside.find("document.body.innerText + document.title")
    await beside.expect("#message", lambda it: it.to_have_value(""))
    await beside.expect(".conversation", lambda it: it.to_have_count(0))

    await log_in(desktop, "ann")
    await beside.sees("#logged-out-reason", REASON)
    await open_chat(tab, desktop)
    await tab.use(f".conversation a:has-text('{SECRET}')", lambda link: link.click())
    await tab.sees(".question", SECRET)
    await tab.expect("#message", lambda it: it.to_have_value("Not sent yet"))
    await tab.close()


@ensureDeferred
async def test_a_reload_shows_nothing_of_the_former_user(
    cluster: Cluster, desktop: LocalDesktop, chromium: Chromium
) -> None:
    """Not even before the page has asked the desktop for anything."""
    await cluster.start_cloud()
    await desktop.start()
    await log_in(desktop, "ann")
    tab = await chromium.tab()
    await open_chat(tab, desktop)
    await tab.use("#message", lambda box: box.fill(SECRET))
    await tab.use("#message", lambda box: box.press("Enter"))
    await tab.sees(".response .end", "Complete.")
    await tab.do(lambda page: page.route("**/ctllm/desktops", lambda route: None))  # never answered

    await log_in(desktop, "bob")

    async def is_changed() -> bool:
        token = await tab.find("JSON.parse(sessionStorage['ctllm-desktop-token']).token")
        return (await desktop.request("GET", "/ctllm/session", token=token))[0] == 401

    await wait_until(is_changed, "the session to end")
    await tab.do(lambda page: page.reload())
    await tab.sees("#logged-out-reason", REASON)
    assert SECRET not in await tab.find("document.body.innerText + document.title")
    await tab.close()
