"""The page for everybody: axe-core on every screen, the keyboard, narrow windows, big text.

Every screen is checked in both languages, light and dark, at 1280 and at 320 pixels. The pictures
in build/screenshots are for review by eye.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest
import pytest_twisted
from playwright.sync_api import FilePayload, Locator, Page, Route
from pytest_twisted import ensureDeferred

from tests.e2e.chromium import Chromium, Tab
from tests.e2e.cluster import Cluster
from tests.e2e.ollama_cli import OllamaCli
from tests.e2e.page_checks import (
    FIND_OVERFLOW,
    check_everywhere,
    check_schemes,
    resize,
    show_view,
)
from tests.e2e.test_loopback_page import LocalDesktop
from tests.e2e.test_page_chat import png
from tests.fake_ollama import Script

DESKTOP = {
    "id": "attic-id", "name": "attic", "ollama": "up", "version": "0.9.0", "models": ["llama3.2"],
    "resources": True, "latency_ms": 12,
}  # fmt: skip
NO_MODEL = {**DESKTOP, "models": []}
NO_FOLDER = {"error": {"code": "internal", "message": "The folder cannot be written."}}
#: As in a private window of some browsers.
FORBID_STORAGE = """
IDBFactory.prototype.open = () => { throw new DOMException('', 'SecurityError'); };
"""
#: What shows that a login is in a state.
SIGNS = {
    "choose": "#setup .stack > button:nth-child(3)", "failed": "#setup .error",
    "browser": "#setup .stack a", "code": ".qr-code",
}  # fmt: skip
ANSWER = (
    "Here is **a table** and some code.\n\n| left | right |\n| --- | --- |\n| 1 | 2 |\n\n",
    "```python\ndef greet(name: str) -> str:\n    # a long line that does not wrap\n"
    "    return f'Hello {name}, this is a rather long line of code to look at'\n```\n\n",
    "And $x^2 + y^2 = z^2$. שלום עולם, and English again.\n\n- one\n- two\n\n",
    "![A cat](https://images.example/cat.png) [A link](https://example.org)[^1]\n\n[^1]: A note.\n",
)
#: Makes every text 40 % longer, as another language may.
LENGTHEN = """() => {
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        const {length} = node.data.trim();
        if (length > 1) node.data += ' ' + 'ü'.repeat(Math.ceil(length * 0.4)).slice(0, 14);
    }
}"""
MESSAGE: dict[str, Any] = {"role": "assistant", "content": ""}
TOOL_CALL = {"function": {"name": "weather", "arguments": {"city": "Bonn"}}}
#: An answer with thoughts and a call of a tool.
CALL: list[dict[str, Any]] = [
    {"message": {**MESSAGE, "thinking": "The person asks for the weather."}},
    {"message": {**MESSAGE, "content": "It rains.", "tool_calls": [TOOL_CALL]}},
    {"message": MESSAGE, "done": True},
]


def serve(page: Page, path: str, body: Any, status: int = 200) -> None:
    """Respond to the page's requests to `path` in place of the cloud."""

    def respond(route: Route) -> None:
        route.fulfill(status=status, json=body)

    page.route(f"**{path}", respond)


async def press(tab: Tab, key: str) -> None:
    await tab.do(lambda page: page.keyboard.press(key))


async def click(tab: Tab, selector: str) -> None:
    await tab.use(selector, lambda element: element.first.click())


async def fill(tab: Tab, selector: str, text: str) -> None:
    await tab.use(selector, lambda box: box.fill(text))


async def shows(tab: Tab, selector: str) -> None:
    await tab.expect(f"{selector} >> nth=0", lambda it: it.to_be_visible())


async def log_in(tab: Tab, cluster: Cluster, name: str = "alice") -> None:
    await tab.open(await cluster.create_invite(name))
    await click(tab, "#confirm-login")
    await shows(tab, "#log-out")


async def send(tab: Tab, text: str) -> None:
    await tab.expect("#models", lambda it: it.to_be_enabled())
    await fill(tab, "#message", text)
    await tab.use("#message", lambda box: box.press("Enter"))


async def close_dialog(tab: Tab) -> None:
    await press(tab, "Escape")
    await tab.misses("dialog[open]")


class Look:
    """A tab in one language, whose screens are checked. `faults` is what is wrong with them."""

    def __init__(self, tab: Tab, language: str) -> None:
        self.tab = tab
        self._language = language
        self.faults: list[str] = []

    async def check(self, name: str) -> None:
        """Check what is on the screen in windows of every width."""
        await self._collect(check_everywhere(self.tab, f"{name}-{self._language}"))

    async def check_here(self, name: str) -> None:
        """Check what is on the screen in the window as it is."""
        await self._collect(check_schemes(self.tab, f"{name}-{self._language}"))

    async def _collect(self, checking: Coroutine[Any, Any, None]) -> None:
        try:
            await checking
        except AssertionError as error:
            self.faults.append(str(error))


