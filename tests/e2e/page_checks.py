"""What every screen of the page must be: accessible, within its window, and kept as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import Page

from tests.e2e.chromium import Tab
from tests.e2e.cluster import Cluster

ROOT = Path(__file__).parents[2]
AXE = ROOT / "web/node_modules/axe-core/axe.min.js"
SCREENSHOTS = ROOT / "build/screenshots"
Scheme = Literal["light", "dark"]
SCHEMES: tuple[Scheme, ...] = ("light", "dark")
#: Colour schemes and sizes of windows; 320 px is the narrowest that WCAG 2.2 asks for.
LAYOUTS = [("light", 1280), ("dark", 1280), ("dark", 360), ("light", 320)]
#: The rules of axe-core that the colour scheme makes a difference to.
COLOUR_RULES = ("color-contrast", "link-in-text-block")
#: A link to a view begins with "#", too, and leads nowhere within the page.
_CONFIGURE_AXE = ";axe.configure({rules: [{id: 'skip-link', selector: '.skip-link'}]});"
_RUN_AXE = """async rules => {
    const some = rules.length > 0 ? {runOnly: rules} : {};
    const {violations} = await axe.run({resultTypes: ['violations'], ...some});
    return violations.flatMap(({id, nodes}) => nodes.map(
        ({target, html, failureSummary}) => `${id}: ${target} ${html} ${failureSummary}`));
}"""
#: So that a picture shows no transition half done. What moves without an end is left out.
_END_TRANSITIONS = """() => document.getAnimations().forEach(each => {
    if (each.effect.getComputedTiming().iterations !== Infinity) each.finish();
})"""
#: What is wider than its place: what scrolls up and down must not scroll sideways, too, and what is
#: in sight must not leave the window, unless it scrolls in a box of its own.
FIND_OVERFLOW = """() => {
    const {clientWidth: width} = document.documentElement;
    const upright = 'html, dialog, .view, .sidebar, .dialog-body, .log-scroller, .rows, .hits';
    const sideways = 'pre, .table, .display, [role=tablist], .section-links, .visually-hidden';
    const isOutside = element => {
        const {left, right, width: own} = element.getBoundingClientRect();
        return own > 0 && (left < -1 || right > width + 1);
    };
    const wide = [...document.querySelectorAll(upright)].filter(e => e.scrollWidth > e.clientWidth);
    const outside = [...document.querySelectorAll('body *')].filter(
        e => isOutside(e) && !e.closest(sideways) && e.checkVisibility({opacityProperty: true}));
    return [...wide, ...outside].slice(0, 5).map(e => e.cloneNode().outerHTML ?? e.tagName);
}"""


async def log_in(tab: Tab, cluster: Cluster, name: str = "alice") -> None:
    """Log in with a new invite."""
    await tab.open(await cluster.create_invite(name))
    await tab.click(f"Log in as {name}")
    # In the sidebar, which is closed on narrow screens.
    await tab.misses("#login")
    await tab.expect("#logged-out", lambda it: it.to_have_count(0))


async def show_view(tab: Tab, view: str) -> None:
    """Show a view by its address."""
    await tab.find(f"void (location.hash = '#view={view}')")


async def choose_scheme(tab: Tab, scheme: Scheme) -> None:
    """Make a tab light or dark, as its system would."""
    await tab.do(lambda page: page.emulate_media(color_scheme=scheme))


async def resize(tab: Tab, width: int, height: int) -> None:
    """Make the window of a tab larger or smaller."""
    await tab.do(lambda page: page.set_viewport_size({"width": width, "height": height}))


async def check_everywhere(tab: Tab, name: str) -> None:
    """Check what is on the screen at 1280 and at 320 pixels, light and dark."""
    for width, height in ((320, 640), (1280, 900)):
        await resize(tab, width, height)
        await check_schemes(tab, name)


async def check_schemes(tab: Tab, name: str) -> None:
    """Check what is on the screen, light and dark: what has no colour is the same in both."""
    for scheme in reversed(SCHEMES):
        await choose_scheme(tab, scheme)
        await check_screen(tab, name, COLOUR_RULES if scheme == "light" else ())


async def check_screen(tab: Tab, name: str, rules: Sequence[str] = ()) -> None:
    """Check what is on the screen: no violation of axe-core's rules, nothing wider than the window.

    `rules` are names of axe-core's; without them, all are checked, and the widths. Keeps a picture
    of the screen in build/screenshots.
    """

    def check(page: Page) -> tuple[list[Any], list[Any], int]:
        page.evaluate(_END_TRANSITIONS)
        scheme = (
            "dark"
            if page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
            else "light"
        )
        width = page.viewport_size["width"] if page.viewport_size else 0
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"{name}-{scheme}-{width}.png")
        if not page.evaluate("'axe' in window"):
            page.evaluate(AXE.read_text() + _CONFIGURE_AXE)
        return (
            page.evaluate(_RUN_AXE, list(rules)),
            [] if rules else page.evaluate(FIND_OVERFLOW),
            width,
        )

    violations, overflow, width = await tab.do(check)
    assert not violations, f"{name} at {width}:\n" + "\n".join(violations)
    assert not overflow, f"{name} at {width} is too wide:\n" + "\n".join(overflow)
