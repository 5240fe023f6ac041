"""Answers of a hostile model, through the whole system into the page with its real policy."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Request
from pytest_twisted import ensureDeferred

from tests.e2e.chromium import Chromium, Tab
from tests.e2e.cluster import Cluster
from tests.e2e.page_checks import LAYOUTS, check_screen, log_in
from tests.fake_ollama import Script

CORPUS = Path(__file__).parents[2] / "web/src/markdown/hostile-answers.json"
ANSWERS: list[str] = json.loads(CORPUS.read_text())
RESPONSE = ".response:last-child"
#: Bytes of one piece of a streamed answer.
PIECE = 900
#: Every attack of the corpus that works calls `attacked`.
COUNT_ATTACKS = "window.attacks = 0; window.attacked = () => { window.attacks += 1; };"
#: What loads something, runs something or takes the place of something of the page.
FIND_FOREIGN = """() => [...document.querySelectorAll(
    ['script', 'style', 'link', 'iframe', 'object', 'embed', 'img', 'svg image', 'video', 'audio',
     'form', '[id]', '[name]', '[style*=url]', '[src]', '[srcset]', '[onerror]', '[onload]',
     'a[href]:not([href^="https://"], [href^="mailto:"])']
    .map(each => `.response .text ${each}`).join())].map(each => each.outerHTML)"""
SAMPLE = """# A *sample*

