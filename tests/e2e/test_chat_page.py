"""The chat page in a real Chromium, served by the real processes."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast

import pytest
from playwright.sync_api import Page
from pytest_twisted import ensureDeferred

from tests.e2e.chromium import Chromium, Tab
from tests.e2e.cluster import Cluster, wait_until
from tests.fake_ollama import Record, Script
from tests.ports import free_port

#: Seconds to load a model; longer than any test waits, so that only a cancellation ends it.
LOAD_SECONDS = 300.0
NODES = ("browser", "cloud", "proxy", "desktop", "ollama")
RESPONSE = ".response:last-child"


@pytest.fixture(autouse=True)
def reset_fake_ollama(request: pytest.FixtureRequest) -> None:
    """Remove the fake Ollama's scripts and records of the previous test."""
    if "shared" in request.fixturenames:
        request.getfixturevalue("shared").ollama.reset()


async def log_in(tab: Tab, cluster: Cluster, name: str = "alice") -> None:
    await tab.open(await cluster.create_invite(name))
    await tab.click(f"Log in as {name}")
    await tab.sees("#user-name", name)


async def log_in_until_ready(tab: Tab, cluster: Cluster, name: str = "alice") -> None:
    """Log in, and wait until the Send button is enabled."""
    await log_in(tab, cluster, name)
    await tab.expect("#send", lambda it: it.to_be_enabled())


async def send_message(tab: Tab, message: str) -> None:
    """Type a message and send it with Enter."""
    await tab.use("#message", lambda box: box.fill(message))
    await tab.use("#message", lambda box: box.press("Enter"))


async def expect_path(tab: Tab, **states: str) -> None:
    """Wait until the nodes of the path have these states."""

    def has_text(state: str) -> Callable[[Any], None]:
        return lambda it: it.to_have_text(state)

    def has_state(state: str) -> Callable[[Any], None]:
        return lambda it: it.to_have_attribute("data-state", state)

    for name, state in states.items():
        await tab.expect(f"#{name} .state", has_text(state))
        await tab.expect(f"#{name}", has_state(state))


async def wait_for_chat_request(cluster: Cluster) -> Record:
    """Wait until Ollama receives a chat request."""
    return await cluster.ollama.wait_for(lambda record: record.path == "/api/chat")


def chat_request_bodies(cluster: Cluster) -> list[dict[str, Any]]:
    """Return the bodies of Ollama's chat requests, oldest first."""
    return [json.loads(r.body or b"") for r in cluster.ollama.requests if r.path == "/api/chat"]


async def response_text(tab: Tab) -> str:
    """Return the text of the last response that the page shows."""
    return await tab.do(lambda page: page.locator(f"{RESPONSE} .text").inner_text())


# -- logging in and out


@ensureDeferred
async def test_an_invite_link_logs_in_after_confirmation(shared: Cluster, tab: Tab) -> None:
    """The invite is removed from the address and written to no log."""
    link = await shared.create_invite("alice")
    await tab.open(link)
    await tab.sees("#login", "Log in as alice?")
    await tab.sees("#login", "You are not logged in.")
    assert await tab.find("location.href") == f"{shared.url}/"
    await tab.click("Log in as alice")
    await tab.sees("#account", "Logged in as alice")
    await tab.misses("#logged-out")
    assert await tab.find("location.href") == f"{shared.url}/"
    secret = link.partition("#invite=")[2]
    assert secret and all(secret not in program.output for program in shared.processes)


@ensureDeferred
async def test_a_logged_out_page_shows_how_to_log_in(shared: Cluster, tab: Tab) -> None:
    """The path is known up to the cloud; chat and account are hidden."""
    await tab.open(shared.url)
    await tab.sees("#logged-out", "ctllm invite")
    await expect_path(
        tab, browser="ok", cloud="ok", proxy="unknown", desktop="unknown", ollama="unknown"
    )
    await tab.misses("#chat")
    await tab.misses("#account")


@ensureDeferred
async def test_a_used_invite_is_refused_and_keeps_the_login(shared: Cluster, tab: Tab) -> None:
    link = await shared.create_invite("alice")
    await shared.log_in(link)
    await tab.open(link)
    await tab.sees("#logged-out-reason", "This login link has expired or was used before.")
    assert await tab.find("location.hash") == ""
    await log_in(tab, shared)
    await tab.open(link)
    await tab.sees("#status", "or was used before. You are still logged in.")
    await tab.sees("#user-name", "alice")


