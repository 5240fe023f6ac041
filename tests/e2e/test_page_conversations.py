"""The conversations that the page keeps in a real Chromium: list, search, files, tabs, deletion."""

from __future__ import annotations

import json
import re
import secrets
import time
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect
from pytest_twisted import ensureDeferred

from tests.e2e.chromium import Chromium, Tab
from tests.e2e.cluster import Cluster
from tests.e2e.page_checks import check_schemes, log_in, resize, show_view

ROW = ".conversation a"
MINUTE_MS = 60_000
HAS_NO_DATABASE = """async () =>
    (await indexedDB.databases()).every(({name}) => !name.includes('conversations'))"""
HAS_NO_WORD = """async word => {
    const result = request => new Promise(done => {
        request.onsuccess = () => done(request.result);
    });
    const [{name}] = await indexedDB.databases();
    const database = await result(indexedDB.open(name));
    const rows = await Promise.all([...database.objectStoreNames].map(
        store => result(database.transaction(store).objectStore(store).getAll())));
    database.close();
    return !JSON.stringify(rows).includes(word);
}"""


@pytest.fixture(autouse=True)
def reset_fake_ollama(shared: Cluster) -> None:
    """Remove the fake Ollama's scripts and records of the previous test."""
    shared.ollama.reset()


def new_message(role: str, content: str, parent: str | None, at: int) -> dict[str, Any]:
    """Return a message of a conversation."""
    return {
        "id": secrets.token_hex(16),
        "parent": parent,
        "role": role,
        "content": content,
        "state": "complete",
        "createdAt": at,
        "updatedAt": at,
    }


def new_conversation(title: str, *texts: str, minutes_ago: float = 0) -> dict[str, Any]:
    """Return a conversation: questions and answers in turn."""
    at = int(time.time() * 1000 - minutes_ago * MINUTE_MS)
    messages: dict[str, Any] = {}
    leaf = None
    for index, text in enumerate(texts):
        message = new_message(("user", "assistant")[index % 2], text, leaf, at)
        leaf = message["id"]
        messages[message["id"]] = message
    return {
        "version": 1,
        "id": secrets.token_hex(16),
        "createdAt": at,
        "title": {"value": title, "at": at},
        "leaf": {"value": leaf, "at": at},
        "messages": messages,
    }


def write_file(path: Path, *conversations: dict[str, Any]) -> Path:
    """Write a file as the page exports it."""
    content = {"format": "ctllm-conversations", "version": 1, "conversations": conversations}
    path.write_text(json.dumps(content))
    return path


async def choose(tab: Tab, action: str) -> None:
    """Choose an action for all conversations."""
    await tab.use("#conversations-menu", lambda it: it.click())
    await tab.do(lambda page: page.get_by_role("menuitem", name=action, exact=True).click())


async def import_file(tab: Tab, path: Path, outcome: str = "") -> None:
    """Import a file, and wait for the sentence about the outcome."""

    def act(page: Page) -> None:
        page.locator("#conversations-menu").click()
        with page.expect_file_chooser() as chooser:
            page.get_by_role("menuitem", name="Import…", exact=True).click()
        chooser.value.set_files(path)

    await tab.do(act)
    sentence = outcome or f"Imported from {path.name}"
    await tab.do(
        lambda page: expect(page.locator(".toast p").last).to_contain_text(sentence, timeout=60_000)
    )


async def export_file(tab: Tab, action: str, path: Path) -> str:
    """Export all conversations; returns the content of the file."""

    def act(page: Page) -> None:
        page.locator("#conversations-menu").click()
        with page.expect_download() as download:
            page.get_by_role("menuitem", name=action, exact=True).click()
        download.value.save_as(path)

    await tab.do(act)
    return path.read_text()


async def row_menu(tab: Tab, title: str, action: str) -> None:
    """Choose an action for one conversation."""

    def act(page: Page) -> None:
        page.locator(".conversation", has_text=title).hover()
        page.get_by_role("button", name=f"Actions for “{title}”").click()
        page.get_by_role("menuitem", name=action, exact=True).click()

    await tab.do(act)


