"""What every screen of the page must be: accessible, within its window, and kept as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from tests.e2e.chromium import Tab
from tests.e2e.cluster import Cluster

ROOT = Path(__file__).parents[2]
AXE = ROOT / "web/node_modules/axe-core/axe.min.js"
SCREENSHOTS = ROOT / "build/screenshots"
#: Colour schemes and sizes of windows; 320 px is the narrowest that WCAG 2.2 asks for.
LAYOUTS = [("light", 1280), ("dark", 1280), ("dark", 360), ("light", 320)]
_RUN_AXE = """async () => {
    const {violations} = await axe.run({resultTypes: ['violations']});
    return violations.flatMap(({id, nodes}) => nodes.map(
        ({target, html, failureSummary}) => `${id}: ${target} ${html} ${failureSummary}`));
}"""
_READ_WIDTH = """Math.max(
    document.documentElement.scrollWidth,
    ...[...document.querySelectorAll('dialog[open]')].map(each => each.scrollWidth),
)"""


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


async def check_screen(tab: Tab, name: str) -> None:
    """Check what is on the screen: no violation of axe-core's rules, nothing wider than the window.

    Keeps a picture of it in build/screenshots.
    """

    def check(page: Page) -> tuple[list[Any], int, int]:
        page.wait_for_timeout(250)  # so that transitions are at their end in the picture
        scheme = (
            "dark"
            if page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
            else "light"
        )
        width = page.viewport_size["width"] if page.viewport_size else 0
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"{name}-{scheme}-{width}.png")
        if not page.evaluate("'axe' in window"):
            page.evaluate(AXE.read_text())
        return page.evaluate(_RUN_AXE), page.evaluate(_READ_WIDTH), width

    violations, shown, width = await tab.do(check)
    assert not violations, "\n".join(violations)
    assert shown <= width, f"{name} is {shown} px wide in a window of {width} px"
