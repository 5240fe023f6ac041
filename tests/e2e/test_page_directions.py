"""Text from right to left, in messages and as the language of the page; and very large windows."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from tests.e2e.chromium import Chromium, Tab
from tests.e2e.cluster import Cluster
from tests.e2e.page_checks import (
    check_screen,
    log_in,
    resize,
    show_view,
)
from tests.fake_ollama import Script

RIGHT_TO_LEFT = "addEventListener('DOMContentLoaded', () => { document.dir = 'rtl'; })"
#: The size of the text of an answer, the length of its lines, and the space on both of its sides.
READ_LINE = """() => {
    const text = document.querySelector('.markdown p');
    const view = document.querySelector('.view').getBoundingClientRect();
    const {left, right, width} = text.getBoundingClientRect();
    const size = parseFloat(getComputedStyle(text).fontSize);
    return [size, width, left - view.left, view.right - right];
}"""
RESPONSE = ".response:last-child"
#: Ruff takes some of its letters for Latin ones.
HEBREW = """# כותרת

הנה דוגמה: הפונקציה `print("x")` ב־Python 3.12 מדפיסה שורה, ו־`ls -la` מציגה קבצים (וגם תיקיות).

- פריט ראשון
- פריט שני עם English words באמצע

1. צעד
2. step in English

> ציטוט

| שם | value |
| --- | --- |
| אלף | `a = 1` |

```python
# הערה בעברית
print("שלום", 1 + 2)
```

נוסחה: $x^2 + y^2 = z^2$ וזהו!