async def rename(tab: Tab, title: str, new_title: str) -> None:
    """Give a conversation another title."""
    await row_menu(tab, title, "Rename")
    await tab.use(".rename", lambda it: it.fill(new_title))
    await tab.use(".rename", lambda it: it.press("Enter"))


async def titles(tab: Tab) -> list[str]:
    """Return the titles that the list shows."""
    return await tab.do(lambda page: page.locator(ROW).all_inner_texts())


async def expect_titles(tab: Tab, *expected: str) -> None:
    """Wait until the list has these titles, in this order."""
    await tab.expect(f"{ROW} .title", lambda it: it.to_have_text(list(expected)))


async def log_in_again(tab: Tab, cluster: Cluster) -> None:
    """Log out, and in as the same user."""
    await tab.use("#log-out", lambda it: it.click())
    await tab.sees("#logged-out", "You have logged out")
    await log_in(tab, cluster)


@ensureDeferred
async def test_a_reload_keeps_the_conversations(shared: Cluster, tab: Tab, tmp_path: Path) -> None:
    """So does a log-out; nobody else sees them."""
    await log_in(tab, shared)
    await import_file(tab, write_file(tmp_path / "a.json", new_conversation("Mine", "Hello?")))
    await tab.do(lambda page: page.reload())
    await expect_titles(tab, "Mine")
    await tab.use("#log-out", lambda it: it.click())
    await tab.sees("#logged-out", "You have logged out")
    await tab.misses(".conversation")
    await log_in(tab, shared, "bob")
    await tab.sees(".conversations", "Your conversations will be here.")
    await log_in_again(tab, shared)
    await expect_titles(tab, "Mine")


@ensureDeferred
async def test_a_shared_computer_keeps_nothing_after_the_log_out(
    shared: Cluster, tab: Tab, tmp_path: Path
) -> None:
    """If the person wants that; it warns of what no desktop has."""
    await log_in(tab, shared)
    await import_file(tab, write_file(tmp_path / "a.json", new_conversation("Mine", "marked-7f3")))
    await tab.use("#sync-status", lambda it: it.click())
    await tab.use("#forget-at-log-out", lambda it: it.check())
    await tab.use("#sync-dialog", lambda it: it.press("Escape"))
    await tab.use("#log-out", lambda it: it.click())
    await tab.sees("#confirmation", "They will be lost.")
    await tab.click("Cancel")
    await expect_titles(tab, "Mine")
    await tab.use("#log-out", lambda it: it.click())
    await tab.click("Log out and delete")
    await tab.sees("#logged-out", "You have logged out")
    await tab.do(lambda page: page.wait_for_function(HAS_NO_DATABASE))


@ensureDeferred
async def test_two_tabs_show_the_same(shared: Cluster, tab: Tab, tmp_path: Path) -> None:
    await log_in(tab, shared)
    other = await tab.do(lambda page: page.context.new_page())
    await tab.do(lambda page: other.goto(shared.url))
    await tab.do(lambda page: page.bring_to_front())  # behind another page it has few frames
    title = other.locator(f"{ROW} .title")
    await import_file(tab, write_file(tmp_path / "a.json", new_conversation("Shared", "Hello?")))
    await tab.do(lambda page: expect(title).to_have_text(["Shared"]))
    await rename(tab, "Shared", "Renamed")
    await expect_titles(tab, "Renamed")
    await tab.do(lambda page: expect(title).to_have_text(["Renamed"]))
    await row_menu(tab, "Renamed", "Delete")
    await tab.do(lambda page: expect(title).to_have_count(0))
    await tab.click("Undo")
    await tab.do(lambda page: expect(title).to_have_text(["Renamed"]))
    await tab.do(lambda page: other.close())


