"""What a person has begun and not sent, in a real Chromium: nothing of it is lost in silence."""

from __future__ import annotations

import io
import json
import random
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Dialog, FilePayload, Page
from pytest_twisted import ensureDeferred

from tests.e2e.chromium import Chromium, Tab
from tests.e2e.cluster import Cluster
from tests.e2e.page_checks import check_everywhere, check_screen, log_in, show_view

RESPONSE = ".response:last-child"
ATTACHED = "#composer .attachments li"
#: EXIF: the camera was held upright.
ROTATED = 6
PHONE: dict[str, Any] = {
    "viewport": {"width": 360, "height": 740},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}


@pytest.fixture(autouse=True)
def reset_fake_ollama(shared: Cluster) -> None:
    """Remove the fake Ollama's scripts and records of the previous test."""
    shared.ollama.reset()


async def log_in_until_ready(tab: Tab, cluster: Cluster) -> None:
    await log_in(tab, cluster)
    await tab.expect("#send", lambda it: it.to_be_enabled())


async def send_message(tab: Tab, text: str) -> None:
    await tab.use("#message", lambda box: box.fill(text))
    await tab.use("#message", lambda box: box.press("Enter"))


async def attach(tab: Tab, name: str, content: bytes, kind: str = "text/plain") -> None:
    file: FilePayload = {"name": name, "mimeType": kind, "buffer": content}
    await tab.use("#composer input[multiple]", lambda box: box.set_input_files([file]))


def noise(width: int, height: int, kind: str, **options: Any) -> bytes:
    """Return an image that can hardly be compressed."""
    data = random.Random(1).randbytes(width * height * 3)
    output = io.BytesIO()
    Image.frombytes("RGB", (width, height), data).save(output, kind, **options)
    return output.getvalue()


def chat_bodies(cluster: Cluster) -> list[dict[str, Any]]:
    return [json.loads(r.body or b"") for r in cluster.ollama.requests if r.path == "/api/chat"]


async def accept_dialogs(tab: Tab) -> list[str]:
    """Accept the dialogs of the browser from now on; returns the list of their kinds."""
    kinds: list[str] = []

    def accept(dialog: Dialog) -> None:
        kinds.append(dialog.type)
        dialog.accept()

    await tab.do(lambda page: page.on("dialog", accept))
    return kinds


@ensureDeferred
async def test_attachments_stay_with_their_conversation(shared: Cluster, tab: Tab) -> None:
    """While settings, models, another conversation or a reload come between."""
    await log_in_until_ready(tab, shared)
    await send_message(tab, "first")
    await tab.sees(f"{RESPONSE} .end", "Complete.")
    first = await tab.find("location.hash")
    asked = await accept_dialogs(tab)
    await attach(tab, "notes.txt", b"Of the first.")
    await attach(tab, "photo.png", noise(100, 50, "PNG"), "image/png")
    await tab.expect(ATTACHED, lambda it: it.to_have_count(2))
    for view in ("settings", "models"):
        await show_view(tab, view)
        await tab.expect("main h1", lambda it: it.to_be_focused())
        await tab.do(lambda page: page.go_back())
        await tab.expect(ATTACHED, lambda it: it.to_have_count(2))
    await tab.click("New chat")
    await tab.expect(ATTACHED, lambda it: it.to_have_count(0))
    await attach(tab, "other.txt", b"Of a new one.")
    await tab.expect(ATTACHED, lambda it: it.to_have_text(["other.txt"]))
    await tab.find(f"void (location.hash = '{first}')")
    await tab.expect(ATTACHED, lambda it: it.to_have_count(2))
    await tab.do(lambda page: page.reload())
    await tab.expect(ATTACHED, lambda it: it.to_have_count(2))
    await tab.expect(f"{ATTACHED} img", lambda it: it.to_have_js_property("naturalWidth", 100))
    assert asked == []
    await tab.expect("#send", lambda it: it.to_be_enabled())
    await send_message(tab, "Look")
    await tab.expect(ATTACHED, lambda it: it.to_have_count(0))
    await tab.expect(".response .end.complete", lambda it: it.to_have_count(2))
    message = chat_bodies(shared)[-1]["messages"][-1]
    assert message["content"] == "notes.txt:\n```\nOf the first.\n```\n\nLook"
    assert len(message["images"]) == 1
    await tab.do(lambda page: page.reload())
    await tab.expect(".question", lambda it: it.to_have_count(2))
    await tab.expect(ATTACHED, lambda it: it.to_have_count(0))


