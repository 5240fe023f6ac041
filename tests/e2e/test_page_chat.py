"""Conversations with a model on the page, in a real Chromium."""

from __future__ import annotations

import base64
import json
import re
import struct
import zlib
from itertools import pairwise
from typing import Any

import pytest
from playwright.sync_api import FilePayload, Page
from pytest_twisted import ensureDeferred

from tests.e2e.chromium import Chromium, Tab
from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.page_checks import LAYOUTS, check_schemes, check_screen, log_in
from tests.fake_ollama import Record, Script
from tests.ports import free_port

#: Seconds to load a model; longer than any test waits, so that only a cancellation ends it.
LOAD_SECONDS = 300.0
RESPONSE = ".response:last-child"


@pytest.fixture(autouse=True)
def reset_fake_ollama(request: pytest.FixtureRequest) -> None:
    """Remove the fake Ollama's scripts and records of the previous test."""
    if "shared" in request.fixturenames:
        request.getfixturevalue("shared").ollama.reset()


async def log_in_until_ready(tab: Tab, cluster: Cluster, name: str = "alice") -> None:
    """Log in, and wait until the Send button is enabled."""
    await log_in(tab, cluster, name)
    await tab.expect("#send", lambda it: it.to_be_enabled())


async def send_message(tab: Tab, message: str) -> None:
    """Type a message and send it with Enter."""
    await tab.use("#message", lambda box: box.fill(message))
    await tab.use("#message", lambda box: box.press("Enter"))


async def wait_for_chat_request(cluster: Cluster) -> Record:
    """Wait until Ollama receives a chat request."""
    return await cluster.ollama.wait_for(lambda record: record.path == "/api/chat")


def chat_request_bodies(cluster: Cluster) -> list[dict[str, Any]]:
    """Return the bodies of Ollama's chat requests, oldest first."""
    return [json.loads(r.body or b"") for r in cluster.ollama.requests if r.path == "/api/chat"]


async def response_text(tab: Tab, selector: str = RESPONSE) -> str:
    """Return the text of the last response that the page shows."""
    return await tab.do(lambda page: page.locator(f"{selector} .text").inner_text())


async def sees_text(tab: Tab, pattern: str) -> None:
    """Wait until the last response is a match: its text is drawn in a later frame than its end."""
    text = re.compile(rf"^\s*{pattern}\s*$", re.DOTALL)
    await tab.expect(f"{RESPONSE} .text", lambda it: it.to_have_text(text))


async def use_action(tab: Tab, selector: str, label: str) -> None:
    """Click a button of a message, which shows when the pointer is over it."""

    def act(page: Page) -> None:
        message = page.locator(selector)
        message.hover()
        message.get_by_role("button", name=label, exact=True).click()

    await tab.do(act)


# -- sending and receiving


@ensureDeferred
async def test_a_response_is_shown_while_it_streams(shared: Cluster, tab: Tab) -> None:
    """The page appends each chunk, and marks the end as complete, with its statistics."""
    words = tuple(f"word{n} " for n in range(40))
    shared.ollama.script("/api/chat", Script(lines=words, line_interval=0.04))
    await log_in_until_ready(tab, shared)
    await send_message(tab, "hello there")
    await tab.sees(".question", "hello there")
    await tab.sees(RESPONSE, "word0")
    await tab.sees("#status", "Receiving the response.")
    texts: list[str] = []

    async def has_last_word() -> bool:
        texts.append(await response_text(tab))
        return "word39" in texts[-1]

    await wait_until(has_last_word, "the last word of the response")
    assert len(set(texts)) > 5
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    await tab.sees(f"{RESPONSE} .end", "Complete.")
    await tab.sees(f"{RESPONSE} .end", "tokens a second")
    await sees_text(tab, re.escape("".join(words).strip()))
    await tab.expect("#message", lambda it: it.to_have_value(""))
    await tab.misses("#stop")
    await tab.sees(".sidebar .conversations", "hello there")