@ensureDeferred
async def test_a_deletion_can_be_undone_and_then_is_complete(
    shared: Cluster, tab: Tab, tmp_path: Path
) -> None:
    """After the time to undo it, the words are nowhere in the browser."""
    await log_in(tab, shared)
    kept, gone = (
        new_conversation("Kept", "x"),
        new_conversation("Gone", "marked-51c", minutes_ago=5),
    )
    await import_file(tab, write_file(tmp_path / "a.json", kept, gone))
    await tab.hurry()
    await tab.do(lambda page: page.reload())
    await row_menu(tab, "Gone", "Delete")
    await tab.sees(".undo", "“Gone” is deleted.")
    await expect_titles(tab, "Kept")
    await tab.click("Undo")
    await expect_titles(tab, "Kept", "Gone")
    await tab.use(f'[data-id="{gone["id"]}"] a', lambda it: it.press("Delete"))
    await expect_titles(tab, "Kept")
    await tab.misses(".undo button")
    await tab.do(lambda page: page.wait_for_function(HAS_NO_WORD, arg="marked-51c", polling=200))
    await tab.do(lambda page: page.reload())
    await expect_titles(tab, "Kept")


@ensureDeferred
async def test_everything_is_exported_and_imported(
    shared: Cluster, tab: Tab, chromium: Chromium, tmp_path: Path
) -> None:
    """An import merges, and overwrites nothing; hostile files are refused with a sentence."""
    await log_in(tab, shared)
    first = new_conversation("First", "Question?", "Answer <b>with</b> markup.")
    second = new_conversation("Second", "Other?", minutes_ago=10)
    await import_file(tab, write_file(tmp_path / "a.json", first, second))
    exported = json.loads(await export_file(tab, "Export all as JSON", tmp_path / "all.json"))
    assert {each["title"]["value"] for each in exported["conversations"]} == {"First", "Second"}
    markdown = await export_file(tab, "Export all as Markdown", tmp_path / "all.md")
    assert "# First" in markdown and "Answer <b>with</b> markup." in markdown
    await import_file(tab, tmp_path / "all.json")
    await tab.sees(".toasts", "0 new, 2 merged")
    await expect_titles(tab, "First", "Second")
    await import_file(tab, tmp_path / "all.md")
    await tab.sees(".toasts", "2 new, 0 merged")
    (tmp_path / "evil.json").write_text("[" * 100_000)
    await import_file(tab, tmp_path / "evil.json", "evil.json is neither JSON nor Markdown.")
    (tmp_path / "other.json").write_text('{"a": 1}')
    await import_file(tab, tmp_path / "other.json", "There are no conversations in other.json.")
    assert len(await titles(tab)) == 4


@ensureDeferred
async def test_the_search_finds_words_in_all_conversations(
    shared: Cluster, tab: Tab, tmp_path: Path
) -> None:
    """It ignores case and accents, marks the hits, and leads to the message."""
    await log_in(tab, shared)
    cooking = new_conversation("Cooking", "A recipe?", "Fry the crêpes in BUTTER.")
    travel = new_conversation("Travel", "東京都に行く", minutes_ago=3)
    await import_file(tab, write_file(tmp_path / "a.json", cooking, travel))
    await tab.do(lambda page: page.keyboard.press("k"))
    await tab.use("#search", lambda box: box.fill("butter CREPES"))
    await tab.sees(".hit-count", "1 result")
    await tab.expect(".hit mark", lambda it: it.to_have_text(["crêpes", "BUTTER"]))
    await tab.use("#search", lambda box: box.fill("京都"))
    await tab.expect(".hit mark", lambda it: it.to_have_text(["京都"]))
    await tab.use("#search", lambda box: box.press("ArrowDown"))
    await tab.do(lambda page: page.keyboard.press("Enter"))
    await tab.do(lambda page: page.wait_for_url(re.compile(travel["id"])))
    await tab.use("#search", lambda box: box.fill("nowhere"))
    await tab.sees(".hit-count", "0 results")
    await tab.use("#search", lambda box: box.press("Escape"))
    await expect_titles(tab, "Cooking", "Travel")


