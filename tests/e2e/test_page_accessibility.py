"""The page for everybody: axe-core on every screen, the keyboard, narrow windows, big text.

The screenshots are for review by eye: `build/screenshots/NAME-light-1280.png`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route
from pytest_twisted import ensureDeferred

from tests.e2e.chromium import Chromium, Tab
from tests.e2e.cluster import Cluster
from tests.fake_ollama import Script

ROOT = Path(__file__).parents[2]
AXE = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"
SCREENSHOTS = ROOT / "build" / "screenshots"
DESKTOP = {
    "id": "attic-id", "name": "attic", "ollama": "up", "version": "0.9.0", "models": ["llama3.2"],
    "resources": True, "latency_ms": 12,
}  # fmt: skip
ANSWER = (
    "Here is **a table** and some code.\n\n| left | right |\n| --- | --- |\n| 1 | 2 |\n\n",
    "```python\ndef greet(name: str) -> str:\n    # a long line that does not wrap\n"
    "    return f'Hello {name}, this is a rather long line of code to look at'\n```\n\n",
    "And $x^2 + y^2 = z^2$. שלום עולם, and English again.\n\n- one\n- two\n",
)
#: What violates the accessibility rules, as one line for each.
RUN_AXE = """async () => {
    const {violations} = await axe.run(document, {
        runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'],
    });
    return violations.flatMap(({id, nodes}) => nodes.map(({target, failureSummary}) =>
        `${id}: ${target.join(' ')}: ${failureSummary.replace(/\\s+/g, ' ')}`));
}"""
#: Elements that are wider than the window, unless they scroll in a box of their own.
FIND_OVERFLOW = """() => {
    const width = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= width) return [];
    return [...document.querySelectorAll('body *')]
        .filter(element => element.getBoundingClientRect().right > width + 1)
        .map(element => element.tagName + '#' + element.id + '.' + element.className)
        .slice(0, 5);
}"""

#: Makes every text 40 % longer, as another language may.
LENGTHEN = """() => {
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        const {length} = node.data.trim();
        if (length > 1) node.data += ' ' + 'ü'.repeat(Math.ceil(length * 0.4)).slice(0, 14);
    }
}"""


def serve(page: Page, path: str, body: Any, status: int = 200) -> None:
    """Respond to the page's requests to `path` in place of the cloud."""

    def respond(route: Route) -> None:
        route.fulfill(status=status, json=body)

    page.route(f"**{path}", respond)


async def log_in(tab: Tab, cluster: Cluster, name: str = "alice") -> None:
    await tab.open(await cluster.create_invite(name))
    await tab.click(f"Log in as {name}")
    await tab.expect("#log-out", lambda it: it.to_be_visible())


async def load_axe(tab: Tab) -> None:
    """Load axe-core, which the page's policy would not let in as an element."""
    source = AXE.read_text()
    await tab.do(lambda page: page.context.new_cdp_session(page).send(
        "Runtime.evaluate", {"expression": source}
    ))  # fmt: skip


