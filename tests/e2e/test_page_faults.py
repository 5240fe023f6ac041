"""What goes wrong while somebody chats, in a real Chromium: the page says so, and goes on."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import FilePayload, Page
from pytest_twisted import ensureDeferred

from tests.e2e.chromium import Chromium, Tab
from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.page_checks import check_schemes, check_screen, log_in
from tests.fake_ollama import Record, Script

RESPONSE = ".response:last-child"
ENDLESS = Script(lines=("One. ",) * 3000, line_interval=0.2)


@pytest.fixture(autouse=True)
def reset_fake_ollama(shared: Cluster) -> None:
    """Remove the fake Ollama's scripts and records of the previous test."""
    shared.ollama.reset()


async def send(tab: Tab, text: str) -> None:
    await tab.expect("#send", lambda it: it.to_be_enabled())
    await tab.use("#message", lambda box: box.fill(text))
    await tab.use("#message", lambda box: box.press("Enter"))


async def begin_endless_answer(tab: Tab, cluster: Cluster) -> Record:
    cluster.ollama.script("/api/chat", ENDLESS, times=1)
    await send(tab, "Endless")
    await tab.sees(RESPONSE, "One. One.")
    return await cluster.ollama.wait_for(lambda it: it.path == "/api/chat" and it.lines_sent > 1)


@ensureDeferred
async def test_a_conversation_that_is_deleted_is_not_answered_on(shared: Cluster, tab: Tab) -> None:
    """The model stops at once; what had arrived is back if that is undone."""
    await log_in(tab, shared)
    record = await begin_endless_answer(tab, shared)
    await tab.use(".conversation a", lambda link: link.press("Delete"))
    await tab.sees(".undo", "Endless")
    await wait_until(lambda: record.closed_by is not None, "the end of the generation")
    assert record.lines_sent < 1000
    await tab.use("#undo-delete", lambda button: button.click())
    await tab.sees(f"{RESPONSE} .end", "Stopped.")
    await tab.sees(RESPONSE, "One. One.")


@ensureDeferred
async def test_a_conversation_that_another_tab_deletes_is_gone_here_too(
    shared: Cluster, tab: Tab
) -> None:
    """Also in the middle of an answer, which ends; what is being written stays."""
    await log_in(tab, shared)
    record = await begin_endless_answer(tab, shared)
    await tab.use("#message", lambda box: box.fill("Next"))
    other = await tab.open_beside()
    await other.open(shared.url)
    await other.use(".conversation a", lambda link: link.press("Delete"))
    await tab.sees("#log", "It may have been deleted")
    await wait_until(lambda: record.closed_by is not None, "the end of the generation")
    await tab.expect("#message", lambda it: it.to_have_value("Next"))
    await tab.misses(".conversation")


@ensureDeferred
async def test_two_tabs_write_in_the_same_conversation(shared: Cluster, tab: Tab) -> None:
    """While one is answered, the other says so; either may stop the answer."""
    await log_in(tab, shared)
    await begin_endless_answer(tab, shared)
    other = await tab.open_beside()
    await other.open(f"{shared.url}/{await tab.find('location.hash')}")
    await other.sees(RESPONSE, "One. One.")
    await other.use("#message", lambda box: box.fill("Too early"))
    await other.use("#message", lambda box: box.press("Enter"))
    await other.sees(".send-notice", "Not sent: an answer is still arriving.")
    await other.use("#stop", lambda button: button.click())
    for each in (tab, other):
        await each.sees(f"{RESPONSE} .end", "Stopped.")
    await other.use("#message", lambda box: box.press("Enter"))
    for each in (tab, other):
        await each.expect(".question", lambda it: it.to_have_count(2))
        await each.expect(".response .end.complete", lambda it: it.to_have_count(1))
    await tab.expect("#message", lambda it: it.to_have_value(""))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut.json", b'{"format": "ctllm-conversations", "version": 1, "conversations": [{"ver'),
        ("list.json", b"[]"),
        ("null.json", b"null"),
        ("deep.json", b"[" * 100_000),
        ("empty.json", b""),
        ("binary.json", bytes(range(256)) * 50),
        ("picture.md", b"\x89PNG\r\n\x1a\n" + bytes(1000)),
    ],
)
@ensureDeferred
async def test_a_broken_file_is_not_imported(
    shared: Cluster, tab: Tab, name: str, content: bytes
) -> None:
    """It is named, and nothing else changes."""
    await log_in(tab, shared)
    file: FilePayload = {"name": name, "mimeType": "", "buffer": content}

    def choose(page: Page) -> None:
        with page.expect_file_chooser() as chosen:
            page.get_by_role("menuitem", name="Import…").click()
        chosen.value.set_files(file)

    await tab.use("#conversations-menu", lambda button: button.click())
    await tab.do(choose)
    await tab.sees(".toast.error", name)
    await tab.misses(".conversation")


@ensureDeferred
async def test_a_device_without_room_says_so_and_stores_later(
    shared: Cluster, chromium: Chromium
) -> None:
    """The chat goes on. What was in memory is stored once there is room."""
    tab = await chromium.tab(viewport={"width": 320, "height": 640})
    await tab.hurry()
    await log_in(tab, shared)
    await limit_storage(tab, shared.url, quotaSize=1)
    await send(tab, "Without room")
    await tab.sees(f"{RESPONSE} .end", "Complete.")
    await tab.sees("#storage-warning", "This device has no room left.")
    await check_schemes(tab, "storage-full-chat")
    await tab.use("#open-drawer", lambda button: button.click())
    await tab.sees("#storage-problem", "This device has no room left.")
    await check_screen(tab, "storage-full")
    await limit_storage(tab, shared.url)
    await tab.misses("#storage-problem")
    await tab.misses("#storage-warning")
    await tab.do(lambda page: page.reload())
    await tab.sees(RESPONSE, "You said: Without room")
    assert tab.complaints and all("QuotaExceededError" in each for each in tab.complaints)
    tab.complaints.clear()
    await tab.close()


async def limit_storage(tab: Tab, origin: str, **size: Any) -> None:
    """Give the page so many bytes to store; without a size, what it has usually."""

    def send_command(page: Page) -> None:
        session = page.context.new_cdp_session(page)
        session.send("Storage.overrideQuotaForOrigin", {"origin": origin, **size})

    await tab.do(send_command)
