"""The session of the page in a real Chromium: links, cookie, other tabs, and the end of it."""

from __future__ import annotations

import signal
from typing import Any, cast

import pytest
from playwright.sync_api import Page, Route
from pytest_twisted import ensureDeferred

from tests.e2e.chromium import Tab
from tests.e2e.cluster import Cluster, wait_until


@pytest.fixture(autouse=True)
def reset_fake_ollama(request: pytest.FixtureRequest) -> None:
    """Remove the fake Ollama's scripts and records of the previous test."""
    if "shared" in request.fixturenames:
        request.getfixturevalue("shared").ollama.reset()


async def log_in(tab: Tab, cluster: Cluster, name: str = "alice") -> None:
    await tab.open(await cluster.create_invite(name))
    await tab.click(f"Log in as {name}")
    await tab.sees("#user-name", name)


async def follow_link(tab: Tab, link: str) -> None:
    """Open a link in the page that is open."""
    await tab.do(lambda page: page.evaluate("link => { location.href = link; }", link))


# -- links


@ensureDeferred
async def test_an_invite_link_logs_in_after_confirmation(shared: Cluster, tab: Tab) -> None:
    """The invite is removed from the address and written to no log."""
    link = await shared.create_invite("alice")
    await tab.open(link)
    await tab.sees("#login", "Log in as alice?")
    await tab.sees("#login", "You are not logged in.")
    assert await tab.find("location.href") == f"{shared.url}/"
    await tab.click("Log in as alice")
    await tab.sees("#account", "Logged in as alice")
    await tab.misses("#logged-out")
    assert await tab.find("location.href") == f"{shared.url}/"
    secret = link.partition("#invite=")[2]
    assert secret and all(secret not in program.output for program in shared.processes)


@ensureDeferred
async def test_a_logged_out_page_shows_how_to_log_in(shared: Cluster, tab: Tab) -> None:
    """Chat and account are not there."""
    await tab.open(shared.url)
    await tab.sees("#logged-out", "You are not logged in")
    await tab.sees("#logged-out", "ctllm invite")
    await tab.misses("#chat")
    await tab.misses("#account")


@ensureDeferred
async def test_a_used_invite_is_refused_and_keeps_the_login(shared: Cluster, tab: Tab) -> None:
    link = await shared.create_invite("alice")
    await shared.log_in(link)
    await tab.open(link)
    await tab.sees("#logged-out-reason", "This login link has expired or was used before.")
    assert await tab.find("location.hash") == ""
    await log_in(tab, shared)
    await tab.open(link)
    await tab.sees(".toasts", "or was used before. You are still logged in.")
    await tab.sees("#user-name", "alice")


@ensureDeferred
async def test_an_invite_link_changes_the_user_only_after_confirmation(
    shared: Cluster, tab: Tab
) -> None:
    """Until the user confirms, the invite stays valid; a new user sees no draft of the old one."""
    link = await shared.create_invite("bob")
    await tab.open(link)
    await tab.click("Cancel")
    await tab.sees("#logged-out", "You are not logged in")
    await log_in(tab, shared)
    await tab.use("#message", lambda box: box.fill("for alice alone"))
    await follow_link(tab, link)
    await tab.sees("#login", "Log in as bob?")
    await tab.sees("#login-effect", "You are logged in as alice")
    assert await tab.find("document.activeElement.id") == "decline-login"
    assert await tab.find("location.hash") == ""
    await tab.click("Stay alice")
    await tab.sees("#user-name", "alice")
    await tab.expect("#message", lambda it: it.to_have_value("for alice alone"))
    await follow_link(tab, link)
    await tab.click("Log in as bob")
    await tab.expect("#user-name", lambda it: it.to_have_text("bob"))
    await tab.expect("#message", lambda it: it.to_have_value(""))


@ensureDeferred
async def test_an_invite_for_the_present_user_is_used_without_confirmation(
    shared: Cluster, tab: Tab
) -> None:
    await log_in(tab, shared)
    link = await shared.create_invite("alice")
    await follow_link(tab, link)

    async def is_used() -> bool:
        body = {"invite": link.partition("#invite=")[2]}
        return (await shared.request("POST", "/ctllm/session/introspect", body))[0] == 401

    await wait_until(is_used, "the invite to be used")
    await tab.misses("#login")
    await tab.sees("#user-name", "alice")


@ensureDeferred
async def test_a_link_to_a_view_shows_it_after_the_login(shared: Cluster, tab: Tab) -> None:
    link = await shared.create_invite("alice")
    await tab.open(f"{link}&view=settings")
    await tab.click("Log in as alice")
    await tab.sees("#user-name", "alice")
    assert await tab.find("location.hash") == "#view=settings"
    await tab.expect("#open-settings", lambda it: it.to_have_attribute("aria-current", "page"))
    assert await tab.find("document.title") == "Settings · ctllm"