Text with `code`, **bold**, a [link](https://example.com/docs) and [bank.com](https://evil.test/).

```python
def half(number: int) -> float:
    \"\"\"Return a half.\"\"\"
    return number / 2  # or 0.5
```

| Name | Value |
|------|------:|
| a row with a rather long text in it | 1 |

- [x] done
- [ ] open

> A quote, and $x^2$ for \\(n > 0\\):

$$\\sum_{i=0}^n i = \\frac{n(n+1)}{2}$$

![A picture](https://evil.test/pixel.png?secret)

\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd, `code`.
"""


@pytest.fixture(autouse=True)
def reset_fake_ollama(shared: Cluster) -> None:
    """Remove the fake Ollama's scripts and records of the previous test."""
    shared.ollama.reset()


def respond_with(text: str) -> Script:
    """Return a response whose NDJSON may have any text, lone surrogates included."""

    def line(content: str, is_done: bool) -> str:
        head = {"model": "llama3.2:1b", "created_at": "2026-01-01T00:00:00Z"}
        message = {"role": "assistant", "content": content}
        end = {"done_reason": "stop"} if is_done else {}
        return json.dumps({**head, "message": message, "done": is_done, **end}) + "\n"

    pieces = [text[start : start + PIECE] for start in range(0, len(text), PIECE)]
    body = "".join(line(piece, False) for piece in pieces) + line("", True)
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nContent-Length: {len(body)}"
    return Script(verbatim=f"{head}\r\n\r\n{body}")


def record_requests(page: Page) -> list[Request]:
    """Return a list to which every request of the page and of its workers is appended."""
    requests: list[Request] = []
    page.context.on("request", lambda request: requests.append(request))
    return requests


async def ask(tab: Tab, message: str = "Attack!") -> None:
    await tab.expect("#send", lambda it: it.to_be_enabled())
    await tab.use("#message", lambda box: box.fill(message))
    await tab.use("#message", lambda box: box.press("Enter"))


async def wait_for_end(tab: Tab) -> None:
    await tab.expect(RESPONSE, lambda it: it.to_have_attribute("aria-busy", "false"))


async def expect_harmless(tab: Tab) -> None:
    """Check that no attack worked, and that the page's own elements are found by their ids."""
    assert await tab.find("window.attacks") == 0
    assert await tab.find(f"({FIND_FOREIGN})()") == []
    assert await tab.blocked() == []
    assert await tab.find("document.getElementById('message').tagName") == "TEXTAREA"
    assert await tab.find("document.getElementById('app').parentElement.tagName") == "BODY"


@ensureDeferred
async def test_a_hostile_answer_runs_nothing_and_loads_nothing(shared: Cluster, tab: Tab) -> None:
    """Not while it streams, not when images are asked for, not from the store after a reload."""
    requests = await tab.do(record_requests)
    await tab.do(lambda page: page.add_init_script(COUNT_ATTACKS))
    shared.ollama.script("/api/chat", respond_with("\n\n".join([*ANSWERS, "THE END"])))
    await log_in(tab, shared)
    await ask(tab)
    await tab.sees(f"{RESPONSE} .text", "THE END")
    await wait_for_end(tab)
    await tab.sees(f"{RESPONSE} .text", "<script>attacked()</script>")
    await tab.expect(f"{RESPONSE} math", lambda it: it.not_to_have_count(0))
    await expect_harmless(tab)

    def open_images(page: Page) -> int:
        buttons = page.locator(".image-open")
        for index in range(buttons.count()):
            buttons.nth(index).click()
        for link in page.locator(f"{RESPONSE} .text a").all()[:20]:
            link.hover()
        return buttons.count()

    assert await tab.do(open_images) >= 3
    await tab.sees(".image-details >> nth=0", "https://evil.test/")
    await expect_harmless(tab)
    await tab.do(lambda page: page.reload())
    await tab.sees(f"{RESPONSE} .text", "THE END")
    await expect_harmless(tab)
    hosts = {urlsplit(request.url).netloc for request in requests if request.url[:4] != "blob"}
    assert hosts == {urlsplit(shared.url).netloc}


@ensureDeferred
async def test_a_huge_answer_leaves_the_page_usable(shared: Cluster, tab: Tab) -> None:
    """A message can be written while lines and code of a megabyte and deep nesting arrive."""
    parts = [
        "```js\n" + "let x = 1; // x\n" * 65_536 + "```",
        "x" * 1_048_576,
        ">" * 10_000 + "[" * 10_000 + "*a **b " * 10_000,
        "```\n" + "y" * 1_048_576 + "\n```",
        "\n".join("  " * depth + "- x" for depth in range(500)),
    ]
    shared.ollama.script("/api/chat", respond_with("\n\n".join([*parts, "THE END"])))
    await log_in(tab, shared)
    await ask(tab)
    await tab.sees(f"{RESPONSE} .code", "let x = 1;")
    await tab.use("#message", lambda box: box.press_sequentially("meanwhile"))
    await tab.expect("#message", lambda it: it.to_have_value("meanwhile"))
    await tab.expect(f"{RESPONSE} .text", lambda it: it.to_contain_text("THE END", timeout=60_000))
    await wait_for_end(tab)
    await tab.use("#message", lambda box: box.fill(""))
    assert await tab.find("document.documentElement.scrollWidth <= innerWidth")


@ensureDeferred
async def test_links_show_where_they_lead(shared: Cluster, tab: Tab) -> None:
    shared.ollama.script("/api/chat", respond_with(SAMPLE))
    await log_in(tab, shared)
    await ask(tab)
    await tab.sees(".misleading", "Leads to evil.test")
    await tab.sees(".host >> nth=0", "example.com")

    def follow(page: Page) -> tuple[str, bool]:
        page.context.route("https://example.com/**", lambda route: route.fulfill(body="other"))
        with page.context.expect_page() as opened:
            page.get_by_role("link", name="link", exact=True).click()
        opened.value.wait_for_load_state()
        found = opened.value.evaluate("[document.referrer, window.opener === null]")
        opened.value.close()
        return tuple(found)

    assert await tab.do(follow) == ("", True)


@pytest.mark.parametrize(("scheme", "width"), LAYOUTS)
@ensureDeferred
async def test_an_answer_is_accessible(
    shared: Cluster, chromium: Chromium, scheme: str, width: int
) -> None:
    """In both colour schemes and down to 320 pixels; what is too wide scrolls by itself."""
    tab = await chromium.tab(color_scheme=scheme, viewport={"width": width, "height": 900})
    shared.ollama.script("/api/chat", respond_with(SAMPLE))
    await log_in(tab, shared)
    await ask(tab, "Show me a sample")
    await wait_for_end(tab)
    await tab.expect(".code-keyword", lambda it: it.not_to_have_count(0))
    await tab.expect("math", lambda it: it.to_have_count(3))
    await check_screen(tab, "answer")
    await tab.close()