@ensureDeferred
async def test_requests_carry_the_conversation_until_a_new_chat(shared: Cluster, tab: Tab) -> None:
    await log_in_until_ready(tab, shared)

    def choose_model(box: Any) -> None:
        box.select_option(box.locator("option", has_text="nomic-embed-text").get_attribute("value"))

    await tab.use("#models", choose_model)
    await tab.use("#message", lambda box: box.fill("first"))
    await tab.use("#message", lambda box: box.press("Shift+Enter"))
    await tab.use("#message", lambda box: box.press_sequentially("line"))
    await tab.click("Send")
    await tab.sees(f"{RESPONSE} .end", "Complete.")
    await send_message(tab, "second")
    await tab.expect(".end", lambda it: it.to_have_count(2))
    await tab.expect(RESPONSE, lambda it: it.to_contain_text("second"))
    bodies = chat_request_bodies(shared)
    assert [body["model"] for body in bodies] == ["nomic-embed-text:latest"] * 2
    first_response = bodies[1]["messages"][1]["content"]
    assert "first" in first_response
    assert bodies[1]["messages"] == [
        {"role": "user", "content": "first\nline"},
        {"role": "assistant", "content": first_response},
        {"role": "user", "content": "second"},
    ]
    await tab.use(".sidebar >> text=New chat", lambda button: button.click())
    await tab.misses("article")
    await send_message(tab, "third")
    await tab.sees(f"{RESPONSE} .end", "Complete.")
    assert chat_request_bodies(shared)[2]["messages"] == [{"role": "user", "content": "third"}]


@pytest.mark.parametrize(
    "script",
    [Script(lines=1000, line_interval=0.05), Script(load_seconds=LOAD_SECONDS)],
    ids=["streaming", "loading"],
)
@ensureDeferred
async def test_stop_cancels_the_request_at_ollama(
    shared: Cluster, tab: Tab, script: Script
) -> None:
    """The text received so far stays, marked as stopped; the next message can be sent."""
    shared.ollama.script("/api/chat", script, times=1)
    await log_in_until_ready(tab, shared)
    await send_message(tab, "go on and on")
    record = await wait_for_chat_request(shared)
    if script.lines:
        await tab.sees(RESPONSE, "word")
    else:
        await tab.sees(f"{RESPONSE} .waiting", "Waiting for the model: 2 sec")
    await tab.misses("#send")
    assert record.closed_by is None
    await tab.click("Stop")
    await record.closed
    assert record.closed_by == "client"
    await tab.sees(f"{RESPONSE} .end", "Stopped.")
    await send_message(tab, "and now?")
    await tab.sees(f"{RESPONSE} .end", "Complete.")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (Script(break_after=2, pause_after=(2, 0.5)), r".+"),
        (Script(error_in_stream=(2, "it fell over")), "it fell over"),
    ],
    ids=["connection-lost", "error"],
)
@ensureDeferred
async def test_a_response_that_ollama_breaks_off_is_marked_as_incomplete(
    shared: Cluster, tab: Tab, script: Script, reason: str
) -> None:
    """The text received so far stays, and the model can be asked to go on with it."""
    shared.ollama.script("/api/chat", script, times=1)
    await log_in_until_ready(tab, shared)
    await send_message(tab, "tell me something long")
    notice = re.compile(rf"This response is incomplete\. Error: {reason}")
    await tab.expect(f"{RESPONSE} .error", lambda it: it.to_have_text(notice))
    await sees_text(tab, "This is")
    await use_action(tab, RESPONSE, "Continue")
    await tab.sees(f"{RESPONSE} .end", "Complete.")
    await sees_text(tab, "This is.*")
    assert chat_request_bodies(shared)[1]["messages"][1]["role"] == "assistant"
    await tab.sees(f"{RESPONSE} .versions", "2 of 2")


@ensureDeferred
async def test_a_refused_message_can_be_sent_again(shared: Cluster, tab: Tab) -> None:
    """The page shows Ollama's error; the first, failed answer remains as a version."""
    refusal = Script(error_before=(500, '{"error":"out of memory"}', {}))
    shared.ollama.script("/api/chat", refusal, times=1)
    await log_in_until_ready(tab, shared)
    await send_message(tab, "hello")
    await tab.sees(f"{RESPONSE} .error", "Error: out of memory")
    await use_action(tab, RESPONSE, "Another answer")
    await tab.sees(f"{RESPONSE} .end", "Complete.")
    await tab.sees(f"{RESPONSE} .versions", "2 of 2")
    await use_action(tab, RESPONSE, "Previous version")
    await tab.sees(f"{RESPONSE} .error", "Error: out of memory")


