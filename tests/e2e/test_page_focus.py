"""The focus of the keyboard in a real Chromium: whatever comes and goes, it is never lost."""

from __future__ import annotations

from pytest_twisted import ensureDeferred

from tests.e2e.chromium import Chromium, Tab
from tests.e2e.cluster import Cluster
from tests.e2e.page_checks import log_in, resize
from tests.fake_ollama import Script

#: Waits until the page rests; returns what has the focus, as a screen reader names it.
FOCUSED = """async () => {
    const frame = () => new Promise(done => requestAnimationFrame(() => setTimeout(done)));
    for (let turn = 0; turn < 6; turn += 1) await frame();
    const it = document.activeElement;
    if (it === document.body) return 'nothing';
    const named = document.getElementById(it.getAttribute('aria-labelledby'));
    return it.ariaLabel || named?.textContent || it.id || it.textContent;
}"""
RESPONSE = ".response:last-child"


async def press(tab: Tab, *keys: str) -> str:
    """Press keys; returns what has the focus then."""
    for key in keys:
        await tab.do(lambda page, key=key: page.keyboard.press(key))  # type: ignore[misc]
    return str(await tab.find(FOCUSED))


async def activate(tab: Tab, selector: str) -> str:
    """Press a button with the keyboard; returns what has the focus then."""
    await tab.use(selector, lambda button: button.focus())
    return await press(tab, "Enter")


async def say(tab: Tab, text: str) -> None:
    await tab.expect("#send", lambda it: it.to_be_enabled())
    await tab.use("#message", lambda box: box.fill(text))
    await tab.use("#message", lambda box: box.press("Enter"))
    await tab.sees(f"{RESPONSE} .end", "Complete.")


@ensureDeferred
async def test_the_focus_is_never_lost(shared: Cluster, chromium: Chromium) -> None:
    """While messages, attachments, conversations, dialogs and views come and go."""
    shared.ollama.reset()
    tab = await chromium.tab(reduced_motion="reduce")
    await log_in(tab, shared)
    for text in ("first", "second", "third"):
        await say(tab, text)
        await tab.use("#new-chat", lambda button: button.click())
    await tab.use(".conversation a:has-text('second')", lambda link: link.focus())
    assert await press(tab, "Enter") == "Your message"
    await tab.sees(".question", "second")

    # messages
    again = '[aria-label="Another answer"]'
    assert await activate(tab, f"{RESPONSE} {again}") == "Conversation"
    await tab.sees(f"{RESPONSE} .versions", "2 of 2")
    await tab.expect(f"{RESPONSE} {again}", lambda it: it.to_be_enabled())
    assert await activate(tab, f'{RESPONSE} [aria-label="Previous version"]') != "nothing"
    await tab.expect(f"{RESPONSE} {again}", lambda it: it.to_be_enabled())
    edit = '.question [aria-label="Edit the message"]'
    assert await activate(tab, edit) == "Edit the message"
    assert await press(tab, "Escape") == "Edit the message"
    assert await tab.find("document.activeElement.tagName") == "BUTTON"
    await activate(tab, edit)
    assert await activate(tab, ".editing .main") == "Conversation"
    await tab.expect(f"{RESPONSE} .end.complete", lambda it: it.to_be_attached())
    shared.ollama.script("/api/chat", Script(lines=("One. ",) * 99, line_interval=0.2), times=1)
    await tab.use("#message", lambda box: box.fill("long"))
    assert await press(tab, "Enter") == "Your message"
    await tab.sees(RESPONSE, "One.")
    assert await activate(tab, "#stop") == "Your message"
    await tab.sees(f"{RESPONSE} .end", "Stopped.")

    # attachments
    await tab.use(
        "#composer input[multiple]",
        lambda box: box.set_input_files(
            {"name": "a.txt", "mimeType": "text/plain", "buffer": b"a"}
        ),
    )
    assert await activate(tab, '[aria-label="Remove a.txt"]') == "Attach images or text files"

    # dialogs
    assert await activate(tab, "#chat-settings-button") != "nothing"
    assert "Settings" in await press(tab, "Escape")
    await activate(tab, "#open-shortcuts")
    assert await press(tab, "Escape") == "open-shortcuts"

    # conversations
    assert await activate(tab, "#conversations-menu") == "Import…"
    assert await press(tab, "Escape") == "All conversations"
    menu = '[aria-label="Actions for “second”"]'
    await activate(tab, menu)
    assert await press(tab, "ArrowUp", "Enter") != "nothing"  # deletes it, as the last item says
    await tab.sees(".undo", "second")
    assert await activate(tab, "#undo-delete") != "nothing"
    await tab.sees(".question >> nth=0", "second")
    await activate(tab, '[aria-label="Actions for “first”"]')
    assert "third" in await press(tab, "ArrowUp", "Enter") or await is_in_list(tab)
    for title in ("third", "second"):
        await tab.use(f".conversation a:has-text('{title}')", lambda link: link.focus())
        assert await press(tab, "Delete") != "nothing"
        await tab.sees(".undo", title)

    # views
    for key, heading in (("s", "Connection"), ("m", "Models")):
        await tab.use("#new-chat", lambda button: button.focus())
        assert await press(tab, key) != "nothing"
        await tab.expect("main h1", lambda it, h=heading: it.to_be_focused())  # type: ignore[misc]
        assert heading in await tab.find("document.title")
    assert await activate(tab, "#log-out") == "logged-out-title"
    await tab.close()


async def is_in_list(tab: Tab) -> bool:
    """Return whether a conversation, or the list of them, has the focus."""
    return bool(await tab.find("document.activeElement.closest('.conversations') !== null"))


#: Returns what can have the focus in messages, and whose outline is cut at an edge.
FIND_CUT = """() => {
    const room = 4;
    const focusable = '.message :is(button, a, summary, [tabindex])';
    return [...document.querySelectorAll(focusable)].filter(it => {
        const inner = it.getBoundingClientRect();
        const outer = it.parentElement.closest('.section, .message').getBoundingClientRect();
        return inner.left - room < outer.left || inner.right + room > outer.right
            || inner.top - room < outer.top || inner.bottom + room > outer.bottom;
    }).map(it => it.outerHTML);
}"""
#: Everything in it can have the focus.
MARKDOWN = "| a | b |\n|---|---|\n| 1 | 2 |\n\n```python\nx\n```\n\n[link](https://example.com/)\n"


@ensureDeferred
async def test_the_outline_of_what_has_the_focus_is_not_cut(
    shared: Cluster, chromium: Chromium
) -> None:
    """Messages paint nothing outside themselves."""
    shared.ollama.reset()
    shared.ollama.script("/api/chat", Script(lines=(MARKDOWN,)))
    tab = await chromium.tab(viewport={"width": 320, "height": 640})
    await log_in(tab, shared)
    for text in ("first", "second"):
        await say(tab, text)
    await tab.expect(f"{RESPONSE} .table", lambda it: it.to_be_visible())
    for width in (320, 1280):
        await resize(tab, width, 640)
        assert await tab.find(FIND_CUT) == []
    shared.ollama.reset()
    await tab.close()