# -- the session


@ensureDeferred
async def test_logging_in_or_out_updates_other_tabs(shared: Cluster, tab: Tab) -> None:
    """They show the new user, and discard what the old one began."""
    await log_in(tab, shared)
    await tab.use("#message", lambda box: box.fill("what alice began to write"))
    link = await shared.create_invite("bob")
    other = await tab.do(lambda page: page.context.new_page())
    await tab.do(lambda _: other.goto(link))
    await tab.do(lambda _: other.get_by_role("button", name="Log in as bob").click())
    await tab.expect("#user-name", lambda it: it.to_have_text("bob"))
    await tab.sees(".toasts", "You are logged in as bob now, from another tab.")
    await tab.expect("#message", lambda it: it.to_have_value(""))
    await tab.do(lambda _: other.get_by_role("button", name="Log out").click())
    await tab.sees("#logged-out-reason", "You logged out in another tab.")
    await tab.misses("#chat")


@ensureDeferred
async def test_the_session_survives_a_reload_and_ends_with_logging_out(
    shared: Cluster, tab: Tab
) -> None:
    """An HttpOnly cookie holds it; after logging out, the old cookie is invalid."""
    await log_in(tab, shared)
    await tab.do(lambda page: page.reload())
    await tab.sees("#user-name", "alice")
    [cookie] = await tab.do(lambda page: page.context.cookies())
    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (
        "ctllm-session", True, "Strict", "/ctllm/session",
    )  # fmt: skip
    await tab.click("Log out")
    await tab.sees("#logged-out-reason", "You have logged out.")
    await tab.misses("#chat")
    assert await tab.do(lambda page: page.context.cookies()) == []
    assert await tab.find("localStorage.getItem('ctllm-user')") is None
    await tab.do(lambda page: page.reload())
    await tab.sees("#logged-out", "You are not logged in")
    await tab.do(lambda page: page.context.add_cookies([cast(Any, cookie)]))
    await tab.do(lambda page: page.reload())
    await tab.sees("#logged-out", "You are not logged in")


@ensureDeferred
async def test_the_access_token_is_renewed_before_it_expires(shared: Cluster, tab: Tab) -> None:
    """Without a session, renewal fails and the page logs out."""
    await tab.hurry()
    await log_in(tab, shared)

    def after(page: Page, minutes: int) -> int:
        with page.expect_response("**/ctllm/session/token") as renewal:
            page.evaluate(f"ahead = {minutes * 60}")
        return renewal.value.status

    assert await tab.do(lambda page: after(page, 10)) == 200
    await tab.sees("#user-name", "alice")
    await tab.do(lambda page: page.context.clear_cookies())
    assert await tab.do(lambda page: after(page, 20)) == 401
    await tab.sees("#logged-out-reason", "Your session has ended.")


@ensureDeferred
async def test_the_token_is_renewed_by_one_request_at_a_time(shared: Cluster, tab: Tab) -> None:
    """However many requests find that it has expired."""
    await log_in(tab, shared)
    renewals: list[str] = []

    def hold(route: Route) -> None:
        renewals.append(route.request.url)
        route.continue_()

    await tab.do(lambda page: page.route("**/ctllm/session/token", hold))
    await tab.find("void (ahead = 600)")
    await tab.use(".sidebar a:has-text('Models')", lambda link: link.click())
    await tab.sees("#user-name", "alice")

    async def has_renewed() -> bool:
        await tab.find("1")  # Playwright calls `hold` during its own calls only
        return bool(renewals)

    await wait_until(has_renewed, "a renewal")
    await tab.find("new Promise(done => setTimeout(done, 2000))")
    assert len(renewals) == 1, renewals


@ensureDeferred
async def test_a_page_without_its_cloud_waits_for_it(cluster: Cluster, tab: Tab) -> None:
    """The person stays logged in, and somebody new is told when the page tries again."""
    cloud = await cluster.start_cloud()
    await tab.hurry()
    await log_in(tab, cluster)
    await tab.do(lambda page: page.route("**/ctllm/session/token", lambda route: route.abort()))
    await tab.do(lambda page: page.reload())
    await tab.sees("#user-name", "alice")
    await tab.find("localStorage.removeItem('ctllm-user')")
    await tab.do(lambda page: page.reload())
    await tab.sees("#cannot-start", "The cloud cannot be reached")
    await tab.sees("#cannot-start", "Trying again")
    await tab.do(lambda page: page.unroute("**/ctllm/session/token"))
    await tab.sees("#user-name", "alice")
    await cloud.stop(signal.SIGKILL)
    await tab.sees("#user-name", "alice")