@pytest_twisted.async_yield_fixture(params=["en-US", "de-DE"])
async def look(chromium: Chromium, request: pytest.FixtureRequest) -> Any:
    tab = await chromium.tab(locale=request.param, reduced_motion="reduce")
    looked = Look(tab, request.param[:2])
    yield looked
    await tab.close()
    assert not looked.faults, "\n".join(looked.faults)


@ensureDeferred
async def test_the_screens_before_somebody_is_logged_in_are_accessible(
    shared: Cluster, look: Look
) -> None:
    tab = look.tab
    error = {"error": {"code": "draining", "message": "The cloud is restarting."}}
    await tab.do(lambda page: serve(page, "/ctllm/session/token", error, 503))
    await tab.open(shared.url)
    await shows(tab, "#cannot-start")
    await look.check("cannot-start")
    await tab.do(lambda page: page.unroute("**/ctllm/session/token"))
    providers = {"providers": [{"name": "acme", "title": "Acme", "issuer": "https://acme.example"}]}
    await tab.do(lambda page: serve(page, "/ctllm/providers", providers))
    await tab.do(lambda page: page.reload())
    await shows(tab, "#providers")
    await look.check("logged-out")
    await tab.open(await shared.create_invite("alice"))
    await shows(tab, "#login")
    await look.check("login")
    await click(tab, "#confirm-login")
    await shows(tab, "#log-out")
    await tab.open(await OllamaCli(shared.cloud_port).ask())
    await shows(tab, "#machine")
    await look.check("machine")
    await click(tab, "#decline-machine")
    await tab.misses("#machine")


@ensureDeferred
async def test_the_chat_is_accessible(shared: Cluster, look: Look) -> None:
    """New, in mid-answer, complete, broken, with thoughts and tools, and with its dialogs."""
    shared.ollama.reset()
    tab = look.tab
    await log_in(tab, shared)
    await shows(tab, "#message")
    await look.check("chat-new")
    lines = (*ANSWER, "```python\nunfinished = ", "1")
    shared.ollama.script("/api/chat", Script(lines=lines, pause_after=(len(lines) - 1, 600)))
    await send(tab, "What is this? " + "long" * 60)
    await tab.sees(".response", "unfinished")
    await look.check("chat-streaming")
    await click(tab, "#stop")
    await shows(tab, ".end.stopped")
    await look.check("chat-stopped")
    await click(tab, ".image-open")
    await look.check_here("chat-image")
    await click(tab, ".question .message-actions button:last-child")
    await shows(tab, ".edit-message")
    await look.check("chat-editing")
    shared.ollama.reset()
    shared.ollama.script("/api/chat", Script(lines=2, error_in_stream=(1, "out of memory")))
    await click(tab, ".editing .main")
    await shows(tab, ".end.broken")
    await look.check("chat-broken")
    await look_at_tools(shared, look)
    await look_at_attachments(look)
    await look_at_chat_settings(look)


async def look_at_tools(shared: Cluster, look: Look) -> None:
    body = "".join(json.dumps({"model": "m", "done": False, **line}) + "\n" for line in CALL)
    head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\n"
    verbatim = f"{head}Content-Length: {len(body)}\r\n\r\n{body}"
    shared.ollama.reset()
    shared.ollama.script("/api/chat", Script(verbatim=verbatim), times=1)
    await send(look.tab, "And the weather?")
    await look.tab.sees(".response:last-child", "It rains.")
    await click(look.tab, ".thinking summary")
    await click(look.tab, ".tool-call summary")
    await look.check("chat-tools")


async def look_at_attachments(look: Look) -> None:
    """Of three files one is no text; the model cannot see the image."""
    tab = look.tab
    await tab.do(lambda page: serve(page, "/api/show", {"capabilities": ["completion"]}))
    files: list[FilePayload] = [
        {"name": "photo.png", "mimeType": "image/png", "buffer": png(300, 100)},
        {"name": "notes.md", "mimeType": "text/markdown", "buffer": b"Notes"},
        {"name": "song.mp3", "mimeType": "audio/mpeg", "buffer": bytes(range(256))},
    ]
    await tab.use("#composer input[multiple]", lambda box: box.set_input_files(files))
    await shows(tab, "#no-vision")
    await shows(tab, ".toast.error")
    await look.check("chat-attachments")
    await click(tab, ".toast button")