@ensureDeferred
async def test_an_invite_link_changes_the_user_only_after_confirmation(
    shared: Cluster, tab: Tab
) -> None:
    """Until the user confirms, the invite stays valid; a new user sees no draft of the old one."""
    link = await shared.create_invite("bob")
    await tab.open(link)
    await tab.click("Cancel")
    await tab.sees("#logged-out", "You are not logged in")
    await log_in_until_ready(tab, shared)
    await tab.use("#message", lambda box: box.fill("for alice alone"))
    await tab.do(lambda page: page.evaluate("link => { location.href = link; }", link))
    await tab.sees("#login-title", "Log in as bob?")
    await tab.sees("#login-effect", "You are logged in as alice")
    assert await tab.find("document.activeElement.id") == "decline-login"
    assert await tab.find("location.hash") == ""
    await tab.click("Stay alice")
    await tab.sees("#user-name", "alice")
    await tab.expect("#message", lambda it: it.to_have_value("for alice alone"))
    await tab.do(lambda page: page.evaluate("link => { location.href = link; }", link))
    await tab.click("Log in as bob")
    await tab.expect("#user-name", lambda it: it.to_have_text("bob"))
    await tab.expect("#message", lambda it: it.to_have_value(""))
    assert not [body for body in chat_request_bodies(shared) if "alice alone" in str(body)]


@ensureDeferred
async def test_an_invite_for_the_present_user_is_used_without_confirmation(
    shared: Cluster, tab: Tab
) -> None:
    await log_in(tab, shared)
    link = await shared.create_invite("alice")
    await tab.do(lambda page: page.evaluate("link => { location.href = link; }", link))

    async def is_used() -> bool:
        body = {"invite": link.partition("#invite=")[2]}
        return (await shared.request("POST", "/ctllm/session/introspect", body))[0] == 401

    await wait_until(is_used, "the invite to be used")
    await tab.misses("#login")
    await tab.sees("#user-name", "alice")


@ensureDeferred
async def test_logging_in_or_out_updates_other_tabs(shared: Cluster, tab: Tab) -> None:
    """They show the new user, and clear the conversation and the draft of the old one."""
    await log_in_until_ready(tab, shared)
    await send_message(tab, "a message from alice")
    await tab.sees(f"{RESPONSE} .end", "Complete.")
    await tab.use("#message", lambda box: box.fill("what alice began to write"))
    link = await shared.create_invite("bob")
    other = await tab.do(lambda page: page.context.new_page())
    await tab.do(lambda _: other.goto(link))
    await tab.do(lambda _: other.get_by_role("button", name="Log in as bob").click())
    await tab.expect("#user-name", lambda it: it.to_have_text("bob"))
    await tab.sees("#status", "You are logged in as bob now, from another tab.")
    await tab.expect("#message", lambda it: it.to_have_value(""))
    await tab.expect("#log article", lambda it: it.to_have_count(0))
    await tab.do(lambda _: other.get_by_role("button", name="Log out").click())
    await tab.sees("#logged-out-reason", "You logged out in another tab.")
    await tab.misses("#chat")


@ensureDeferred
async def test_the_session_survives_a_reload_and_ends_with_logging_out(
    shared: Cluster, tab: Tab
) -> None:
    """An HttpOnly cookie holds it; after logging out, the old cookie is invalid."""
    await log_in(tab, shared)
    await tab.do(lambda page: page.reload())
    await tab.sees("#user-name", "alice")
    [cookie] = await tab.do(lambda page: page.context.cookies())
    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (
        "ctllm-session", True, "Strict", "/ctllm/session",
    )  # fmt: skip
    await tab.click("Log out")
    await tab.sees("#logged-out-reason", "You have logged out.")
    await tab.misses("#chat")
    assert await tab.do(lambda page: page.context.cookies()) == []
    await tab.do(lambda page: page.reload())
    await tab.sees("#logged-out", "You are not logged in")
    await tab.do(lambda page: page.context.add_cookies([cast(Any, cookie)]))
    await tab.do(lambda page: page.reload())
    await tab.sees("#logged-out", "You are not logged in")