@ensureDeferred
async def test_a_failed_logout_says_so_and_keeps_the_login(shared: Cluster, tab: Tab) -> None:
    await log_in(tab, shared)
    await tab.do(
        lambda page: page.route(
            "**/ctllm/session",
            lambda route: route.abort() if route.request.method == "DELETE" else route.continue_(),
        )
    )
    await tab.click("Log out")
    await tab.sees(".toasts", "You are still logged in.")
    await tab.sees("#user-name", "alice")


# -- the frame


@ensureDeferred
async def test_views_have_titles_and_headings_with_the_focus(shared: Cluster, tab: Tab) -> None:
    """There is one heading of the first level, and the browser's Back leads back."""
    await log_in(tab, shared)
    for name, title in (("Models", "Models"), ("Privacy", "Privacy"), ("Settings", "Settings")):
        if name == "Settings":
            await tab.click(name)
        else:
            await tab.use(f".sidebar a:has-text('{name}')", lambda link: link.click())
        await tab.expect("main h1", lambda it: it.to_be_focused())
        assert await tab.find("document.title") == f"{title} · ctllm"
        assert await tab.find("document.querySelectorAll('h1').length") == 1
    await tab.do(lambda page: page.go_back())
    await tab.expect("#main h1", lambda it: it.to_have_text("What is stored where"))


@ensureDeferred
async def test_keys_lead_to_views_and_a_list_explains_them(shared: Cluster, tab: Tab) -> None:
    """They do nothing while somebody writes."""
    await log_in(tab, shared)
    await tab.find("document.activeElement.blur()")
    await tab.do(lambda page: page.keyboard.press("?"))
    await tab.sees("#shortcuts", "Start a new chat")
    await tab.do(lambda page: page.keyboard.press("s"))
    assert await tab.find("location.hash") == ""
    await tab.do(lambda page: page.keyboard.press("Escape"))
    await tab.misses("#shortcuts")
    await tab.do(lambda page: page.keyboard.press("s"))
    await tab.do(lambda page: page.wait_for_url("**/#view=status"))
    await tab.do(lambda page: page.keyboard.press("n"))
    await tab.do(lambda page: page.wait_for_url(f"{shared.url}/"))
    await tab.expect("#message", lambda it: it.to_be_focused())
    await tab.find("document.activeElement.blur()")
    await tab.do(lambda page: page.keyboard.press("/"))
    await tab.expect("#message", lambda it: it.to_be_focused())
    await tab.do(lambda page: page.keyboard.type("?sm"))
    await tab.expect("#message", lambda it: it.to_have_value("?sm"))
    await tab.misses("#shortcuts")


@ensureDeferred
async def test_on_a_phone_the_sidebar_is_a_drawer_that_keeps_the_focus(
    shared: Cluster, tab: Tab
) -> None:
    await log_in(tab, shared)
    await tab.do(lambda page: page.set_viewport_size({"width": 360, "height": 740}))
    await tab.misses("#account")
    await tab.click("Menu")
    await tab.sees("#user-name", "alice")
    for _ in range(30):
        await tab.do(lambda page: page.keyboard.press("Tab"))
        outside = "document.activeElement.closest('.frame > :not(dialog)')"
        assert await tab.find(outside) is None
    await tab.do(lambda page: page.keyboard.press("Escape"))
    await tab.misses("#account")
    assert await tab.find("document.activeElement.id") == "open-drawer"
    await tab.click("Menu")
    await tab.use(".drawer a:has-text('Privacy')", lambda link: link.click())
    await tab.misses(".drawer")
    assert await tab.find("location.hash") == "#view=privacy"


@ensureDeferred
async def test_the_first_key_skips_to_the_content(shared: Cluster, tab: Tab) -> None:
    await log_in(tab, shared)
    await tab.find("void (location.hash = '#view=models')")
    await tab.do(lambda page: page.reload())
    await tab.sees("#user-name", "alice")
    await tab.do(lambda page: page.keyboard.press("Tab"))
    await tab.expect(".skip-link", lambda it: it.to_be_focused())
    await tab.do(lambda page: page.keyboard.press("Enter"))
    await tab.expect("#main", lambda it: it.to_be_focused())
    assert await tab.find("location.hash") == "#view=models"


@ensureDeferred
async def test_a_view_that_an_update_removed_is_loaded_after_one_reload(
    shared: Cluster, tab: Tab
) -> None:
    """If it is still missing then, the page says so."""
    await log_in(tab, shared)
    await tab.find("void (window.isOld = true)")
    await tab.do(
        lambda page: page.route(
            "**/assets/models-view-*.js", lambda route: route.fulfill(status=404)
        )
    )
    await tab.use(".sidebar a:has-text('Models')", lambda link: link.click())
    await tab.sees("#not-loaded", "could not be loaded")
    assert await tab.find("window.isOld") is None
    await tab.do(lambda page: page.unroute("**/assets/models-view-*.js"))
    await tab.click("Reload")
    await tab.misses("#not-loaded")
    await tab.expect("main h1", lambda it: it.to_be_visible())