An English paragraph (with brackets) at the end.
"""  # noqa: RUF001
ARABIC = "مرحبا! استخدم الأمر `git push --force` بحذر، ثم اقرأ https://example.org/a?b=1 كاملة."
ENGLISH = "Two things:\n\n- אחת\n- שתיים\n\n> ציטוט"
#: On which side of its block a text is that does not fill it.
FIND_SIDE = """([selector, words]) => {
    const block = [...document.querySelectorAll(selector)].find(e => e.textContent.includes(words));
    const walker = document.createTreeWalker(block, NodeFilter.SHOW_TEXT);
    while (walker.nextNode() && !walker.currentNode.data.includes(words)) continue;
    const range = document.createRange();
    range.selectNode(walker.currentNode);
    const text = range.getBoundingClientRect(), box = block.getBoundingClientRect();
    return text.left - box.left < box.right - text.right ? 'left' : 'right';
}"""


async def find_side(tab: Tab, selector: str, words: str) -> str:
    """Return the side of its block on which a text is that does not fill it."""
    await tab.expect(f"{selector}:has-text('{words}') >> nth=0", lambda it: it.to_be_visible())
    return await tab.do(lambda page: page.evaluate(FIND_SIDE, [selector, words]))


async def send(tab: Tab, text: str) -> None:
    before = await tab.find("document.querySelectorAll('.end.complete').length")
    await tab.expect("#models", lambda it: it.to_be_enabled())
    await tab.use("#message", lambda box: box.fill(text))
    await tab.use("#message", lambda box: box.press("Enter"))
    await tab.expect(".end.complete", lambda it: it.to_have_count(before + 1))


async def right_to_left(chromium: Chromium, **options: Any) -> Tab:
    """Open a tab whose page is for a language that is written from right to left."""
    tab = await chromium.tab(reduced_motion="reduce", **options)
    await tab.do(lambda page: page.add_init_script(RIGHT_TO_LEFT))
    return tab


@pytest.mark.parametrize("width", [1280, 320])
@ensureDeferred
async def test_each_paragraph_begins_on_the_side_of_its_language(
    shared: Cluster, chromium: Chromium, width: int
) -> None:
    """In a page from left to right. Code and formulas run from left to right within all."""
    shared.ollama.reset()
    shared.ollama.script("/api/chat", Script(lines=(HEBREW,)), times=1)
    tab = await chromium.tab(viewport={"width": width, "height": 1600}, reduced_motion="reduce")
    await log_in(tab, shared)
    await send(tab, "מה זה `print`?\nAnd in English?")
    for selector, words, side in (
        (".markdown :is(h3, h4)", "כותרת", "right"),
        (".markdown li", "פריט ראשון", "right"),
        (".markdown li", "step in English", "right"),
        (".markdown blockquote p", "ציטוט", "right"),
        (".markdown pre code", "print", "left"),
    ):
        assert await find_side(tab, selector, words) == side, words
    await check_directions(tab, {
        ".markdown .math": "ltr", ".markdown pre": "ltr", ".markdown ul": "rtl",
        ".markdown blockquote": "rtl", ".response .text": "rtl", ".bubble": "rtl",
    })  # fmt: skip
    await tab.expect(".markdown math", lambda it: it.to_be_visible())
    await check_screen(tab, "hebrew")
    shared.ollama.script("/api/chat", Script(lines=(ARABIC,)), times=1)
    await send(tab, "كيف أستخدم git؟")
    await check_screen(tab, "arabic")
    shared.ollama.script("/api/chat", Script(lines=(ENGLISH,)), times=1)
    await send(tab, "Two?")
    await check_directions(tab, {
        f"{RESPONSE} .text": "ltr", f"{RESPONSE} ul": "rtl", f"{RESPONSE} blockquote": "rtl",
    })  # fmt: skip
    assert await find_side(tab, f"{RESPONSE} li", "אחת") == "right"
    await tab.close()


async def check_directions(tab: Tab, directions: dict[str, str]) -> None:
    for selector, direction in directions.items():
        script = f"getComputedStyle(document.querySelector('{selector}')).direction"
        assert await tab.find(script) == direction, selector


@ensureDeferred
async def test_the_page_can_be_in_a_language_from_right_to_left(
    shared: Cluster, chromium: Chromium
) -> None:
    """The list is on the right, dialogs and menus are in sight, and nothing is too wide."""
    shared.ollama.reset()
    shared.ollama.script("/api/chat", Script(lines=(HEBREW,)), times=1)
    tab = await right_to_left(chromium)
    await log_in(tab, shared)
    await send(tab, "מה זה?")
    left = "document.querySelector('.sidebar').getBoundingClientRect().left"
    assert await tab.find(left) == 1280 - 272
    for mirrored in (".icon.directed", ".path-dots"):
        transform = f"getComputedStyle(document.querySelector('{mirrored}')).transform"
        assert (await tab.find(transform)).startswith("matrix(-1"), mirrored
    assert await find_side(tab, ".conversation .title", "מה זה?") == "right"
    for width, height in ((1280, 900), (320, 640)):
        await resize(tab, width, height)
        await check_screen(tab, "rtl-chat")
        if width == 320:
            await tab.use("#open-drawer", lambda button: button.click())
            assert await tab.find(f"{left} + document.querySelector('.sidebar').clientWidth") == 320
        await tab.use("#conversations-menu", lambda button: button.click())
        await check_screen(tab, "rtl-menu")
        await tab.do(lambda page: page.keyboard.press("Escape"))
        await tab.use("#search", lambda box: box.fill("זה"))
        await tab.expect(".hit", lambda it: it.to_be_visible())
        await check_screen(tab, "rtl-search")
        await tab.use("#search", lambda box: box.fill(""))
        if width == 320:
            await tab.use("#close-drawer", lambda button: button.click())
        await tab.use("#chat-settings-button", lambda button: button.click())
        await tab.expect("#chat-settings", lambda it: it.to_be_visible())
        await check_screen(tab, "rtl-chat-settings")
        await tab.do(lambda page: page.keyboard.press("Escape"))
    for view in ("settings", "models", "status", "privacy"):
        await show_view(tab, view)
        await tab.expect("main h1", lambda it: it.to_be_focused())
        for width, height in ((1280, 900), (320, 640)):
            await resize(tab, width, height)
            await check_screen(tab, f"rtl-{view}")
    await tab.do(
        lambda page: page.route("**/ctllm/desktops", lambda it: it.fulfill(json={"desktops": []}))
    )
    await show_view(tab, "")
    await tab.do(lambda page: page.reload())
    await tab.expect("#no-desktop", lambda it: it.to_be_visible())
    tabs = tab.page.get_by_role("tab")
    await tab.do(lambda _: tabs.first.focus())
    await tab.do(lambda page: page.keyboard.press("ArrowLeft"))
    assert await tab.do(lambda _: tabs.nth(1).get_attribute("aria-selected")) == "true"
    for width, height in ((320, 640), (1280, 900)):
        await resize(tab, width, height)
        await check_screen(tab, "rtl-no-desktop")
    await tab.close()


@ensureDeferred
async def test_a_window_of_4k_is_used_and_lines_stay_short_enough_to_read(
    shared: Cluster, chromium: Chromium
) -> None:
    shared.ollama.reset()
    shared.ollama.script("/api/chat", Script(lines=("A sentence of some words. " * 40,)), times=1)
    tab = await chromium.tab(viewport={"width": 3840, "height": 2160}, reduced_motion="reduce")
    await log_in(tab, shared)
    await check_screen(tab, "4k-chat-new")
    await send(tab, "What is a long line?")
    await check_screen(tab, "4k-chat")
    size, line, left, right = await tab.find(READ_LINE)
    assert size == 20 and line <= 48 * size, (size, line)
    assert abs(left - right) < 2, (left, right)
    for view in ("settings", "models", "status", "privacy"):
        await show_view(tab, view)
        await tab.expect("main h1", lambda it: it.to_be_focused())
        await check_screen(tab, f"4k-{view}")
    await tab.close()