@ensureDeferred
async def test_the_access_token_is_renewed_before_it_expires(shared: Cluster, tab: Tab) -> None:
    """Without a session, renewal fails and the page logs out."""
    await tab.hurry()
    await log_in_until_ready(tab, shared)

    def after(page: Page, minutes: int) -> int:
        with page.expect_response("**/ctllm/session/token") as renewal:
            page.evaluate(f"ahead = {minutes * 60}")
        return renewal.value.status

    assert await tab.do(lambda page: after(page, 10)) == 200
    await expect_path(tab, proxy="ok", ollama="ok")
    await tab.do(lambda page: page.context.clear_cookies())
    assert await tab.do(lambda page: after(page, 20)) == 401
    await tab.sees("#logged-out-reason", "Your session has ended.")


# -- chat


@ensureDeferred
async def test_a_response_is_shown_while_it_streams(shared: Cluster, tab: Tab) -> None:
    """The page appends each chunk, and marks the end as complete."""
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
    assert await response_text(tab) == "".join(words)
    await tab.expect("#message", lambda it: it.to_have_value(""))
    await tab.misses("#stop")


@ensureDeferred
async def test_requests_carry_the_conversation_until_a_new_chat(shared: Cluster, tab: Tab) -> None:
    await log_in_until_ready(tab, shared)
    await tab.use("#models", lambda box: box.select_option("nomic-embed-text:latest"))
    await tab.use("#message", lambda box: box.fill("first"))
    await tab.use("#message", lambda box: box.press("Shift+Enter"))
    await tab.use("#message", lambda box: box.press_sequentially("line"))
    await tab.click("Send")
    await tab.sees(f"{RESPONSE} .end", "Complete.")
    first_response = await response_text(tab)
    await send_message(tab, "second")
    await tab.expect(".end", lambda it: it.to_have_text(["Complete.", "Complete."]))
    assert "second" in await response_text(tab)
    bodies = chat_request_bodies(shared)
    assert [body["model"] for body in bodies] == ["nomic-embed-text:latest"] * 2
    assert bodies[1]["messages"] == [
        {"role": "user", "content": "first\nline"},
        {"role": "assistant", "content": first_response},
        {"role": "user", "content": "second"},
    ]
    await tab.click("New chat")
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
        # Either message may appear: an error sent right before the connection closes can be lost.
        (
            Script(break_after=2, pause_after=(2, 0.5)),
            r"The connection was interrupted\.|Error: .*",
        ),
        (Script(error_in_stream=(2, "it fell over")), "Error: it fell over.*"),
    ],
    ids=["connection-lost", "error"],
)
@ensureDeferred
async def test_an_interrupted_response_is_marked_as_incomplete(
    shared: Cluster, tab: Tab, script: Script, reason: str
) -> None:
    """The text received so far stays."""
    shared.ollama.script("/api/chat", script)
    await log_in_until_ready(tab, shared)
    await send_message(tab, "tell me something long")
    notice = re.compile(rf"This response is incomplete\. ({reason})")
    await tab.expect(f"{RESPONSE} :is(.broken, .error)", lambda it: it.to_have_text(notice))
    assert await response_text(tab) == "This is"


@ensureDeferred
async def test_a_refused_message_returns_to_the_input(shared: Cluster, tab: Tab) -> None:
    """The page shows Ollama's error; Enter sends the message again."""
    refusal = Script(error_before=(500, '{"error":"out of memory"}', {}))
    shared.ollama.script("/api/chat", refusal, times=1)
    await log_in_until_ready(tab, shared)
    await send_message(tab, "hello")
    await tab.sees(f"{RESPONSE} .error", "Error: out of memory")
    await tab.expect("#message", lambda it: it.to_have_value("hello"))
    await tab.use("#message", lambda box: box.press("Enter"))
    await tab.sees(f"{RESPONSE} .end", "Complete.")


@ensureDeferred
async def test_a_response_is_marked_as_interrupted_when_the_cloud_is_killed(
    cluster: Cluster, tab: Tab
) -> None:
    cloud = await cluster.start_cloud()
    cluster.ollama, port = cluster.start_fake_ollama()
    cluster.ollama.script("/api/chat", Script(lines=1000, line_interval=0.05))
    await cluster.start_desktop("alice", port)
    await log_in_until_ready(tab, cluster)
    await send_message(tab, "hello")
    await tab.sees(RESPONSE, "word")
    await cloud.stop(signal.SIGKILL)
    notice = "This response is incomplete. The connection was interrupted."
    await tab.sees(f"{RESPONSE} .broken", notice)