def release(page: Page, held: list[Route]) -> None:
    """Let the requests for the desktops go that a test has held back, and all later ones."""
    while held:
        held.pop().continue_()
    page.unroute("**/ctllm/desktops")


@ensureDeferred
async def test_a_browser_that_stores_nothing_says_so_and_chats(
    shared: Cluster, tab: Tab, tmp_path: Path
) -> None:
    """As in a private window of some browsers. The search works, too.

    The person is faster than the page, which does not know the models yet.
    """
    forbid = "IDBFactory.prototype.open = () => { throw new DOMException('', 'SecurityError'); }"
    await tab.do(lambda page: page.add_init_script(forbid))
    held: list[Route] = []
    await tab.do(lambda page: page.route("**/ctllm/desktops", lambda route: held.append(route)))
    await log_in(tab, shared)
    await tab.sees("#storage-problem", "does not let the page store anything")
    await tab.use("#message", lambda box: box.fill("Hello there"))
    await tab.use("#message", lambda box: box.press("Enter"))
    await tab.sees(".send-notice", "will be sent as soon as the page knows your models.")
    await tab.do(lambda page: release(page, held))
    await expect_titles(tab, "Hello there")
    await tab.sees(".response:last-child .text", "Hello there")
    await tab.use("#search", lambda box: box.fill("HELLO"))
    await tab.sees(".hit", "Hello there")
    tab.complaints = [each for each in tab.complaints if "keeps no conversations" not in each]
    await tab.do(lambda page: page.goto("about:blank"))


@ensureDeferred
async def test_two_devices_see_the_same_over_the_desktop(
    shared: Cluster, tab: Tab, chromium: Chromium, tmp_path: Path
) -> None:
    """The person decides on each device; a deletion is everywhere."""
    phone, laptop = tab, await chromium.tab()
    await laptop.hurry()
    await log_in(phone, shared)
    first = new_conversation("First", "marked-2c9")
    await import_file(phone, write_file(tmp_path / "a.json", first))
    await phone.use("#sync-status", lambda it: it.click())
    await phone.use("#sync-dialog .sync-desktops input", lambda it: it.check())
    await phone.sees("#sync-dialog .sync-desktops", "Synchronised")
    await phone.use("#sync-dialog", lambda it: it.press("Escape"))
    await phone.sees("#sync-status", "Synchronised with")
    await log_in(laptop, shared)
    await laptop.sees("#sync-question", "has 1 conversation.")
    await laptop.misses(".conversation")
    await laptop.click("Synchronise")
    await expect_titles(laptop, "First")
    # Both write at the same time; neither loses anything.
    second = new_conversation("Second", "Other?", minutes_ago=1)
    await rename(phone, "First", "Phone")
    await rename(laptop, "First", "Laptop")
    await import_file(phone, write_file(tmp_path / "b.json", second))
    await wake(laptop)
    await wake(phone)
    await expect_titles(laptop, "Laptop", "Second")
    await expect_titles(phone, "Laptop", "Second")
    await phone.hurry()
    await phone.do(lambda page: page.reload())
    await row_menu(phone, "Laptop", "Delete")
    await phone.misses(".undo button")
    await phone.sees("#sync-status", "Synchronised with")
    await wait_for_titles(laptop, "Second")
    await phone.do(lambda page: page.wait_for_function(HAS_NO_WORD, arg="marked-2c9", polling=200))
    await laptop.do(lambda page: page.wait_for_function(HAS_NO_WORD, arg="marked-2c9", polling=200))
    await delete_everything(laptop)
    await wait_for_titles(phone)
    await laptop.close()


async def wake(tab: Tab) -> None:
    """Do what the browser does when its window gets the focus: the page synchronises."""
    await tab.find("void dispatchEvent(new Event('focus'))")