async def look_at_chat_settings(look: Look) -> None:
    tab = look.tab
    await click(tab, "#chat-settings-button")
    await fill(tab, "#system-prompt", "Rhyme.")
    await fill(tab, "#preset-name", "Poet")
    await click(tab, ".presets form button")
    await shows(tab, ".preset")
    await fill(tab, "#option-num_ctx", "5")
    await press(tab, "Tab")
    await shows(tab, "#chat-settings .field-error:not(:empty)")
    await look.check("chat-settings")
    await close_dialog(tab)
    await tab.use("h1", lambda heading: heading.first.focus())
    await press(tab, "?")
    await shows(tab, "#shortcuts")
    await look.check("shortcuts")
    await close_dialog(tab)


@ensureDeferred
async def test_the_list_of_conversations_is_accessible(shared: Cluster, look: Look) -> None:
    """In the sidebar and in the drawer: its menus, a search, a new name, deletion."""
    shared.ollama.reset()
    tab = look.tab
    await log_in(tab, shared)
    await send(tab, "How do I fry crêpes?")
    await shows(tab, ".end.complete")
    for width, height in ((1280, 900), (320, 640)):
        await resize(tab, width, height)
        if width == 320:
            await click(tab, "#open-drawer")
        await shows(tab, ".conversation")
        await look.check_here("list")
        await click(tab, "#conversations-menu")
        await look.check_here("list-menu")
        await press(tab, "End")
        await press(tab, "Enter")
        await shows(tab, "#confirmation")
        await look.check_here("list-delete-all")
        await press(tab, "Escape")
        await tab.misses("#confirmation")
        await click(tab, ".conversation button")
        await look.check_here("list-conversation-menu")
        await press(tab, "Enter")
        await shows(tab, ".rename")
        await look.check_here("list-rename")
        await tab.use(".rename", lambda box: box.press("Enter"))
        await fill(tab, "#search", "crepes")
        await shows(tab, ".hit")
        await look.check_here("list-search")
        await fill(tab, "#search", "nothing has this")
        await tab.expect(".hit", lambda it: it.to_have_count(0))
        await look.check_here("list-search-nothing")
        await fill(tab, "#search", "")
        await click(tab, "#sync-status")
        await shows(tab, "#sync-dialog")
        await look.check_here("list-stored")
        await press(tab, "Escape")
        await tab.misses("#sync-dialog")
        await tab.use(".conversation a", lambda link: link.press("Delete"))
        await shows(tab, "#undo-delete")
        await look.check_here("list-deleted")
        await click(tab, "#undo-delete")


@ensureDeferred
async def test_the_settings_are_accessible(shared: Cluster, look: Look) -> None:
    """With the dialogs that make and revoke a key, and what an import says."""
    tab = look.tab
    cli = OllamaCli(shared.cloud_port)
    await log_in(tab, shared)
    await tab.open(await cli.ask())
    await click(tab, "#approve-machine")
    await tab.misses("#machine")
    await show_view(tab, "settings")
    await shows(tab, ".machine")
    for section in ("account", "conversations", "keys", "programs", "machines"):
        await tab.find(f"document.getElementById('settings-{section}').scrollIntoView()")
        await look.check(f"settings-{section}")
    await click(tab, ".machine button")
    await shows(tab, "#confirmation")
    await look.check("settings-remove-machine")
    await click(tab, "#confirmation .danger")
    await tab.misses("#confirmation")
    await click(tab, "#new-key")
    await fill(tab, "#key-form [name=name]", "a key")
    await click(tab, "#key-form [value=some]")
    await click(tab, "#key-form footer .main")
    await shows(tab, "#key-form [role=alert]")
    await look.check("settings-new-key")
    await click(tab, "#key-form [value=all]")
    await click(tab, "#key-form footer .main")
    await shows(tab, "#created-key")
    await look.check("settings-created-key")
    await click(tab, "#created-key footer .main")
    await click(tab, ".api-key:has-text('a key') button")
    await shows(tab, "#confirmation")
    await look.check("settings-revoke-key")
    await click(tab, "#confirmation .danger")
    file: FilePayload = {"name": "x.json", "mimeType": "application/json", "buffer": b"{"}
    await tab.use("#settings-conversations input", lambda box: box.set_input_files(file))
    await shows(tab, ".toast.error")
    await look.check("settings-import-error")