@ensureDeferred
async def test_the_demo_model_has_a_badge(shared: Cluster, tab: Tab) -> None:
    """The desktop's name is shown as text, even if it contains markup."""
    name = "<b>attic</b>"
    await shared.start_desktop("dora", free_port(), "--demo=on", f"--desktop-name={name}")
    await log_in_until_ready(tab, shared, "dora")
    await expect_path(tab, desktop="ok", ollama="demo")
    await tab.expect("#desktop .detail", lambda it: it.to_have_text(name))
    await tab.sees("#demo", "demo model")
    await send_message(tab, "hello there")
    await tab.sees(RESPONSE, "demo:echo")
    await tab.sees(f"{RESPONSE} .end", "Complete.")
    assert "hello there" in await response_text(tab)


# -- safety


MARKUP = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@ensureDeferred
async def test_markup_in_messages_and_responses_is_shown_as_text(shared: Cluster, tab: Tab) -> None:
    shared.ollama.script("/api/chat", Script(lines=(MARKUP, " <b>done</b>")))
    await log_in_until_ready(tab, shared)
    await send_message(tab, MARKUP)
    await tab.sees(f"{RESPONSE} .end", "Complete.")
    assert await response_text(tab) == f"{MARKUP} <b>done</b>"
    await tab.expect(".question .text", lambda it: it.to_have_text(MARKUP))
    assert await tab.find("document.querySelector('#log :is(img, script, b)')") is None
    assert await tab.find("document.title") == "ctllm"


@ensureDeferred
async def test_the_content_security_policy_blocks_injected_markup_and_code(
    shared: Cluster, chromium: Chromium
) -> None:
    """Closing the tab then fails: other tests notice a violation of the policy, too."""
    tab = await chromium.tab()
    await tab.open(shared.url)
    await tab.do(
        lambda page: page.evaluate(
            """async () => {
                const script = document.createElement('script');
                const policy = trustedTypes.createPolicy('in', {createScript: text => text});
                for (const act of [
                    () => { document.body.innerHTML = '<b>in</b>'; },
                    () => { script.text = policy.createScript('document.title = "owned"'); },
                    () => document.body.append(script),
                    () => document.body.setAttribute('style', 'color: red'),
                    () => fetch('http://127.0.0.1:9/'),
                ]) { try { await act(); } catch {} }
            }"""
        )
    )
    expected = {"require-trusted-types-for", "script-src-elem", "style-src-attr", "connect-src"}
    assert set(await tab.blocked()) == expected
    assert await tab.find("document.title") == "ctllm"
    with pytest.raises(AssertionError, match="connect-src"):
        await tab.close()


# -- layout


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360), ("light", 360)])
@ensureDeferred
async def test_the_page_fits_the_width_of_the_window(
    shared: Cluster, chromium: Chromium, tmp_path: Any, scheme: str, width: int
) -> None:
    """Nothing overflows horizontally; the screenshots are for review by eye."""
    tab = await chromium.tab(color_scheme=scheme, viewport={"width": width, "height": 800})
    script = Script(lines=("A very " + "l" * 200 + "ong word. ", "Then some more. " * 20))
    shared.ollama.script("/api/chat", script)

    async def check_width(name: str) -> None:
        file = tmp_path / f"{scheme}-{width}-{name}.png"
        await tab.do(lambda page: page.screenshot(path=file, full_page=True))
        assert await tab.find("document.documentElement.scrollWidth") <= width

    await tab.open(shared.url)
    await tab.sees("#cloud .detail", "ctllm")
    await check_width("logged-out")
    await tab.open(await shared.create_invite("a" * 64))
    await tab.sees("#login", "Log in as aaa")
    await check_width("login")
    await tab.click("Cancel")
    await log_in_until_ready(tab, shared, "alice")
    await check_width("ready")
    await tab.open(await shared.create_invite("bob"))
    await tab.sees("#login", "You are logged in as alice")
    await check_width("change-user")
    await tab.click("Stay alice")
    await tab.click("Settings")
    await tab.sees("#settings-desktops", "Ollama is running")
    await check_width("settings")
    await tab.click("Close")
    await send_message(tab, "What is " + "long" * 60 + "?")
    await tab.sees(f"{RESPONSE} .end", "Complete.")
    await check_width("response")
    await tab.close()
