"""The settings of the page, and what it says about privacy, in a real Chromium."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from playwright.sync_api import Page
from pytest_twisted import ensureDeferred

from tests.e2e.chromium import Chromium, Tab
from tests.e2e.cluster import Cluster
from tests.e2e.page_checks import LAYOUTS, check_screen, log_in, show_view
from tests.e2e.test_loopback_page import LocalDesktop

EDITOR, NARROW = (f".api-key:has-text('{name}')" for name in ("editor", "narrow"))


async def show_settings(tab: Tab, cluster: Cluster) -> None:
    await log_in(tab, cluster)
    await show_view(tab, "settings")
    await tab.sees("#settings-user", "alice")


async def prefer(tab: Tab, name: str, value: str) -> None:
    await tab.use(f"[data-preference={name}]", lambda select: select.select_option(value))


async def choose_program(tab: Tab, name: str) -> None:
    await tab.use("#program", lambda select: select.select_option(name))


@ensureDeferred
async def test_settings_open_from_a_link_and_from_the_page(shared: Cluster, tab: Tab) -> None:
    """Closing them returns to the chat."""
    link = await shared.create_invite("alice")
    await tab.open(f"{link}&view=settings")
    await tab.click("Log in as alice")
    await tab.sees("#settings-user", "alice")
    await tab.sees("#settings-url", shared.url)
    await tab.sees("#settings-desktops", "Ollama is running")
    assert await tab.find("location.hash") == "#view=settings"
    await tab.click("Close")
    await tab.misses("#settings")
    await tab.do(lambda page: page.wait_for_url(f"{shared.url}/"))
    await tab.click("Settings")
    await tab.sees("#settings-user", "alice")


@ensureDeferred
async def test_preferences_apply_at_once_and_before_the_first_paint(
    shared: Cluster, tab: Tab
) -> None:
    """The theme is there when the body is, before any other script has run."""
    await show_settings(tab, shared)
    await prefer(tab, "theme", "dark")
    await prefer(tab, "textSize", "large")
    await prefer(tab, "language", "de")
    await tab.sees("#settings h1", "Einstellungen")
    read = "JSON.stringify({...document.documentElement.dataset})"
    expected = {"theme": "dark", "textSize": "large"}
    assert json.loads(await tab.find(read)) == expected
    observe = f"""new MutationObserver((_, observer) => {{
        if (!document.body) return;
        observer.disconnect();
        window.atFirst = {read};
    }}).observe(document, {{childList: true, subtree: true}})"""
    await tab.do(lambda page: page.add_init_script(observe))
    await tab.do(lambda page: page.reload())
    await tab.sees("#settings h1", "Einstellungen")
    assert json.loads(await tab.find("window.atFirst")) == expected
    assert await tab.find("document.documentElement.lang") == "de"
    await prefer(tab, "language", "system")
    await tab.sees("#settings h1", "Settings")


@ensureDeferred
async def test_a_preference_that_is_damaged_is_ignored(shared: Cluster, tab: Tab) -> None:
    await show_settings(tab, shared)
    for stored in ("{", "null", '{"theme": {"toString": 1}, "language": "../x"}'):
        await tab.find(f"localStorage.setItem('ctllm.preferences', {json.dumps(stored)})")
        await tab.do(lambda page: page.reload())
        await tab.sees("#settings h1", "Settings")
    await tab.find("localStorage.removeItem('ctllm.preferences')")


@ensureDeferred
async def test_another_user_sees_their_own_settings(shared: Cluster, tab: Tab) -> None:
    """Whoever logs in while the settings are open; the key of the other one is gone."""
    await show_settings(tab, shared)
    await tab.sees("#settings-keys", "tests")
    link = await shared.create_invite("bob")
    await tab.find(f"void (location.hash = {json.dumps(link.partition('/#')[2])})")
    await tab.click("Log in as bob")
    await tab.sees("#user-name", "bob")
    await show_view(tab, "settings")
    await tab.sees("#settings-user", "bob")
    await tab.sees("#settings-keys", "There are no API keys.")


@ensureDeferred
async def test_conversations_are_exported_deleted_and_imported(shared: Cluster, tab: Tab) -> None:
    """The settings say how many there are, and where they are kept."""
    text = "# A plan\n\n<!-- user 2026-11-29T00:00:00.000Z -->\n## You\n\nWater the plants.\n"
    file: Any = {"name": "plan.md", "mimeType": "text/markdown", "buffer": text.encode()}
    await show_settings(tab, shared)
    await tab.sees("#settings-conversations", "0 conversations are in this browser.")
    choose_file = "#settings-conversations input[type=file]"
    await tab.use(choose_file, lambda box: box.set_input_files([file]))
    await tab.sees(".toasts", "1 conversation was imported.")
    await tab.sees("#settings-conversations", "1 conversation is in this browser.")

    def export(page: Page) -> tuple[str, str]:
        with page.expect_download() as download:
            page.get_by_role("button", name="Export all").click()
        return download.value.suggested_filename, download.value.path().read_text()

    name, content = await tab.do(export)
    assert name.startswith("ctllm ") and name.endswith(".json"), name
    [conversation] = json.loads(content)["conversations"]
    assert "Water the plants." in json.dumps(conversation)
    await tab.click("Delete all")
    await tab.sees("#confirmation", "Delete all conversations?")
    await tab.use("#confirmation .danger", lambda button: button.click())
    await tab.sees("#settings-conversations", "0 conversations are in this browser.")
    exported: Any = {"name": name, "mimeType": "application/json", "buffer": content.encode()}
    await tab.use(choose_file, lambda box: box.set_input_files([exported]))
    await tab.sees("#settings-conversations", "1 conversation is in this browser.")
    broken: Any = {"name": "x.json", "mimeType": "application/json", "buffer": b"{}"}
    await tab.use(choose_file, lambda box: box.set_input_files([broken]))
    await tab.sees(".toasts", "no conversations in it")
    await tab.click("Where they are kept")
    await tab.sees("#sync-dialog", "This browser")
    await tab.do(lambda page: page.keyboard.press("Escape"))
    await tab.misses("#sync-dialog")


@ensureDeferred
async def test_an_api_key_is_created_shown_once_and_revoked(shared: Cluster, tab: Tab) -> None:
    """The snippets have it until the settings are left; afterwards nothing of the page has it."""
    await show_settings(tab, shared)
    await tab.click("New API key")
    await tab.use("#key-form input[name=name]", lambda box: box.fill("editor"))
    await tab.click("Create")
    await tab.sees("#created-key", "it is shown this once")
    key = await tab.do(lambda page: page.locator("#created-key pre").inner_text())
    await tab.click("Done")
    await tab.sees(EDITOR, "editor")
    await tab.sees(EDITOR, "may use models · does not expire")
    await tab.sees("#steps", f"export OLLAMA_API_KEY={key}")
    await tab.sees("#steps", shared.url)
    status, _, _ = await shared.request("GET", "/api/tags", token=key)
    assert status == 200
    await show_view(tab, "status")
    await tab.sees("#status-view", "Connection")
    await show_view(tab, "settings")
    await tab.sees(EDITOR, "last used")
    await tab.sees("#steps", "YOUR-KEY")
    assert key not in await tab.find("document.documentElement.outerHTML")
    await tab.click("Revoke editor")
    await tab.sees("#confirmation", "Revoke the key “editor”?")
    await tab.use("#confirmation .danger", lambda button: button.click())
    await tab.misses(EDITOR)
    status, _, _ = await shared.request("GET", "/api/tags", token=key)
    assert status == 401


@ensureDeferred
async def test_an_api_key_may_be_limited(shared: Cluster, tab: Tab) -> None:
    """To some models, a number of requests, and a time."""
    [model, other] = shared.ollama.models
    await show_settings(tab, shared)
    await tab.click("New API key")
    await tab.use("#key-form input[name=name]", lambda box: box.fill("narrow"))
    await tab.do(lambda page: page.get_by_label("only these").check())
    await tab.click("Create")
    await tab.sees("#key-form [role=alert]", "Choose at least one model.")
    await tab.do(lambda page: page.get_by_role("checkbox", name=model).check())
    await tab.use("#key-form select[name=lifetime]", lambda box: box.select_option("week"))
    await tab.use("#key-form input[name=rate]", lambda box: box.fill("30"))
    await tab.click("Create")
    key = await tab.do(lambda page: page.locator("#created-key pre").inner_text())
    await tab.click("Done")
    await tab.sees(NARROW, f"only {model} · 30 requests a minute · expires in ")
    for name, expected in ((model, 200), (other, 403)):
        status, _, _ = await shared.request("POST", "/api/show", {"model": name}, token=key)
        assert status == expected, name
    await tab.click("New API key")
    await tab.use("#key-form input[name=name]", lambda box: box.fill("narrow"))
    await tab.click("Create")
    await tab.sees("#key-form [role=alert]", "narrow")
    await tab.do(lambda page: page.keyboard.press("Escape"))
    await tab.misses("#key-form")
    await tab.click("Revoke narrow")
    await tab.use("#confirmation .danger", lambda button: button.click())
    await tab.misses(NARROW)


@ensureDeferred
async def test_each_program_has_lines_with_the_address_of_this_cloud(
    shared: Cluster, tab: Tab
) -> None:
    """They are those of docs/clients.md, and are copied as they are."""
    await show_settings(tab, shared)
    await tab.do(lambda page: page.context.grant_permissions(["clipboard-read", "clipboard-write"]))
    programs = await tab.find("[...document.querySelectorAll('#program option')].map(o => o.value)")
    assert len(programs) > 20
    for program in programs:
        await choose_program(tab, program)
        text = await tab.do(lambda page: page.locator("#settings-programs").inner_text())
        assert shared.url in text or "cannot use the cloud directly" in text, program
    await choose_program(tab, "openai")
    await tab.use("#steps .copy", lambda button: button.click())
    await tab.sees("#steps .copy", "Copied")
    copied = await tab.find("navigator.clipboard.readText()")
    assert f"export OPENAI_BASE_URL={shared.url}/v1 OPENAI_API_KEY=YOUR-KEY" in copied


@ensureDeferred
async def test_the_privacy_page_says_what_is_where(shared: Cluster, tab: Tab) -> None:
    """Also to who is not logged in."""
    await tab.open(f"{shared.url}/#view=privacy")
    for words in ("This browser", "The cloud", "Your proxy", "Your desktop", "audit log"):
        await tab.sees("#privacy", words)


@pytest.mark.parametrize(("scheme", "width"), LAYOUTS)
@ensureDeferred
async def test_the_settings_are_accessible_and_fit_the_window(
    shared: Cluster, chromium: Chromium, scheme: str, width: int
) -> None:
    tab = await chromium.tab(color_scheme=scheme, viewport={"width": width, "height": 800})
    await show_settings(tab, shared)
    await tab.sees("#steps", shared.url)
    await check_screen(tab, "settings")
    for section in ("general", "keys", "programs", "machines"):
        await tab.find(f"document.getElementById('settings-{section}').scrollIntoView()")
        await check_screen(tab, f"settings-{section}")
    await tab.click("New API key")
    await tab.sees("#key-form", "A name")
    await check_screen(tab, "settings-new-key")
    await tab.do(lambda page: page.keyboard.press("Escape"))
    await show_view(tab, "privacy")
    await tab.sees("#privacy", "Your desktop")
    await check_screen(tab, "privacy")
    await tab.close()


@ensureDeferred
async def test_everything_fits_in_german_and_in_the_largest_text(
    shared: Cluster, chromium: Chromium
) -> None:
    """German words are longer; the text of the largest size is 44 % larger."""
    tab = await chromium.tab(locale="de-DE", viewport={"width": 320, "height": 800})
    link = await shared.create_invite("alice")
    preferences: dict[str, Any] = {"textSize": "largest", "language": "de"}
    script = f"localStorage.setItem('ctllm.preferences', {json.dumps(json.dumps(preferences))})"
    await tab.do(lambda page: page.add_init_script(script))
    await tab.open(link)
    await tab.use("#confirm-login", lambda button: button.click())
    await tab.misses("#login")
    for view, heading in (
        ("settings", "Einstellungen"),
        ("status", "Status"),
        ("models", "Modelle"),
        ("privacy", "gespeichert"),
    ):
        await show_view(tab, view)
        await tab.sees("main h1", heading)
        await check_screen(tab, f"{view}-german")
    await tab.close()


@ensureDeferred
async def test_the_page_of_a_desktop_shows_what_this_machine_has(
    cluster: Cluster, chromium: Chromium
) -> None:
    """No cloud, no proxy, no machines; programs here need no key."""
    desktop = LocalDesktop(cluster)
    await desktop.start("--desktop-name=attic")
    tab = await chromium.tab()
    url, code = await desktop.show()
    await tab.open(f"{url}/#invite={code}&view=status")
    await tab.sees("#path", "Ollama")
    nodes = "[...document.querySelectorAll('#path li')].map(it => `${it.id} ${it.dataset.state}`)"
    await tab.expect("#ollama[data-state=ok]", lambda it: it.to_be_visible())
    assert await tab.find(nodes) == ["browser ok", "desktop ok", "ollama ok"]
    await tab.sees("#desktop .detail", "attic")
    await tab.expect("#status-view", lambda it: it.not_to_contain_text(re.compile("proxy", re.I)))
    await tab.sees("#status-view", "The time is the round trip")
    await tab.use(".preference", lambda select: select.select_option("never"))
    await tab.sees(".toasts", "The apps on attic use this from now on.")
    await tab.do(lambda page: page.reload())
    await tab.expect(".preference", lambda it: it.to_have_value("never"))
    await check_screen(tab, "status-loopback")
    await show_view(tab, "settings")
    await tab.sees("#steps", "Programs on this machine need no key.")
    await tab.sees("#steps", f"curl {url}/api/generate")
    await tab.misses("#settings-machines")
    await check_screen(tab, "settings-loopback")
    await tab.close()