@ensureDeferred
async def test_models_and_status_are_accessible(shared: Cluster, look: Look) -> None:
    shared.ollama.reset()
    tab = look.tab
    pulled = {"status": "pulling 8f", "digest": "sha256:8f", "total": 800_000_000, "completed": 9}
    lines = [pulled, {"error": "no room on the disk"}]
    body = "".join(json.dumps(line) + "\n" for line in lines)
    await tab.do(lambda page: page.route("**/api/pull", lambda route: route.fulfill(body=body)))
    await log_in(tab, shared)
    await show_view(tab, "models")
    await shows(tab, ".model")
    await look.check("models")
    await click(tab, "#open-pull")
    await fill(tab, "#pull-name", "a-model-with-a-very-long-name/" + "x" * 60)
    await press(tab, "Enter")
    await tab.sees("#pull .pull", "no room on the disk")
    await look.check("models-pull")
    await close_dialog(tab)
    for name, item in (("details", 0), ("copy", -2), ("delete", -1)):
        await click(tab, ".model button")
        await shows(tab, "[role=menu]")
        await look.check_here("models-menu")
        await tab.use("[role=menuitem]", partial(choose_item, number=item))
        await shows(tab, "dialog[open]")
        if name == "copy":
            await tab.do(lambda page: serve(page, "/api/copy", {"error": "no such model"}, 404))
            await fill(tab, "#copy-model input", "another")
            await press(tab, "Enter")
            await shows(tab, "#copy-model [role=alert]")
        await look.check(f"models-{name}")
        await close_dialog(tab)
    await show_view(tab, "status")
    await shows(tab, "#ollama[data-state=ok]")
    await look.check("status")
    await click(tab, "#proxy-section button")
    await shows(tab, "#confirmation")
    await look.check("status-stop-proxy")
    await close_dialog(tab)
    await show_view(tab, "privacy")
    await shows(tab, "#privacy")
    await look.check("privacy")


def choose_item(items: Locator, number: int) -> None:
    items.nth(number).click()


@ensureDeferred
async def test_the_screens_for_what_is_missing_are_accessible(shared: Cluster, look: Look) -> None:
    """The test replaces the cloud's list of desktops."""
    cases: dict[str, list[dict[str, Any]]] = {
        "no-desktop": [],
        "no-ollama": [{**DESKTOP, "ollama": "down", "models": []}],
        "no-model": [{**DESKTOP, "models": []}],
        "old-desktop": [{**DESKTOP, "resources": False}],
        "demo-help": [{**DESKTOP, "ollama": "demo", "models": ["demo:echo"]}],
    }
    tab = look.tab
    await log_in(tab, shared)
    for name, desktops in cases.items():
        await tab.do(partial(serve, path="/ctllm/desktops", body={"desktops": desktops}))
        await tab.do(lambda page: page.reload())
        await shows(tab, f"#{name}")
        if name == "no-desktop":
            await click(tab, "#create-pairing")
            await shows(tab, "#pairing")
        if name == "demo-help":
            await click(tab, "#demo-help summary")
            await shows(tab, "#demo-help pre")
        await look.check(name)
        await tab.do(lambda page: page.unroute("**/ctllm/desktops"))
    error = {"error": {"code": "draining", "message": "The cloud is restarting."}}
    await tab.do(lambda page: serve(page, "/health", error, 503))
    await tab.do(lambda page: page.reload())
    await shows(tab, "#no-server")
    await look.check("no-server")
    await tab.do(lambda page: page.unroute("**/health"))
    await tab.misses("#no-server")
    await tab.do(lambda page: page.context.set_offline(True))
    await shows(tab, "#no-network")
    await look.check("no-network")
    await tab.do(lambda page: page.context.set_offline(False))
    await tab.misses("#no-network")