class Look:
    """Checks of what a tab shows, in one colour scheme; collects what is wrong."""

    def __init__(self, tab: Tab, scheme: str) -> None:
        self._tab = tab
        self._scheme = scheme
        self.faults: list[str] = []

    async def check(self, name: str) -> None:
        """Run axe-core; look for overflow at 320 pixels; take screenshots of 1280 and 360."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        await load_axe(self._tab)
        await self._check_width(name, 1280, 900)
        await self._check_width(name, 360, 740)
        await self._check_width(name, 320, 640, is_kept=False)
        await self._resize(1280, 900)

    async def _check_width(self, name: str, width: int, height: int, is_kept: bool = True) -> None:
        await self._resize(width, height)
        if is_kept:
            path = SCREENSHOTS / f"{name}-{self._scheme}-{width}.png"
            await self._tab.do(lambda page: page.screenshot(path=path))
            found = await self._tab.find(RUN_AXE)
            self.faults += [f"{name} at {width}: {each}" for each in found]
        overflow = await self._tab.find(FIND_OVERFLOW)
        if overflow:
            self.faults.append(f"{name} at {width} is too wide: {overflow}")

    async def _resize(self, width: int, height: int) -> None:
        await self._tab.do(lambda page: page.set_viewport_size({"width": width, "height": height}))


async def show(tab: Tab, view: str) -> None:
    await tab.find(f"void (location.hash = '#view={view}')")
    await tab.expect("main h1", lambda it: it.to_be_focused())


async def look_at_logged_out(tab: Tab, look: Look, cluster: Cluster) -> None:
    await tab.open(cluster.url)
    await tab.sees("#logged-out", "ctllm invite")
    await look.check("logged-out")
    await tab.open(await cluster.create_invite("alice"))
    await tab.sees("#login", "Log in as alice?")
    await look.check("login")
    await tab.click("Log in as alice")
    await tab.expect("#log-out", lambda it: it.to_be_visible())


async def look_at_chat(tab: Tab, look: Look, cluster: Cluster) -> None:
    await tab.expect("#message", lambda it: it.to_be_visible())
    await look.check("chat-new")
    cluster.ollama.script("/api/chat", Script(lines=ANSWER))
    await tab.expect("#models", lambda it: it.to_be_enabled())
    await tab.use("#message", lambda box: box.fill("What is this? " + "long" * 60))
    await tab.use("#message", lambda box: box.press("Enter"))
    await tab.sees(".response:last-child", "English again")
    await tab.misses("#stop")
    await look.check("chat")
    await tab.use("#chat-settings-button", lambda button: button.click())
    await tab.sees("dialog[open]", "")
    await look.check("chat-settings")
    await tab.do(lambda page: page.keyboard.press("Escape"))
    await tab.do(lambda page: page.locator("h1").first.focus())
    await tab.do(lambda page: page.keyboard.press("?"))
    await tab.sees("#shortcuts", "Start a new chat")
    await look.check("shortcuts")
    await tab.do(lambda page: page.keyboard.press("Escape"))
    await tab.misses("dialog[open]")


async def look_at_drawer(tab: Tab, look: Look) -> None:
    await tab.do(lambda page: page.set_viewport_size({"width": 360, "height": 740}))
    await tab.click("Menu")
    await tab.sees(".drawer", "alice")
    await load_axe(tab)
    look.faults += [f"drawer: {each}" for each in await tab.find(RUN_AXE)]
    await tab.do(lambda page: page.screenshot(path=SCREENSHOTS / "drawer.png"))
    await tab.do(lambda page: page.keyboard.press("Escape"))
    await tab.do(lambda page: page.set_viewport_size({"width": 1280, "height": 900}))


async def look_at_what_is_missing(tab: Tab, look: Look) -> None:
    """The test replaces the cloud's list of desktops."""
    cases: dict[str, list[dict[str, Any]]] = {
        "no-desktop": [],
        "no-ollama": [{**DESKTOP, "ollama": "down", "models": []}],
        "no-model": [{**DESKTOP, "models": []}],
        "old-desktop": [{**DESKTOP, "resources": False}],
        "demo-help": [{**DESKTOP, "ollama": "demo", "models": ["demo:echo"]}],
    }
    for name, desktops in cases.items():
        await tab.do(partial(serve, path="/ctllm/desktops", body={"desktops": desktops}))
        await tab.find("void (location.hash = '')")
        await tab.do(lambda page: page.reload())
        await tab.expect(f"#{name}", lambda it: it.to_be_visible())
        await look.check(name)
        await tab.do(lambda page: page.unroute("**/ctllm/desktops"))
    error = {"error": {"code": "draining", "message": "The cloud is restarting."}}
    await tab.do(lambda page: serve(page, "/health", error, 503))
    await tab.do(lambda page: page.reload())
    await tab.sees("#no-server", "The cloud is restarting.")
    await look.check("no-server")
    await tab.do(lambda page: page.unroute("**/health"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@ensureDeferred
async def test_every_screen_is_accessible_and_fits(
    shared: Cluster, chromium: Chromium, scheme: str
) -> None:
    """No violation of axe-core's rules, and no horizontal scrolling at 320 pixels."""
    shared.ollama.reset()
    tab = await chromium.tab(color_scheme=scheme, reduced_motion="reduce")
    look = Look(tab, scheme)
    await look_at_logged_out(tab, look, shared)
    await look_at_chat(tab, look, shared)
    await look_at_drawer(tab, look)
    for view in ("settings", "models", "status", "privacy"):
        await show(tab, view)
        await look.check(view)
    await look_at_what_is_missing(tab, look)
    assert not look.faults, "\n".join(look.faults)
    await tab.close()


@ensureDeferred
async def test_a_conversation_needs_the_keyboard_alone(shared: Cluster, tab: Tab) -> None:
    """From the link to the answer and a new chat; each element in focus has a name."""
    shared.ollama.reset()
    shared.ollama.script("/api/chat", Script(lines=("Forty-two",)))
    await tab.open(await shared.create_invite("alice"))
    await tab.sees("#login", "Log in as alice?")

    async def tab_to(selector: str) -> None:
        for _ in range(60):
            if await tab.find(f"document.activeElement.matches({json.dumps(selector)})"):
                return
            await tab.do(lambda page: page.keyboard.press("Tab"))
        raise AssertionError(f"No Tab leads to {selector}")

    press: Callable[[str], Any] = lambda key: tab.do(lambda page: page.keyboard.press(key))  # noqa: E731
    await tab_to("#confirm-login")
    await press("Enter")
    await tab.expect("#send", lambda it: it.to_be_visible())
    await tab.expect("#models", lambda it: it.to_be_enabled())
    await tab_to("#message")
    await tab.do(lambda page: page.keyboard.type("What is the answer?"))
    await press("Enter")
    await tab.sees(".response:last-child", "Forty-two")
    await tab_to("#new-chat")
    await press("Enter")
    await tab.expect(".response", lambda it: it.to_have_count(0))
    names = """() => [...document.querySelectorAll('button, a[href], input, select, textarea')]
        .filter(element => element.checkVisibility())
        .filter(element => !(element.ariaLabel || element.title || element.textContent.trim()
            || element.labels?.length || element.getAttribute('aria-labelledby')))
        .map(element => element.outerHTML)"""
    assert await tab.find(names) == []


@pytest.mark.parametrize("view", ["", "settings", "models", "status", "privacy"])
@ensureDeferred
async def test_text_twice_as_large_and_in_german_fits(
    shared: Cluster, chromium: Chromium, view: str
) -> None:
    """200 % zoom of a window of 1280 pixels is one of 640, with the longer language."""
    tab = await chromium.tab(
        locale="de-DE", viewport={"width": 640, "height": 450}, device_scale_factor=2
    )
    await tab.do(lambda page: page.set_viewport_size({"width": 1280, "height": 900}))
    await tab.open(await shared.create_invite("alice"))
    await tab.click("Als alice anmelden")
    await tab.expect("#log-out", lambda it: it.to_be_visible())
    assert await tab.find("document.documentElement.lang") == "de"
    await tab.find(f"void (location.hash = {json.dumps(f'#view={view}' if view else '')})")
    await tab.do(lambda page: page.set_viewport_size({"width": 640, "height": 450}))
    assert await tab.find(FIND_OVERFLOW) == []
    await tab.do(lambda page: page.set_viewport_size({"width": 320, "height": 640}))
    assert await tab.find(FIND_OVERFLOW) == []
    await tab.find(LENGTHEN)
    assert await tab.find(FIND_OVERFLOW) == []
    await tab.close()


@ensureDeferred
async def test_high_contrast_and_reduced_motion_are_respected(
    shared: Cluster, chromium: Chromium
) -> None:
    """With forced colours the focus stays visible; nothing moves."""
    tab = await chromium.tab(forced_colors="active", reduced_motion="reduce")
    await log_in(tab, shared)
    await tab.use("#open-settings", lambda button: button.focus())
    await tab.do(lambda page: page.keyboard.press("Tab"))
    style = "getComputedStyle(document.activeElement)"
    assert await tab.find(f"{style}.outlineStyle") != "none"
    moving = """() => [...document.querySelectorAll('*')].flatMap(e => e.getAnimations())
        .filter(animation => animation.playState === 'running').length"""
    assert await tab.find(moving) == 0
    await tab.close()