async def wait_for_titles(tab: Tab, *expected: str) -> None:
    """Wait until the list has these titles; the page is looked at now and again."""
    has_titles = """expected => {
        dispatchEvent(new Event('focus'));
        const titles = [...document.querySelectorAll('.conversation .title')];
        return JSON.stringify(titles.map(each => each.textContent)) === JSON.stringify(expected);
    }"""
    await tab.do(
        lambda page: page.wait_for_function(
            has_titles, arg=list(expected), polling=500, timeout=30_000
        )
    )


async def delete_everything(tab: Tab) -> None:
    """Delete all conversations, and wait until that cannot be undone."""
    await choose(tab, "Delete all…")
    await tab.use("#confirmation .danger", lambda it: it.click())
    await tab.misses(".undo button")


#: Milliseconds from the beginning of the page to the list, and the rows in the document.
WAIT_FOR_LIST = """() => {
    const rows = document.querySelectorAll('.conversation').length;
    return rows > 5 && {ms: performance.now(), rows};
}"""


@ensureDeferred
async def test_two_thousand_conversations_open_and_are_searched(
    shared: Cluster, tab: Tab, tmp_path: Path
) -> None:
    """The list renders what is in sight, and reads no message."""
    await log_in(tab, shared)
    words = "lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor "
    many = [
        new_conversation(
            f"Conversation {index}",
            *(f"{words * 8} {index}.{turn}" for turn in range(6)),
            minutes_ago=index * 60,
        )
        for index in range(2000)
    ]
    await import_file(tab, write_file(tmp_path / "many.json", *many))
    await tab.do(lambda page: page.reload())
    handle = await tab.do(lambda page: page.wait_for_function(WAIT_FOR_LIST))
    opened = await tab.do(lambda page: handle.json_value())
    assert opened["rows"] < 60, opened
    started = time.monotonic()
    await tab.use("#search", lambda box: box.fill("1777.5"))
    await tab.sees(".hit-count", "1 result")
    await tab.sees(".hit", "Conversation 1777")
    first = time.monotonic() - started
    started = time.monotonic()
    await tab.use("#search", lambda box: box.fill("1234.3"))
    await tab.sees(".hit", "Conversation 1234")
    again = time.monotonic() - started
    print(f"list {opened['ms']:.0f} ms, first search {first:.2f} s, next {again:.2f} s")
    await tab.use("#search", lambda box: box.press("Escape"))
    await tab.use(f"{ROW} >> nth=0", lambda it: it.press("End"))
    await tab.sees(".conversation:focus-within", "Conversation 1999")
    await tab.expect(".conversation", lambda it: it.not_to_have_count(2000))


@ensureDeferred
async def test_the_list_is_accessible(shared: Cluster, tab: Tab, tmp_path: Path) -> None:
    """With titles of every kind, beside the view and in the drawer of a narrow window."""
    await log_in(tab, shared)
    await show_view(tab, "models")
    many = [
        new_conversation(title, "How do I fry crêpes?", minutes_ago=minutes)
        for title, minutes in [
            ("Crêpes", 0),
            ("A title that is much too long for the width of this sidebar", 600),
            ("مرحبا بالعالم", 1500),
            ("日本語の会話", 2000),
            ("\u202eevil", 40 * 1440),
        ]
    ]
    await import_file(tab, write_file(tmp_path / "a.json", *many))
    await tab.use(".toast button", lambda it: it.click())
    for width in (1280, 320):
        await resize(tab, width, 800)
        if width == 320:
            await tab.use("#open-drawer", lambda it: it.click())
        await tab.expect(".conversation", lambda it: it.to_have_count(len(many)))
        await check_schemes(tab, "conversations")
        await tab.use("#search", lambda box: box.fill("crepes"))
        await tab.sees(".hit-count", "5 results")
        await check_schemes(tab, "conversations-search")
        await tab.use("#search", lambda box: box.fill(""))
        await tab.use("#sync-status", lambda it: it.click())
        await tab.sees("#sync-dialog", "The cloud stores none of them.")
        await check_schemes(tab, "conversations-stored")
        await tab.use("#sync-dialog", lambda it: it.press("Escape"))
        await tab.misses("#sync-dialog")