@ensureDeferred
async def test_an_edited_question_is_a_branch(shared: Cluster, tab: Tab) -> None:
    await log_in_until_ready(tab, shared)
    await send_message(tab, "one")
    await tab.sees(f"{RESPONSE} .end", "Complete.")
    await use_action(tab, ".question", "Edit the message")
    await tab.use(".edit-message", lambda box: box.fill("two"))
    await tab.use(".editing .main", lambda button: button.click())
    await tab.sees(".question .bubble", "two")  # with an answer of its own
    await tab.sees(f"{RESPONSE} .end", "Complete.")
    await sees_text(tab, ".*two.*")
    assert chat_request_bodies(shared)[1]["messages"] == [{"role": "user", "content": "two"}]
    await tab.sees(".question .versions", "2 of 2")
    await use_action(tab, ".question", "Previous version")
    await tab.sees(".question .bubble", "one")
    await tab.expect(RESPONSE, lambda it: it.to_contain_text("one"))


@ensureDeferred
async def test_conversations_stream_beside_each_other(shared: Cluster, tab: Tab) -> None:
    """The list shows which; each gets its own words."""
    await log_in_until_ready(tab, shared)
    for name in ("alpha", "beta"):
        words = tuple(f"{name}{n} " for n in range(200))
        shared.ollama.script("/api/chat", Script(lines=words, line_interval=0.03), times=1)
        await send_message(tab, f"question {name}")
        await tab.sees(RESPONSE, f"{name}3")
        await tab.use(".sidebar >> text=New chat", lambda button: button.click())
        await tab.misses("article")
    for name in ("alpha", "beta"):
        await tab.use(f".conversations >> text=question {name}", lambda item: item.click())
        await tab.sees(RESPONSE, f"{name}199")
        await tab.sees(f"{RESPONSE} .end", "Complete.")
        other = "beta" if name == "alpha" else "alpha"
        assert other not in await response_text(tab)


@ensureDeferred
async def test_the_end_of_an_answer_that_is_not_shown_is_told(
    shared: Cluster, chromium: Chromium
) -> None:
    """In a polite region. Its conversation is marked in the list, and at the menu of a phone."""
    tab = await chromium.tab(viewport={"width": 320, "height": 640})
    await log_in_until_ready(tab, shared)
    for name, end in (("alpha", "is complete"), ("beta", "ended before it was complete")):
        script = Script(
            lines=(f"{name}1 ", f"{name}2 "),
            pause_after=(1, 5.0),
            error_in_stream=(2, "out of memory") if name == "beta" else None,
        )
        shared.ollama.script("/api/chat", script, times=1)
        await send_message(tab, f"question {name}")
        await tab.sees(RESPONSE, f"{name}1")
        await tab.click("New chat")
        title = f"\u2068question {name}\u2069"  # whatever its direction
        await tab.sees(".toasts[role=status]", f"The answer in “{title}” {end}.")
    await check_schemes(tab, "chat-answered-elsewhere")
    await tab.click("Menu (new answers)")
    await tab.expect(".unread", lambda it: it.to_have_count(2))
    await check_schemes(tab, "conversations-unread")
    await tab.use(".conversations >> text=question alpha", lambda item: item.click())
    await tab.sees(RESPONSE, "alpha2")
    await tab.do(lambda page: page.reload())
    await tab.click("Menu (new answers)")
    await tab.expect("a:has(.unread) .title", lambda it: it.to_have_text("question beta"))
    await tab.use(".conversations >> text=question beta", lambda item: item.click())
    await tab.sees(RESPONSE, "beta1")
    await tab.click("Menu")
    await tab.misses(".unread")
    await tab.close()


@ensureDeferred
async def test_thoughts_and_calls_of_tools_are_folded(shared: Cluster, tab: Tab) -> None:
    lines: list[dict[str, Any]] = [
        {"message": {"role": "assistant", "content": "", "thinking": "Let me see."}},
        {
            "message": {
                "role": "assistant",
                "content": "It rains.",
                "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Bonn"}}}],
            }
        },
        {"message": {"role": "assistant", "content": ""}, "done": True},
    ]
    body = "".join(json.dumps({"model": "m", "done": False, **line}) + "\n" for line in lines)
    head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\n"
    verbatim = f"{head}Content-Length: {len(body)}\r\n\r\n{body}"
    shared.ollama.script("/api/chat", Script(verbatim=verbatim), times=1)
    await log_in_until_ready(tab, shared)
    await send_message(tab, "weather?")
    await tab.sees(f"{RESPONSE} .text", "It rains.")
    await tab.misses(".thoughts")
    await tab.use(".thinking summary", lambda it: it.click())
    await tab.sees(".thoughts", "Let me see.")
    await tab.use(".tool-call summary", lambda it: it.click())
    await tab.sees(".tool-call pre", '"city": "Bonn"')