@ensureDeferred
async def test_a_reload_that_would_lose_attachments_is_asked_about(
    shared: Cluster, tab: Tab
) -> None:
    """What is too large for the storage of a tab is in memory alone, and no view is that."""
    await log_in_until_ready(tab, shared)
    large = noise(1500, 1400, "PNG")
    await attach(tab, "large.png", large, "image/png")
    await tab.expect(ATTACHED, lambda it: it.to_have_count(1))
    assert await tab.find("document.querySelector('#composer img').src.length") > 2_000_000
    await show_view(tab, "settings")
    await tab.expect("main h1", lambda it: it.to_be_focused())
    await tab.click("New chat")
    await tab.expect(ATTACHED, lambda it: it.to_have_count(1))
    asked = await accept_dialogs(tab)
    await tab.use("#message", lambda box: box.press("a"))  # browsers ask nobody who did nothing
    await tab.do(lambda page: page.reload())
    await tab.sees("#user-name", "alice")
    await tab.expect("#message", lambda it: it.to_have_value("a"))
    assert asked == ["beforeunload"]
    await tab.expect(ATTACHED, lambda it: it.to_have_count(0))
    await tab.do(lambda page: page.reload())
    await tab.sees("#user-name", "alice")
    assert asked == ["beforeunload"]


@ensureDeferred
async def test_a_file_that_is_read_while_another_view_is_shown_is_attached(
    shared: Cluster, tab: Tab
) -> None:
    await log_in_until_ready(tab, shared)
    await tab.find("""() => {
        const {arrayBuffer} = Blob.prototype;
        window.finish = [];
        Blob.prototype.arrayBuffer = function () {
            return new Promise(done => finish.push(done)).then(() => arrayBuffer.call(this));
        };
    }""")
    await attach(tab, "slow.txt", b"At last.")
    await show_view(tab, "privacy")
    await tab.expect("main h1", lambda it: it.to_be_focused())
    await tab.find("void finish.map(each => each())")
    await tab.click("New chat")
    await tab.expect(ATTACHED, lambda it: it.to_have_text(["slow.txt"]))


@ensureDeferred
async def test_what_was_begun_in_a_deleted_conversation_is_gone_with_it(
    shared: Cluster, tab: Tab
) -> None:
    """As long as the deletion can be undone, it is there."""
    await log_in_until_ready(tab, shared)
    await send_message(tab, "first")
    await tab.sees(f"{RESPONSE} .end", "Complete.")
    first = await tab.find("location.hash")
    await attach(tab, "notes.txt", b"marked-notes")
    await tab.expect(ATTACHED, lambda it: it.to_have_count(1))
    await use_action(tab, ".question", "Edit the message")
    await tab.use(".edit-message", lambda box: box.fill("marked-edit"))
    await tab.use("#message", lambda box: box.fill("marked-text"))
    await tab.click("New chat")
    await tab.use("#message", lambda box: box.fill("of a new one"))
    drafts = "Object.keys(sessionStorage).filter(key => key.includes('.draft.')).length"
    assert await tab.find(drafts) == 4
    await tab.use(".conversation a", lambda link: link.press("Delete"))
    await tab.misses(".conversation")
    await tab.click("Undo")
    await tab.find(f"void (location.hash = '{first}')")
    await tab.expect("#message", lambda it: it.to_have_value("marked-text"))
    await tab.expect(ATTACHED, lambda it: it.to_have_count(1))
    await tab.expect(".edit-message", lambda it: it.to_have_value("marked-edit"))
    await tab.use(".conversation a", lambda link: link.press("Delete"))
    await tab.misses(".conversation")
    is_gone = "() => !JSON.stringify({...sessionStorage}).includes('marked')"
    await tab.do(lambda page: page.wait_for_function(is_gone, timeout=30_000))
    await tab.expect("#message", lambda it: it.to_have_value("of a new one"))
    assert await tab.find(drafts) == 1
    await tab.use("#message", lambda box: box.fill(""))


# -- without a model


OTHER = {"name": "qwen3:latest", "model": "qwen3:latest", "size": 1, "digest": "0"}


async def take_models_away(tab: Tab, cluster: Cluster) -> None:
    """Let the desktop say that it has another model."""
    token = cluster.alice_token
    _, _, body = await cluster.request("GET", "/ctllm/desktops", token=token)
    desktops = [{**each, "models": ["qwen3:latest"]} for each in json.loads(body)["desktops"]]

    def answer(page: Page) -> None:
        page.route("**/ctllm/desktops", lambda it: it.fulfill(json={"desktops": desktops}))
        page.route("**/api/tags", lambda it: it.fulfill(json={"models": [OTHER]}))

    await tab.do(answer)


async def use_action(tab: Tab, selector: str, label: str) -> None:
    """Click a button of a message, which shows when the pointer is over it."""

    def act(page: Page) -> None:
        message = page.locator(selector)
        message.hover()
        message.get_by_role("button", name=label, exact=True).click()

    await tab.do(act)