@ensureDeferred
async def test_what_the_page_says_when_something_fails_is_accessible(
    shared: Cluster, look: Look
) -> None:
    """A desktop that stays away, one that cannot keep conversations, a part that is not there."""
    shared.ollama.reset()
    tab = look.tab
    await log_in(tab, shared)
    await tab.do(
        lambda page: page.route("**/ctllm/desktop/generations*", lambda route: route.abort())
    )
    await send(tab, "Are you there?")
    await shows(tab, ".reconnecting")
    await tab.find("void (ahead = 180)")
    await shows(tab, ".silent-answer")
    await look.check("chat-silent")
    await click(tab, ".silent-answer button:last-child")
    await shows(tab, ".end.stopped")
    down = {"desktops": [{**DESKTOP, "ollama": "down", "models": []}]}
    await tab.do(lambda page: serve(page, "/ctllm/desktops", down))
    await tab.do(lambda page: page.reload())
    await shows(tab, ".banner")
    await tab.expect("#models option:checked", lambda it: it.to_contain_text("llama3.2"))
    await look.check("chat-banner")
    await tab.do(lambda page: page.unroute("**/ctllm/desktops"))
    kept = {"id": "1" * 32, "revision": 1, "size": 9, "deleted": False}
    body = {"revision": 1, "conversations": [kept], "damaged": []}
    full = {"error": {"code": "internal", "message": "The disk of the desktop is full."}}
    await tab.do(lambda page: serve(page, "/ctllm/desktop/conversations*", body))
    await tab.do(lambda page: serve(page, "/ctllm/desktop/conversations/*", full, 500))
    await tab.do(lambda page: page.reload())
    await look_at_drawer(look, "#sync-question", "list-question")
    await click(tab, "#sync-question .main")
    await click(tab, "#sync-status")
    await shows(tab, "#sync-dialog .error")
    await look.check("list-failing")
    await close_dialog(tab)
    await tab.do(lambda page: page.route("**/settings-view-*.js", lambda route: route.abort()))
    await click(tab, "#open-settings")
    await shows(tab, "#not-loaded")
    await look.check("not-loaded")
    await tab.do(lambda page: page.add_init_script(FORBID_STORAGE))
    await tab.do(lambda page: page.reload())
    await look_at_drawer(look, "#storage-problem", "list-not-stored")
    tab.complaints = [each for each in tab.complaints if "keeps no conversations" not in each]
    await tab.do(lambda page: page.goto("about:blank"))


async def look_at_drawer(look: Look, selector: str, name: str) -> None:
    """Check the sidebar, and then the drawer, with something in it."""
    await shows(look.tab, selector)
    await look.check_here(name)
    await resize(look.tab, 320, 640)
    await click(look.tab, "#open-drawer")
    await shows(look.tab, selector)
    await look.check_here(name)
    await click(look.tab, "#close-drawer")
    await resize(look.tab, 1280, 900)


@ensureDeferred
async def test_the_first_run_on_a_desktop_is_accessible(cluster: Cluster, look: Look) -> None:
    """Each step as far as it goes. The test changes what the desktop says of itself."""
    desktop = LocalDesktop(cluster)
    await desktop.start()
    tab = look.tab
    await tab.hurry()
    await tab.open(f"http://127.0.0.1:{desktop.port}/")
    await shows(tab, "#logged-out .command")
    await look.check("setup-logged-out")
    url, code = await desktop.show("--local")
    await tab.open(f"{url}/#invite={code}")
    await shows(tab, "#setup")
    known = await desktop.get("/ctllm/desktop/setup", await desktop.log_in())

    async def say(**changes: Any) -> None:
        body = {**known, **changes}
        await tab.do(lambda page: page.unroute("**/ctllm/desktop/setup"))
        await tab.do(lambda page: serve(page, "/ctllm/desktop/setup", body))

    await look.check("setup-ollama-up")
    await say(ollama={"state": "demo", "url": "http://127.0.0.1:11434", "version": ""})
    await shows(tab, "#setup .tabs")
    await look.check("setup-ollama")
    await say()
    await click(tab, "#setup-next")
    await shows(tab, "#setup-cloud")
    await look.check("setup-cloud")
    providers = [{"name": "acme", "title": "Acme"}]
    link = {"url": "https://acme.example", "user_code": "", "message": "", "providers": providers}
    code_rows = ["0" * 29, *["01" * 14 + "0"] * 27, "0" * 29]
    logins = {
        "choose": {**link, "url": ""},
        "failed": {**link, "message": "The login was denied."},
        "browser": link,
        "code": {**link, "user_code": "ABCD-EFGH", "qr_code": code_rows},
    }
    for state, login in logins.items():
        await say(login={**login, "state": state})
        await shows(tab, SIGNS[state])
        await look.check(f"setup-{state}")
    cloud = {"state": "connected", "url": "https://cloud.example", "user": "ada", "message": ""}
    await say(cloud=cloud)
    await shows(tab, "#setup-connected")
    await look.check("setup-connected")
    await click(tab, "#setup-next")
    await look.check("setup-model")
    await tab.do(lambda page: serve(page, "/ctllm/desktops", {"desktops": [NO_MODEL]}))
    await shows(tab, "#pull-first")
    await look.check("setup-no-model")
    await say(tray={"installed": False, "autostart": False})
    await click(tab, "#setup-next")
    await shows(tab, "#setup .command")
    await look.check("setup-tray")
    await tab.do(lambda page: serve(page, "/ctllm/desktop/setup/autostart", NO_FOLDER, 500))
    await click(tab, "#setup-autostart")
    await shows(tab, ".toast.error")
    await tab.expect("#setup-autostart", lambda it: it.not_to_be_checked())
    await look.check("setup-failed")


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