# -- instructions


@ensureDeferred
async def test_instructions_are_sent_and_kept_as_a_preset(shared: Cluster, tab: Tab) -> None:
    await log_in_until_ready(tab, shared)
    await tab.use("#chat-settings-button", lambda button: button.click())
    await tab.use("#system-prompt", lambda box: box.fill("Rhyme."))
    await tab.use("#option-temperature", lambda box: box.fill("0.5"))
    await tab.use("#think", lambda box: box.select_option("off"))
    await tab.use("#option-num_ctx", lambda box: box.fill("5"))
    await tab.use("#preset-name", lambda box: box.fill("Poet"))
    await tab.sees("#chat-settings", "Enter a number from 256 to 1048576.")
    await tab.click("Save as preset")
    await tab.click("Done")
    await send_message(tab, "hello")
    await tab.sees(f"{RESPONSE} .end", "Complete.")
    body = chat_request_bodies(shared)[0]
    assert body["messages"][0] == {"role": "system", "content": "Rhyme."}
    assert body["options"] == {"temperature": 0.5}
    assert body["think"] is False
    await tab.use(".sidebar >> text=New chat", lambda button: button.click())
    await tab.use("#chat-settings-button", lambda button: button.click())
    await tab.expect("#system-prompt", lambda it: it.to_have_value(""))
    await tab.click("Use Poet")
    await tab.expect("#system-prompt", lambda it: it.to_have_value("Rhyme."))
    await tab.click("Done")


# -- attachments