async def reload_without_model(tab: Tab) -> None:
    """Reload, and wait until the page knows which models there are."""
    await tab.do(lambda page: page.reload())
    await tab.expect("#models", lambda it: it.to_contain_text("qwen3"))
    await tab.expect("#models option:checked", lambda it: it.to_contain_text("not available now"))


@ensureDeferred
async def test_another_answer_without_its_model_says_what_to_do(
    shared: Cluster, chromium: Chromium
) -> None:
    """So do the rest of one and an edited question, which is there after a look elsewhere."""
    tab = await chromium.tab(reduced_motion="reduce")
    await log_in_until_ready(tab, shared)
    await send_message(tab, "first")
    await tab.sees(f"{RESPONSE} .end", "Complete.")
    await take_models_away(tab, shared)
    await reload_without_model(tab)
    reason = "Not asked: llama3.2:latest is not available right now. Choose another model, or"
    await use_action(tab, RESPONSE, "Another answer")
    await tab.sees(f"{RESPONSE} .send-notice", reason)
    await check_everywhere(tab, "chat-not-asked")
    await reload_without_model(tab)
    await use_action(tab, RESPONSE, "Continue")
    await tab.sees(f"{RESPONSE} .send-notice", reason)
    await use_action(tab, ".question", "Edit the message")
    await tab.use(".edit-message", lambda box: box.fill("second"))
    await tab.use(".editing .main", lambda button: button.click())
    await tab.sees(".editing .send-notice", "Not sent: llama3.2:latest is not available right now.")
    await show_view(tab, "settings")
    await tab.expect("main h1", lambda it: it.to_be_focused())
    await tab.do(lambda page: page.go_back())
    await tab.expect(".edit-message", lambda it: it.to_have_value("second"))
    await tab.do(lambda page: page.unroute_all())
    await tab.do(lambda page: page.reload())
    await tab.expect("#send", lambda it: it.to_be_enabled())
    await tab.use(".editing .main", lambda button: button.click())
    await tab.sees(f"{RESPONSE} .end", "Complete.")
    questions = [body["messages"][-1]["content"] for body in chat_bodies(shared)]
    assert questions == ["first", "second"]
    await tab.close()


# -- the camera


@ensureDeferred
async def test_a_phone_takes_a_photo_which_is_made_smaller(
    shared: Cluster, chromium: Chromium
) -> None:
    """Of five megabytes, and upright as it was taken; one that is no image is refused."""
    tab = await chromium.tab(**PHONE)
    await log_in_until_ready(tab, shared)
    exif = Image.Exif()
    exif[0x0112] = ROTATED
    photo = noise(3000, 2250, "JPEG", quality=90, exif=exif)
    assert len(photo) > 5_000_000

    def take(page: Page, content: bytes) -> tuple[str | None, str | None, bool]:
        with page.expect_file_chooser() as chosen:
            page.get_by_role("button", name="Take a photo").tap()
        chooser = chosen.value
        box = chooser.element
        chooser.set_files({"name": "image.jpg", "mimeType": "image/jpeg", "buffer": content})
        return box.get_attribute("capture"), box.get_attribute("accept"), chooser.is_multiple()

    asked = await tab.do(lambda page: take(page, photo))
    assert asked == ("environment", "image/*", False)
    await tab.expect(ATTACHED, lambda it: it.to_have_count(1))
    await tab.expect(f"{ATTACHED} img", lambda it: it.to_have_js_property("naturalHeight", 1536))
    await check_screen(tab, "chat-photo")
    await tab.do(lambda page: take(page, b"\xff\xd8 broken"))
    await tab.sees(".toasts", "image.jpg cannot be read.")
    await tab.expect(ATTACHED, lambda it: it.to_have_count(1))
    await tab.use("#message", lambda box: box.fill("What is it?"))
    await tab.use("#send", lambda button: button.tap())
    record = await shared.ollama.wait_for(lambda it: it.path == "/api/chat")
    await tab.sees(f"{RESPONSE} .end", "Complete.")
    assert 500_000 < record.body_length < 4_000_000
    await tab.expect(".question img", lambda it: it.to_have_js_property("naturalWidth", 1152))
    await tab.expect(".question img", lambda it: it.to_have_js_property("naturalHeight", 1536))
    kind = "document.querySelector('.question img').src.slice(0, 15)"
    assert await tab.find(kind) == "data:image/jpeg"
    await tab.close()


@ensureDeferred
async def test_a_computer_without_a_touch_screen_is_offered_no_camera(
    shared: Cluster, tab: Tab
) -> None:
    await log_in_until_ready(tab, shared)
    await tab.expect("#attach", lambda it: it.to_be_visible())
    await tab.misses("#camera")