def png(width: int, height: int) -> bytes:
    """Return a grey image."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = (b"\0" + b"\x80" * width) * height
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


async def have_no_vision(tab: Tab) -> None:
    """Let the models of the fake Ollama say that they cannot see."""
    await tab.do(
        lambda page: page.route(
            "**/api/show", lambda route: route.fulfill(json={"capabilities": ["completion"]})
        )
    )


@ensureDeferred
async def test_images_and_text_files_are_attached(shared: Cluster, tab: Tab) -> None:
    """Images are made smaller; a model without vision is said."""
    await have_no_vision(tab)
    await log_in_until_ready(tab, shared)
    files: list[FilePayload] = [
        {"name": "wide.png", "mimeType": "image/png", "buffer": png(3000, 300)},
        {"name": "notes.md", "mimeType": "text/markdown", "buffer": "Grüße".encode()},
    ]
    await tab.use("#composer input[multiple]", lambda box: box.set_input_files(files))
    await tab.expect("#composer .attachments li", lambda it: it.to_have_count(2))
    await tab.sees("#no-vision", "cannot see images")
    await send_message(tab, "What is it?")
    await tab.sees(f"{RESPONSE} .end", "Complete.")
    [message] = chat_request_bodies(shared)[0]["messages"]
    assert message["content"] == "notes.md:\n```\nGrüße\n```\n\nWhat is it?"
    [image] = message["images"]
    assert struct.unpack(">II", base64.b64decode(image)[16:24]) == (1536, 154)
    await tab.expect(".question img", lambda it: it.to_have_js_property("naturalWidth", 1536))
    await tab.misses("#composer .attachments")


@pytest.mark.parametrize(
    ("name", "kind", "content", "message"),
    [
        ("a.pdf", "application/pdf", b"%PDF", "a.pdf is neither an image nor a text"),
        ("a.txt", "text/plain", b"\xff\xfe", "a.txt is not a text in UTF-8."),
        ("a.png", "image/png", b"no image", "a.png cannot be read."),
        ("a.log", "text/plain", b"x" * 500_001, "a.log is too large"),
    ],
)
@ensureDeferred
async def test_a_file_that_cannot_be_attached_is_refused(
    shared: Cluster, tab: Tab, name: str, kind: str, content: bytes, message: str
) -> None:
    await log_in_until_ready(tab, shared)
    file: FilePayload = {"name": name, "mimeType": kind, "buffer": content}
    await tab.use("#composer input[multiple]", lambda box: box.set_input_files([file]))
    await tab.sees(".toasts", message)
    await tab.misses("#composer .attachments")


#: Dispatches a paste or a drop of an image.
PASTE = """([type, data]) => {
    const bytes = Uint8Array.from(atob(data), each => each.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], 'pasted.png', {type: 'image/png'}));
    const name = type === 'paste' ? 'clipboardData' : 'dataTransfer';
    const Kind = type === 'paste' ? ClipboardEvent : DragEvent;
    document.getElementById('message').dispatchEvent(
        new Kind(type, {[name]: transfer, bubbles: true, cancelable: true}));
}"""


@pytest.mark.parametrize("way", ["paste", "drop"])
@ensureDeferred
async def test_images_are_attached_by(shared: Cluster, tab: Tab, way: str) -> None:
    await log_in_until_ready(tab, shared)
    data = base64.b64encode(png(20, 10)).decode()
    await tab.do(lambda page: page.evaluate(PASTE, [way, data]))
    await tab.expect("#composer .attachments img", lambda it: it.to_have_count(1))
    await tab.click("Remove pasted.png")
    await tab.misses("#composer .attachments")


# -- the composer


@ensureDeferred
async def test_drafts_belong_to_their_conversations(shared: Cluster, tab: Tab) -> None:
    """They survive a reload."""
    await log_in_until_ready(tab, shared)
    await send_message(tab, "first")
    await tab.sees(f"{RESPONSE} .end", "Complete.")
    await tab.use("#message", lambda box: box.fill("of the first"))
    await tab.use(".sidebar >> text=New chat", lambda button: button.click())
    await tab.expect("#message", lambda it: it.to_have_value(""))
    await tab.use("#message", lambda box: box.fill("of a new one"))
    await tab.use(".conversations >> text=first", lambda item: item.click())
    await tab.expect("#message", lambda it: it.to_have_value("of the first"))
    await tab.do(lambda page: page.reload())
    await tab.expect("#message", lambda it: it.to_have_value("of the first"))
    await tab.use("#message", lambda box: box.fill(""))
    await tab.use(".sidebar >> text=New chat", lambda button: button.click())
    await tab.expect("#message", lambda it: it.to_have_value("of a new one"))
    await tab.use("#message", lambda box: box.fill(""))


@ensureDeferred
async def test_enter_within_a_composition_does_not_send(shared: Cluster, tab: Tab) -> None:
    """An input method uses Enter to choose a word."""
    await log_in_until_ready(tab, shared)
    await tab.use("#message", lambda box: box.fill("にほん"))
    compose = """() => document.getElementById('message').dispatchEvent(new KeyboardEvent(
        'keydown', {key: 'Enter', isComposing: true, bubbles: true, cancelable: true}))"""
    assert await tab.do(lambda page: page.evaluate(compose)) is True
    await tab.expect("#message", lambda it: it.to_have_value("にほん"))
    await tab.misses("article")
    await tab.use("#message", lambda box: box.fill(""))


@ensureDeferred
async def test_the_demo_model_has_a_badge(shared: Cluster, tab: Tab) -> None:
    """The desktop's name is shown as text, even if it contains markup."""
    name = "<b>attic</b>"
    await shared.start_desktop("dora", free_port(), "--demo=on", f"--desktop-name={name}")
    await log_in_until_ready(tab, shared, "dora")
    await tab.expect("#models optgroup", lambda it: it.to_have_attribute("label", name))
    await tab.sees("#demo", "demo model")
    await send_message(tab, "hello there")
    await tab.sees(RESPONSE, "demo:echo")
    await tab.sees(f"{RESPONSE} .end", "Complete.")
    await sees_text(tab, ".*hello there.*")


MARKUP = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@ensureDeferred
async def test_markup_in_messages_and_responses_is_shown_as_text(shared: Cluster, tab: Tab) -> None:
    shared.ollama.script("/api/chat", Script(lines=(MARKUP, " <b>done</b>")))
    await log_in_until_ready(tab, shared)
    await send_message(tab, MARKUP)
    await tab.sees(f"{RESPONSE} .end", "Complete.")
    await tab.expect(".question .text", lambda it: it.to_have_text(MARKUP))
    assert await tab.find("document.querySelector('#log :is(img, script, b)')") is None
    assert await tab.find("document.title") != "owned"  # the title is the question


# -- long conversations, and layout


@ensureDeferred
async def test_the_list_follows_its_end_only_if_the_person_is_there(
    shared: Cluster, tab: Tab
) -> None:
    words = tuple(f"line {n}\n\n" for n in range(400))
    shared.ollama.script("/api/chat", Script(lines=words, line_interval=0.02), times=1)
    await log_in_until_ready(tab, shared)
    await send_message(tab, "go")
    await tab.sees(RESPONSE, "line 60")
    distance = """(() => { const it = document.querySelector('.log-scroller');
        return it.scrollHeight - it.scrollTop - it.clientHeight; })()"""
    assert await tab.find(distance) < 100
    await tab.misses("#jump-to-end")
    await tab.do(lambda page: page.locator(".log-scroller").hover())
    await tab.do(lambda page: page.mouse.wheel(0, -600))
    await tab.sees("#jump-to-end", "")
    top = await tab.find("document.querySelector('.log-scroller').scrollTop")
    await tab.sees(RESPONSE, "line 200")
    assert await tab.find("document.querySelector('.log-scroller').scrollTop") == top
    await tab.use("#jump-to-end", lambda button: button.click())
    await tab.sees(RESPONSE, "line 399")
    await tab.misses("#jump-to-end")
    assert await tab.find(distance) < 100


@pytest.mark.parametrize(("scheme", "width"), LAYOUTS)
@ensureDeferred
async def test_the_chat_fits_the_width_of_the_window(
    shared: Cluster, chromium: Chromium, scheme: str, width: int
) -> None:
    """The screenshots are for review by eye."""
    tab = await chromium.tab(color_scheme=scheme, viewport={"width": width, "height": 800})
    answer = (
        "Of course. A very " + "l" * 200 + "ong word.\n\n",
        "| a | b |\n|---|---|\n| 1 | 2 |\n\n```python\nprint('hello')\n```\n\n",
        "Then some more. " * 20,
    )
    shared.ollama.script("/api/chat", Script(lines=answer), times=1)
    await have_no_vision(tab)
    await log_in_until_ready(tab, shared)
    await check_screen(tab, "chat-empty")
    await send_message(tab, "What is " + "long" * 60 + "?")
    await tab.sees(f"{RESPONSE} .end", "Complete.")
    await check_screen(tab, "chat")
    shared.ollama.script("/api/chat", Script(load_seconds=LOAD_SECONDS), times=1)
    files: list[FilePayload] = [
        {"name": "wide.png", "mimeType": "image/png", "buffer": png(300, 100)}
    ]
    await tab.use("#composer input[multiple]", lambda box: box.set_input_files(files))
    await tab.sees("#no-vision", "cannot see images")
    await check_screen(tab, "chat-attachment")
    await send_message(tab, "And this?")
    await tab.sees(f"{RESPONSE} .waiting", "Waiting for the model: 1 sec")
    await check_screen(tab, "chat-waiting")
    await tab.click("Stop")
    await tab.sees(f"{RESPONSE} .end", "Stopped.")
    await tab.use("#chat-settings-button", lambda button: button.click())
    await tab.sees("#chat-settings", "System prompt")
    await check_screen(tab, "chat-settings")
    await tab.close()


#: Keeps which elements the browser first skipped, and then laid out after all.
WATCH_SKIPPED = """() => {
    window.laidOutLate = [];
    document.addEventListener('contentvisibilityautostatechange', ({target, skipped}) => {
        if (!skipped) laidOutLate.push(target.className);
    }, true);
}"""


@ensureDeferred
async def test_what_arrives_is_laid_out_once(shared: Cluster, tab: Tab) -> None:
    """No part of an answer gets its place first, and its content with a second layout."""
    await log_in_until_ready(tab, shared)
    for number in range(3):
        await send_message(tab, f"question {number}")
        await tab.sees(RESPONSE, f"You said: question {number}")
        await tab.sees(f"{RESPONSE} .end", "Complete.")
    code = "".join(f"    line({number})\n" for number in range(150))
    text = "".join(f"Part {number}: {'many words ' * 50}\n\n" for number in range(40))
    answer = f"{text}\n```\n{code}```\n\n{text}"
    pieces = tuple(answer[start : start + 60] for start in range(0, len(answer), 60))
    shared.ollama.script("/api/chat", Script(lines=pieces, line_interval=0.005), times=1)
    await tab.find(WATCH_SKIPPED)
    await send_message(tab, "A long answer")
    await tab.expect(".response .end.complete", lambda it: it.to_have_count(4))
    assert await tab.find("document.querySelectorAll('.section').length") > 10
    assert await tab.find("document.querySelectorAll('.response:last-child .lines').length") > 3
    assert await tab.find("laidOutLate") == []
